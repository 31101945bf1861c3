"""`auffusion sweep`: what more steps or more guidance buy, and what they cost."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json as jsonlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from auffusion_cli.cli import console, options
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import DataError, OutputExistsError, UsageError
from auffusion_cli.files import clear_unfinished, folder_of

if TYPE_CHECKING:
    from auffusion_cli.checkpoints.names import Checkpoint
    from auffusion_cli.evaluation.result import Metric
    from auffusion_cli.requests.prompts import PromptLine
    from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
    from auffusion_cli.tasks.sweep import Cell, CellInputs, ScoredCell

T = TypeVar("T")

MAX_CELLS = 1_000
PICTURE = "curves.png"
PLAIN_NAME = re.compile(r"[\w][\w.-]{0,99}")
SOUND_SUFFIX = re.compile(r"\.(?:wav|flac|ogg|mp3)$", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    app.command()(sweep)


def sweep(
    prompts: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Of the sounds, a folder a cell."),
    ] = Path("sweep"),
    steps: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Denoising steps to try.")
    ] = None,
    guidance: Annotated[
        str | None, typer.Option(metavar="X,X,...", help="Guidance scales to try; 1 is off.")
    ] = None,
    schedulers: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="NAME,...", help="Sampling methods to try."),
    ] = None,
    n_variations: options.Variations = 1,
    seed: Annotated[int, typer.Option(help="Of the first variation, in every cell.")] = 0,
    negative: options.Negative = "",
    duration_s: options.Duration = None,
    guidance_rescale: options.GuidanceRescale = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Real sounds, for FD, FAD, KAD and KL."),
    ] = None,
    backbone: Annotated[
        Literal["embedded", "published"] | None,
        typer.Option(help="What listens; see `auffusion evaluate`."),
    ] = None,
    protocol: Annotated[
        Literal["auffusion-2024", "tango", "embedded"] | None,
        typer.Option(help="Whose way of measuring; see `auffusion evaluate`."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The published networks' files, where there is no network."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Of the curves; by default FOLDER/curves.png."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE.csv", help="Write a line for each cell.")
    ] = None,
    model: options.Model = "embedded",
    vocoder: options.Vocoder = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    overwrite: options.Overwrite = False,
    yes: options.Yes = False,
) -> None:
    """Render the same prompts with every combination of settings, and measure each.

    Draws quality against seconds. A sweep that was stopped goes on where it was: cells that are
    there, made from the same request, are kept. Without --reference only numbers that need none are
    measured (CLAP, IS), and how much each sound still changes towards the most steps.

    \b
    Examples:
      auffusion sweep "dog barking" "rain" --steps 5,10,25 --guidance 1,3,5
      auffusion sweep --prompts list.csv --steps 10,25,50,100 --guidance 1,3,5,7.5 -o study/
      auffusion sweep --prompts list.csv --steps 10,25 --reference real/ --csv study.csv
      auffusion sweep "thunder" -n 10 --scheduler "ddim,dpm++,unipc" --steps 8,16,32
    """
    from auffusion_cli.cli import resolve
    from auffusion_cli.cli.commands.evaluate import check_weights, choose_protocol, sounds_in
    from auffusion_cli.cli.outputs import check_free
    from auffusion_cli.requests.request import GenerateSettings

    if bool(prompts) == bool(prompts_file):
        raise UsageError(
            "Give either prompts or --prompts FILE.",
            hint='For example: auffusion sweep "dog barking" "rain" --steps 10,25 --guidance 1,3',
        )
    lines = _lines(prompts, prompts_file)
    sounds = _sounds(lines, n_variations, seed, negative)
    axes = {
        "steps": _values("--steps", steps, int, "whole numbers such as 10,25,50"),
        "guidance_scale": _values("--guidance", guidance, float, "numbers such as 1,3,7.5"),
        "scheduler": _values("--scheduler", schedulers, str, "names such as ddim,dpm++"),
    }
    fixed = {"duration_s": duration_s, "guidance_rescale": guidance_rescale}
    # Before anything is downloaded; the model's own limits come after.
    _grid(
        GenerateSettings.from_defaults(GenerationDefaults(), **fixed),
        axes,
    )
    chosen = choose_protocol(backbone, protocol)
    check_weights(weights, chosen)
    own_picture = output / PICTURE
    _check_files(output, picture or own_picture, table)
    check_free([] if overwrite else [path for path in (picture, table) if path is not None])
    if reference is not None:
        sounds_in("--reference ", reference)

    checkpoint = resolve.find(model) if dry_run else resolve.fetch(model, yes=yes)
    defaults, vocoder_name = resolve.describe(checkpoint, vocoder)
    cells = _grid(GenerateSettings.from_defaults(defaults, **fixed), axes)
    machine = resolve.describe_machine(device, dtype)
    if not dry_run:
        clear_unfinished(output)
    todo = _plan_cells(output, sounds, cells, checkpoint, model, vocoder_name, machine, overwrite)
    about = _about_picture(todo, reference, chosen.name)
    if not overwrite and picture is None:
        _check_shows_no_more(own_picture, about)
    picture = picture or own_picture
    if dry_run:
        same = {name: getattr(cells[0], name) for name in fixed}
        same |= {"model": model, "vocoder": vocoder_name, **machine, "protocol": chosen.name}
        _show_plan(todo, sounds, same, as_json=json)
        return
    resolve.warn_of_cut_prompts(checkpoint, (request.prompt for request in sounds.values()))

    from auffusion_cli.cli.commands.evaluate import cache_folder, load_networks, warn_of
    from auffusion_cli.tasks.sweep import score_cells

    # Before hours of rendering: what is missing for measuring is told now.
    networks = load_networks(chosen, reference is not None, weights, device, yes=yes)
    rendered = _render(todo, sounds, model, vocoder, device, dtype, batch_size)
    with console.Progress("reading", unit="clips") as progress:
        scored, evaluation = score_cells(
            rendered,
            reference,
            chosen,
            networks,
            cache=cache_folder(),
            on_progress=lambda what, n_done, n: progress.update(
                description=what, completed=n_done, total=n
            ),
        )
    names = [system.name for system in evaluation.systems]
    warn_of(_said_once(evaluation.notes, names), networks)
    for note in _notes_of_all(scored):
        console.note(note)
    try:
        _draw(scored, picture, about)
        if table is not None:
            _write_table(scored, table)
    finally:  # a full disk does not take the numbers with it
        if json:
            console.print_json(_as_json(scored, evaluation, picture))
        else:
            console.print_table(*_rows(scored))


# --- what is asked for


def _values(option: str, text: str | None, kind: Callable[[str], T], valid: str) -> list[T] | None:
    """The values of a list, each once; None where the model's default is to be taken."""
    if text is None:
        return None
    try:
        values = [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text!r}: not a list of numbers.", hint=f"Valid: {valid}."
        ) from None
    if len(set(values)) < len(values):
        raise UsageError(f"{option} {text!r}: names a value twice.", hint=f"Valid: {valid}.")
    return values


