"""`auffusion sweep`: quality against seconds over a grid of settings."""

from __future__ import annotations

import hashlib
import json as jsonlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auffusion_cli.cli import console, grid, networks, options, result_tables
from auffusion_cli.cli.rows import in_words
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import OutputExistsError
from auffusion_cli.files import clear_unfinished, folder_of

if TYPE_CHECKING:
    from auffusion_cli.cli.making import Setup
    from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
    from auffusion_cli.tasks.sweep import Cell, CellPlan, ScoredCell

PICTURE = "curves.png"


def register(app: typer.Typer) -> None:
    app.command()(options.grouped(sweep))


@dataclass(frozen=True)
class Files:
    """Options for the files to write besides the sounds."""

    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Of the curves; by default FOLDER/curves.png."),
    ] = None
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE.csv", help="Write a line for each cell.")
    ] = None

    def check(self, output: Path, *, overwrite: bool) -> None:
        """Raise a UsageError, before any work, unless all can be written."""
        from auffusion_cli.cli.outputs import check_file, check_writable

        check_writable([output / "cell" / "sound.wav"], "--output")
        check_writable([output / PICTURE], "--picture")
        check_file(self.picture, "--picture", ".png", overwrite=overwrite)
        check_file(self.table, "--csv", ".csv", overwrite=overwrite)


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
    seed: Annotated[
        int,
        typer.Option(
            help="Of the first variation, in every cell; each line of a list has its own."
        ),
    ] = 0,
    negative: options.Negative = "",
    duration_s: options.Duration = None,
    guidance_rescale: options.GuidanceRescale = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Real sounds, for FD, FAD, KAD and KL."),
    ] = None,
    *,
    measuring: networks.Measuring,
    files: Files,
    loading: options.Loading,
    batch_size: options.BatchSize = None,
    run: options.Run,
) -> None:
    """Render the same prompts with every combination of settings, and measure each.

    Draws quality against seconds. A sweep that was stopped resumes: finished cells of the same
    request are kept. Without --reference only numbers that need none are
    measured (CLAP, IS), and how much each sound still changes towards the most steps.

    \b
    Examples:
      auffusion sweep "dog barking" "rain" --steps 5,10,25 --guidance 1,3,5
      auffusion sweep --prompts list.csv --steps 10,25,50,100 --guidance 1,3,5,7.5 -o study/
      auffusion sweep --prompts list.csv --steps 10,25 --reference real/ --csv study.csv
      auffusion sweep "thunder" -n 10 --scheduler "ddim,dpm++,unipc" --steps 8,16,32
    """
    from auffusion_cli.cli.making import set_up
    from auffusion_cli.requests.request import GenerateSettings

    lines, in_list = grid.read_lines(prompts, prompts_file), prompts_file is not None
    sounds = grid.named_sounds(lines, n_variations, seed, negative, in_list=in_list)
    axes = {
        "steps": grid.axis_values("--steps", steps, int, "whole numbers such as 10,25,50"),
        "guidance_scale": grid.axis_values(
            "--guidance", guidance, float, "numbers such as 1,3,7.5"
        ),
        "scheduler": grid.axis_values("--scheduler", schedulers, str, "names such as ddim,dpm++"),
    }
    fixed = {"duration_s": duration_s, "guidance_rescale": guidance_rescale}
    # Before anything is downloaded; the model's own limits come after.
    grid.combinations(GenerateSettings.from_defaults(GenerationDefaults(), **fixed), axes)
    chosen = measuring.choose()
    files.check(output, overwrite=run.overwrite)
    if reference is not None:
        networks.sounds_in("--reference ", reference)

    setup = set_up(loading, fixed, run)
    plans = _plan_cells(output, sounds, grid.combinations(setup.settings, axes), setup, run)
    picture = files.picture or output / PICTURE
    about = _about_picture(plans, reference, chosen.name)
    if not run.overwrite and files.picture is None:
        _check_shows_no_more(picture, about)
    if run.dry_run:
        same = {name: value for name, value in setup.to_dict().items() if name not in axes}
        _show_plan(plans, sounds, same | {"protocol": chosen.name}, as_json=run.json)
        return
    setup.check_words((request.prompt for request in sounds.values()), [])

    # Before hours of rendering: what is missing for measuring is reported now.
    loaded = networks.load_networks(
        chosen, reference is not None, measuring.weights, loading.device, yes=run.yes
    )
    rendered = _render(plans, sounds, setup, batch_size)
    from auffusion_cli.tasks.sweep import score_cells

    with networks.progress() as on_progress:
        scored, evaluation = score_cells(
            rendered,
            reference,
            chosen,
            loaded,
            cache=networks.cache_folder(),
            on_progress=on_progress,
        )
    names = [system.name for system in evaluation.systems]
    networks.warn_of(_joined_notes(evaluation.notes, names), loaded)
    for note in _notes_of_all(scored):
        console.note(note)
    try:
        _draw(scored, picture, about)
        if files.table is not None:
            result_tables.write_cells(scored, files.table)
    finally:  # a full disk does not take the numbers with it
        if run.json:
            console.print_json(result_tables.cells_as_json(scored, evaluation, picture))
        else:
            result_tables.show_cells(scored)