def _grid(base: GenerateSettings, axes: dict[str, list[Any] | None]) -> list[GenerateSettings]:
    """Every combination of `axes`; one that was not asked for has the value of `base`.

    The quickest come first, so that a sweep that is stopped has the most cells.
    """
    lists = [values or [getattr(base, name)] for name, values in axes.items()]
    n_cells = math.prod(map(len, lists))
    if n_cells > MAX_CELLS:
        raise UsageError(
            f"{n_cells:,} combinations of --steps, --guidance and --scheduler are too many.",
            hint=f"There can be {MAX_CELLS:,}.",
        )
    cells = [
        replace(base, **dict(zip(axes, values, strict=True)))
        for values in itertools.product(*lists)
    ]
    return sorted(cells, key=lambda cell: cell.steps)


def _lines(prompts: Sequence[str] | None, prompts_file: str | None) -> list[PromptLine]:
    from auffusion_cli.cli.plan import read_list
    from auffusion_cli.requests.prompts import BadLine, PromptLine

    if prompts:
        return [PromptLine(number, prompt) for number, prompt in enumerate(prompts, 1)]
    lines = read_list(prompts_file)
    for line in lines:
        if isinstance(line, BadLine):
            # A cell without one of the prompts could not be compared with the others.
            raise UsageError(f"--prompts {prompts_file}, line {line.number}: {line.reason}")
    return lines


def _sounds(
    lines: Sequence[PromptLine], n_variations: int, seed: int, negative: str
) -> dict[str, GenerateRequest]:
    """File name without suffix -> request, for each prompt and variation.

    A list may name its sounds in a column as captions do, so that they are paired with real ones.
    """
    from auffusion_cli.cli.outputs import slug
    from auffusion_cli.evaluation.clips import named_clip
    from auffusion_cli.requests.request import GenerateRequest

    sounds: dict[str, GenerateRequest] = {}
    for line in lines:
        own = named_clip(line.columns)
        stem = f"{line.number:05d}-{slug(line.prompt)}" if own is None else _stem(own, line.number)
        first_seed = seed if line.seed is None else line.seed
        for n in range(n_variations):
            name = f"{stem}-{n + 1}" if n_variations > 1 else stem
            if name in sounds:
                raise UsageError(f"--prompts, line {line.number}: a second sound named {name!r}.")
            line_negative = negative if line.negative_prompt is None else line.negative_prompt
            sounds[name] = GenerateRequest(line.prompt, first_seed + n, line_negative)
    return sounds


def _stem(name: str, number: int) -> str:
    stem = SOUND_SUFFIX.sub("", name)
    if not PLAIN_NAME.fullmatch(stem):
        raise UsageError(
            f"--prompts, line {number}: {name[:60]!r} cannot be the name of a sound.",
            hint="Letters, digits, points, hyphens and underscores can; or leave the column out.",
        )
    return stem


def _check_files(output: Path, picture: Path, table: Path | None) -> None:
    """Before any work: that what is asked for can be written."""
    from auffusion_cli.cli.outputs import check_writable

    check_writable([output / "cell" / "sound.wav"], "--output")
    for option, path, suffix in (("--picture", picture, ".png"), ("--csv", table, ".csv")):
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UsageError(f"{option} {path}: has to end in {suffix}.")
        check_writable([path], option)


# --- cells


@dataclass(frozen=True)
class CellPlan:
    """One cell: what is there of it, or what is to be made."""

    settings: GenerateSettings
    folder: Path
    inputs: CellInputs
    there: Cell | None


def _plan_cells(
    output: Path,
    sounds: dict[str, GenerateRequest],
    cells: Sequence[GenerateSettings],
    checkpoint: Checkpoint | None,
    model: str,
    vocoder: str,
    machine: dict[str, str],
    overwrite: bool,
) -> list[CellPlan]:
    """Which cells are there already; OutputExistsError where a folder holds something else."""
    from auffusion_cli.tasks.sweep import (
        cell_inputs,
        cell_name,
        check_replaceable,
        read_cell,
        weights_of,
    )

    weights = "" if checkpoint is None else weights_of(checkpoint.folder)
    plans = []
    for settings in cells:
        folder = output / cell_name(settings)
        inputs = cell_inputs(
            sounds, settings, model=model, weights=weights, vocoder=vocoder, **machine
        )
        there = None
        if folder.exists():
            try:
                there = read_cell(folder, inputs, settings)
            except DataError as error:
                check_replaceable(folder)
                if not overwrite:
                    raise OutputExistsError(
                        f"{folder} exists, but is not this cell: {error.message}.",
                        hint="Give another --output, or --overwrite to replace it.",
                    ) from None
        plans.append(CellPlan(settings, folder, inputs, there))
    return plans