# --- cells


def _plan_cells(
    output: Path,
    sounds: dict[str, GenerateRequest],
    cells: Sequence[GenerateSettings],
    setup: Setup,
    run: options.Run,
) -> list[CellPlan]:
    """Each cell, finished or to be made; OutputExistsError where its place is taken."""
    from auffusion_cli.cli.resolve import describe_machine
    from auffusion_cli.tasks.sweep import cell_inputs, plan_cell, weights_of

    if not run.dry_run:
        clear_unfinished(output)
    facts = {
        "model": setup.loading.model,
        "weights": "" if setup.checkpoint is None else weights_of(setup.checkpoint.folder),
        "vocoder": setup.vocoder,
        "engine": setup.engine.engine,
        **describe_machine(setup.engine.engine, setup.loading.device, setup.loading.dtype),
    }
    return [
        plan_cell(output, settings, cell_inputs(sounds, settings, **facts), overwrite=run.overwrite)
        for settings in cells
    ]


def _about_picture(
    plans: Sequence[CellPlan], reference: Path | None, protocol: str
) -> dict[str, Any]:
    """Sources of the curves, as a record in the picture."""
    # Which folder it is, without telling its path to everybody who gets the picture.
    folder = reference and hashlib.sha256(str(reference.resolve()).encode()).hexdigest()
    return {
        "cells": [plan.folder.name for plan in plans],
        "reference": folder,
        "protocol": protocol,
    }


def _check_shows_no_more(picture: Path, about: dict[str, Any]) -> None:
    """Raise an OutputExistsError where something would be lost if `picture` were drawn anew."""
    from auffusion_cli.pictures.drawing import read_png_record

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
            f"{picture} exists, and shows {others[0]} than this sweep",
            hint="Give another --picture, or --overwrite to replace it.",
        )


def _render(
    plans: Sequence[CellPlan],
    sounds: dict[str, GenerateRequest],
    setup: Setup,
    batch_size: int | None,
) -> list[Cell]:
    """All cells, in the order of `plans`; finished ones are kept as they are."""
    from auffusion_cli.tasks.sweep import render_cell, warm_up

    todo = [plan for plan in plans if plan.finished is None]
    if len(todo) < len(plans):
        console.note(f"{len(plans) - len(todo)} of {len(plans)} cells are finished already")
    if not todo:
        return [plan.finished for plan in plans]
    model = setup.load()
    warm_up(model, sounds, todo[0].settings)
    total = sum(plan.settings.steps for plan in todo) * len(sounds)
    with console.Progress("rendering", total, unit="steps") as progress:
        return [
            plan.finished
            or render_cell(model, sounds, plan, batch_size=batch_size, on_steps=progress.advance)
            for plan in plans
        ]


def _show_plan(
    plans: Sequence[CellPlan],
    sounds: dict[str, GenerateRequest],
    resolved: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    todo = [plan for plan in plans if plan.finished is None]
    n_steps = sum(plan.settings.steps for plan in todo) * len(sounds)
    if as_json:
        console.print_json(
            {
                "settings": resolved,
                "cells": [
                    {"folder": str(plan.folder), "finished": plan.finished is not None}
                    | plan.settings.to_dict()
                    for plan in plans
                ],
                "sounds": {name: asdict(request) for name, request in sounds.items()},
                "sounds_to_make": len(todo) * len(sounds),
                "steps_to_take": n_steps,
            }
        )
        return
    console.print_table(("SETTING", "VALUE"), in_words(resolved))
    console.print_line()
    console.print_table(
        ("SOUND", "PROMPT", "SEED"),
        [(name, request.prompt, request.seed) for name, request in sounds.items()],
    )
    console.print_line()
    console.print_table(
        ("CELL", "STEPS", "GUIDANCE", "SCHEDULER", ""),
        [
            (
                plan.folder,
                plan.settings.steps,
                f"{plan.settings.guidance_scale:g}",
                plan.settings.scheduler,
                "finished" if plan.finished else "",
            )
            for plan in plans
        ],
    )
    console.note(
        f"cells: {len(plans)} of {len(sounds)} sounds each;"
        f" sounds: {len(todo) * len(sounds)} to make, {n_steps:,} steps"
    )


# --- results


def _joined_notes(notes: Sequence[str], systems: Sequence[str]) -> list[str]:
    """`notes`, in which one that all systems share is one note on every cell."""
    of_all = {}
    for note in notes:
        name, colon, words = note.partition(": ")
        everywhere = bool(colon) and all(f"{system}: {words}" in notes for system in systems)
        of_all[f"every cell: {words}" if everywhere and name in systems else note] = None
    return list(of_all)


def _notes_of_all(scored: Sequence[ScoredCell]) -> list[str]:
    """The notes that a number has in every cell: too few clips, no reference."""
    names: dict[str, list[str]] = {}
    for metric in scored[0].metrics:
        everywhere = all(
            any((m.name, m.note) == (metric.name, metric.note) for m in each.metrics)
            for each in scored
        )
        if metric.note and everywhere and metric.name not in names.get(metric.note, ()):
            names.setdefault(metric.note, []).append(metric.name)
    return [f"{', '.join(about)}: {note}" for note, about in names.items()]


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