def _about_picture(
    plans: Sequence[CellPlan], reference: Path | None, protocol: str
) -> dict[str, Any]:
    """What the curves are drawn from."""
    # Which folder it is, without telling its path to everybody who gets the picture.
    folder = reference and hashlib.sha256(str(reference.resolve()).encode()).hexdigest()
    return {
        "cells": [plan.folder.name for plan in plans],
        "reference": folder,
        "protocol": protocol,
    }


def _check_shows_no_more(picture: Path, about: dict[str, Any]) -> None:
    """Raise an OutputExistsError where something would be lost if `picture` were drawn anew."""
    from auffusion_cli.pictures.spectrogram import read_png_record

    if not picture.exists():
        return
    try:
        there = jsonlib.loads(read_png_record(picture) or "")
        others = [
            f"another {name}" for name in ("reference", "protocol") if there[name] != about[name]
        ]
        if not set(there["cells"]) <= set(about["cells"]):
            others.append("other cells")
    except (ValueError, KeyError, TypeError, RecursionError):
        others = ["something else"]
    if others:
        raise OutputExistsError(
            f"{picture} exists, and shows {others[0]} than this sweep.",
            hint="Give another --picture, or --overwrite to replace it.",
        )


def _render(
    plans: Sequence[CellPlan],
    sounds: dict[str, GenerateRequest],
    model: str,
    vocoder: str,
    device: str,
    dtype: str,
    batch_size: int | None,
) -> list[Cell]:
    """All cells, in the order of `plans`; those that are there are kept as they are."""
    from auffusion_cli.tasks.sweep import render_cell, warm_up

    todo = [plan for plan in plans if plan.there is None]
    if len(todo) < len(plans):
        console.note(f"{len(plans) - len(todo)} of {len(plans)} cells are there already")
    if not todo:
        return [plan.there for plan in plans]
    console.note(f"loading {model}")
    from auffusion_cli.checkpoints.load import load_model

    loaded = load_model(model, device=device, dtype=dtype, vocoder=vocoder)
    warm_up(loaded, sounds, todo[0].settings)
    total = sum(plan.settings.steps for plan in todo) * len(sounds)
    cells = []
    with console.Progress("rendering", total, unit="steps") as progress:
        for plan in plans:
            cells.append(
                plan.there
                or render_cell(
                    loaded,
                    sounds,
                    plan.settings,
                    plan.folder,
                    plan.inputs,
                    batch_size=batch_size,
                    on_steps=progress.advance,
                )
            )
    return cells


def _show_plan(
    plans: Sequence[CellPlan],
    sounds: dict[str, GenerateRequest],
    resolved: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    todo = [plan for plan in plans if plan.there is None]
    n_steps = sum(plan.settings.steps for plan in todo) * len(sounds)
    if as_json:
        console.print_json(
            {
                "settings": resolved,
                "cells": [
                    {"folder": str(plan.folder), "finished": plan.there is not None}
                    | plan.settings.to_dict()
                    for plan in plans
                ],
                "sounds": {name: asdict(request) for name, request in sounds.items()},
                "sounds_to_make": len(todo) * len(sounds),
                "steps_to_take": n_steps,
            }
        )
        return
    console.print_table(("SETTING", "VALUE"), console.fields(resolved))
    typer.echo()
    console.print_table(
        ("SOUND", "PROMPT", "SEED"),
        [(name, request.prompt, request.seed) for name, request in sounds.items()],
    )
    typer.echo()
    console.print_table(
        ("CELL", "STEPS", "GUIDANCE", "SCHEDULER", ""),
        [
            (
                plan.folder,
                plan.settings.steps,
                f"{plan.settings.guidance_scale:g}",
                plan.settings.scheduler,
                "finished" if plan.there else "",
            )
            for plan in plans
        ],
    )
    console.note(
        f"cells: {len(plans)} of {len(sounds)} sounds each;"
        f" sounds: {len(todo) * len(sounds)} to make, {n_steps:,} steps"
    )


# --- what is told


def _said_once(notes: Sequence[str], systems: Sequence[str]) -> list[str]:
    """`notes`, and what would be said of each system in the same words is said of all cells."""
    of_all = {}
    for note in notes:
        name, colon, words = note.partition(": ")
        everywhere = bool(colon) and all(f"{system}: {words}" in notes for system in systems)
        of_all[f"every cell: {words}" if everywhere and name in systems else note] = None
    return list(of_all)


def _notes_of_all(scored: Sequence[ScoredCell]) -> list[str]:
    """What to mind about a number in every cell: too few clips, no reference."""
    names: dict[str, list[str]] = {}
    for metric in scored[0].metrics:
        everywhere = all(
            any((m.name, m.note) == (metric.name, metric.note) for m in each.metrics)
            for each in scored
        )
        if metric.note and everywhere and metric.name not in names.get(metric.note, ()):
            names.setdefault(metric.note, []).append(metric.name)
    return [f"{', '.join(about)}: {note}" for note, about in names.items()]


def _rows(scored: Sequence[ScoredCell]) -> tuple[list[str], list[list[str]]]:
    """The table: a line a cell."""
    from auffusion_cli.tasks.sweep import measured

    names = measured(scored)
    rows = []
    for each in scored:
        settings = each.cell.settings
        row = [settings.scheduler, str(settings.steps), f"{settings.guidance_scale:g}"]
        row.append(f"{each.cell.seconds_per_sound:.2f}")
        row.append("" if each.change_db is None else f"{each.change_db:.2f}")
        for name in names:
            metric = each.metric(name)
            row.append("" if metric is None else f"{metric.value:.4g}" + _within(metric))
        rows.append(row)
    return ["SCHEDULER", "STEPS", "GUIDANCE", "SECONDS", "CHANGE dB", *names], rows


def _within(metric: Metric) -> str:
    return "" if metric.ci_95 is None else " ({:.4g} to {:.4g})".format(*metric.ci_95)


def _as_json(scored: Sequence[ScoredCell], evaluation: Any, picture: Path) -> dict[str, Any]:
    return {
        "protocol": evaluation.protocol,
        "backbones": {name: asdict(each) for name, each in evaluation.backbones.items()},
        "reference": evaluation.reference and asdict(evaluation.reference),
        "versions": evaluation.versions,
        "notes": list(evaluation.notes),
        "picture": str(picture),
        "cells": [
            each.cell.settings.to_dict()
            | {
                "folder": str(each.cell.folder),
                "device": each.cell.device,
                "dtype": each.cell.dtype,
                "seconds_per_sound": each.cell.seconds_per_sound,
                "change_db": each.change_db,
                "metrics": [asdict(metric) for metric in each.metrics],
            }
            for each in scored
        ],
    }


def _write_table(scored: Sequence[ScoredCell], path: Path) -> None:
    from auffusion_cli.files import write_text
    from auffusion_cli.tasks.sweep import measured

    names = measured(scored)
    fields = ("scheduler", "steps", "guidance_scale", "guidance_rescale", "duration_s")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounds = [f"{name} {what}".strip() for name in names for what in ("", "low", "high")]
    writer.writerow([*fields, "seconds_per_sound", "change_db", *bounds])
    for each in scored:
        row = [getattr(each.cell.settings, field) for field in fields]
        row += [each.cell.seconds_per_sound, each.change_db]
        for name in names:
            metric = each.metric(name)
            value = None if metric is None else metric.value
            row += [value, *((metric and metric.ci_95) or (None, None))]
        writer.writerow(row)
    write_text(path, text.getvalue())


def _draw(scored: Sequence[ScoredCell], path: Path, about: dict[str, Any]) -> None:
    from auffusion_cli.pictures.curves import save_curves
    from auffusion_cli.tasks.sweep import trade_offs

    panels = trade_offs(scored)
    if not panels:
        console.warn(
            "nothing to draw: give --reference, more than one --steps, or --backbone published"
        )
        return
    with folder_of(path):
        x_title = "seconds a sound; numbers beside the points are steps"
        save_curves(panels, x_title, path, record=jsonlib.dumps(about))
    console.note(f"curves: {path}")
