"""Render a grid of settings and measure each cell: quality against seconds.

A cell is one scheduler, number of steps and guidance, with the same prompts and seeds as all
others. Its folder appears when it is whole, with its inputs in `cell.json`, so that a stopped sweep
resumes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auffusion_cli.errors import DataError, OutputExistsError
from auffusion_cli.evaluation.protocols import Protocol
from auffusion_cli.evaluation.result import Evaluation, Metric
from auffusion_cli.files import atomic_folder, folder_of, hash_file
from auffusion_cli.parsing import decode, read_json
from auffusion_cli.pictures.curves import Curve, Panel, Point
from auffusion_cli.requests.provenance import DEFAULT_ENGINE
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.spectrogram import LogMel, mel_error_db
from auffusion_cli.tasks.generate import default_batch_size, generate

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.tasks.evaluate import Networks, OnProgress

NOT_DRAWN = ("FD-inf", "FAD-inf", "KL-sigmoid")
"""Numbers that are in the tables and not in the picture."""
RECORD = "cell.json"
FORMAT_VERSION = 2

OnSteps = Callable[[float], None]
"""Called with the denoising steps taken for a sound since the last call."""

Sounds = Mapping[str, GenerateRequest]
"""File name without suffix, which pairs it with a reference -> what every cell makes for it."""


@dataclass(frozen=True)
class CellInputs:
    """Inputs that determine the sounds and seconds of a cell."""

    sounds: dict[str, dict[str, Any]]
    """File name without suffix -> request."""
    settings: dict[str, Any]
    model: str
    weights: str
    """See `weights_of`."""
    vocoder: str
    device: str
    dtype: str
    engine: str = DEFAULT_ENGINE


@dataclass(frozen=True)
class CellRecord:
    """The content of `cell.json`."""

    origin: CellInputs
    seconds_per_sound: float
    device: str
    dtype: str
    sounds: dict[str, str]
    """File name -> SHA-256."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Cell:
    """One point of the grid, rendered."""

    settings: GenerateSettings
    folder: Path
    seconds_per_sound: float
    """Time of computing, without loading and writing, after a first sound that does not count."""
    device: str
    dtype: str


@dataclass(frozen=True)
class ScoredCell:
    """One point of the grid, measured."""

    cell: Cell
    metrics: tuple[Metric, ...]
    change_db: float | None
    """Mean difference of the log-mels to the cell of the same settings with the most steps;
    None for that one itself."""

    def metric(self, name: str) -> Metric | None:
        """The metric's value over all clips; None if it has none."""
        found = (m for m in self.metrics if m.name == name and not m.subset)
        return next((m for m in found if m.value is not None), None)


# --- which cell is which


def cell_name(settings: GenerateSettings) -> str:
    """The name of a cell's folder."""
    return f"{settings.scheduler}-steps{settings.steps}-guidance{settings.guidance_scale:g}"


def weights_of(folder: Path) -> str:
    """A fingerprint of a checkpoint by names, sizes and times of its files, not by content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [
        (path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)
        for path in files
        if (stat := path.stat())
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def cell_inputs(
    sounds: Sounds,
    settings: GenerateSettings,
    *,
    model: str,
    weights: str,
    vocoder: str,
    device: str,
    dtype: str,
    engine: str,
) -> CellInputs:
    """The inputs of a cell as its record has them."""
    requests = {name: asdict(request) for name, request in sounds.items()}
    circumstances = (model, weights, vocoder, device, dtype, engine)
    return CellInputs(requests, settings.to_dict(), *circumstances)


@dataclass(frozen=True)
class CellPlan:
    """One cell: finished, or to be made."""

    settings: GenerateSettings
    folder: Path
    inputs: CellInputs
    finished: Cell | None


def plan_cell(
    output: Path, settings: GenerateSettings, inputs: CellInputs, *, overwrite: bool
) -> CellPlan:
    """The cell of these settings in the folder `output` of the sweep.

    Raises:
        OutputExistsError: something else is in its place.
    """
    folder = output / cell_name(settings)
    finished = None
    if folder.exists():
        try:
            finished = read_cell(folder, inputs, settings)
        except DataError as error:
            check_replaceable(folder)
            if not overwrite:
                raise OutputExistsError(
                    f"{folder} exists, but is not this cell: {error.message}",
                    hint="Give another --output, or --overwrite to replace it.",
                ) from None
    return CellPlan(settings, folder, inputs, finished)


# --- rendering


def read_cell(folder: Path, inputs: CellInputs, settings: GenerateSettings) -> Cell:
    """The cell in `folder`. Raises DataError: it is not whole, or was made from other `inputs`."""
    record = _read_record(folder)
    if (difference := _difference(record.origin, inputs)) is not None:
        raise DataError(difference)
    names = {path.name for path in folder.iterdir()}
    if others := sorted(names - {RECORD, *record.sounds}):
        raise DataError(f"{others[0]} is not one of its sounds")
    for name, sha256 in sorted(record.sounds.items()):
        if name not in names:
            raise DataError(f"{name} is missing")
        if hash_file(folder / name) != sha256:
            raise DataError(f"{name} has been changed")
    return Cell(settings, folder, record.seconds_per_sound, record.device, record.dtype)


def _read_record(folder: Path) -> CellRecord:
    if not (folder / RECORD).exists():
        raise DataError(f"its {RECORD} is missing")
    content = read_json(folder / RECORD, raising=DataError, where=RECORD)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{RECORD} was written by another version")
    try:
        record = decode(CellRecord, content)
        if not record.seconds_per_sound > 0:
            raise ValueError("seconds_per_sound is not above 0")
    except ValueError as error:
        raise DataError(f"{RECORD}: {error}") from None
    return record


def _difference(old: CellInputs, new: CellInputs) -> str | None:
    """The first thing in which the inputs of two cells differ, in words."""
    if surplus := sorted(old.sounds.keys() - new.sounds.keys()):
        return f"it is of other sounds, such as {surplus[0]}"
    if lacking := sorted(new.sounds.keys() - old.sounds.keys()):
        return f"it has no {lacking[0]}"
    for name, request in new.sounds.items():
        for field, value in request.items():
            if (was := old.sounds[name].get(field)) != value:
                return f"the {field.replace('_', ' ')} of {name} is {was!r}, and not {value!r}"
    for field, value in new.settings.items():
        if (was := old.settings.get(field)) != value:
            return f"its {field.removesuffix('_s').replace('_', ' ')} is {was!r}, and not {value!r}"
    for field in ("model", "vocoder", "device", "dtype", "engine"):
        if (was := getattr(old, field)) != (value := getattr(new, field)):
            return f"its {field} is {was!r}, and not {value!r}"
    return None if old == new else "the files of the model have changed since"


def check_replaceable(folder: Path) -> None:
    """Raise an OutputExistsError unless `folder` is a cell of some sweep and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(name for name in names if name != RECORD and not name.endswith(".wav"))
    if folder.is_symlink() or RECORD not in names or others:
        problem = f"holds {others[0]}" if others else f"has no {RECORD}"
        raise OutputExistsError(
            f"{folder} exists and {problem}: no sweep has written it so, and it is not replaced",
            hint="Give another --output, or move that folder away.",
        )


def render_cell(
    model: Model,
    sounds: Sounds,
    plan: CellPlan,
    *,
    batch_size: int | None = None,
    on_steps: OnSteps = lambda n: None,
) -> Cell:
    """Make the sounds of a cell; its folder appears, or is replaced, when it is whole.

    Raises:
        AuffusionError: a sound cannot be made.
        OutputExistsError: its folder exists and is not a cell.
    """
    settings, folder = plan.settings, plan.folder
    if folder.exists():
        check_replaceable(folder)
    size = batch_size or default_batch_size(model.device)

    def on_step(batch: Sequence[GenerateRequest], step) -> None:
        on_steps(len(batch) * settings.steps / step.n_steps)

    with folder_of(folder), atomic_folder(folder) as unfinished:
        spent_s, sha256s = 0.0, {}
        results = generate(model, sounds.values(), settings, batch_size=size, on_step=on_step)
        for name in sounds:
            begun_s = time.perf_counter()
            result = next(results)
            spent_s += time.perf_counter() - begun_s
            path = unfinished / f"{name}.wav"
            result.save(path)
            sha256s[path.name] = hash_file(path)
        cell = Cell(settings, folder, spent_s / len(sounds), model.device, model.dtype)
        record = CellRecord(plan.inputs, cell.seconds_per_sound, cell.device, cell.dtype, sha256s)
        text = json.dumps(asdict(record), indent=1) + "\n"
        (unfinished / RECORD).write_text(text, encoding="utf-8")
    return cell


def warm_up(model: Model, sounds: Sounds, settings: GenerateSettings) -> None:
    """A first sound, in one step: what is set up once should not count for the first cell."""
    first = next(iter(sounds.values()))
    for _ in generate(model, [first], replace(settings, steps=1)):
        pass


# --- measuring


def score_cells(
    cells: Sequence[Cell],
    reference: Path | None,
    protocol: Protocol,
    networks: Networks,
    *,
    cache: Path | None = None,
    on_progress: OnProgress = lambda what, n_done, n: None,
) -> tuple[list[ScoredCell], Evaluation]:
    """Each cell with its metrics, in the order of `cells`; each is a system of the evaluation."""
    from auffusion_cli.tasks.evaluate import evaluate  # by torch, which a plan needs not

    systems = {cell_name(cell.settings): cell.folder for cell in cells}
    evaluation = evaluate(
        systems, reference, protocol, networks, cache=cache, on_progress=on_progress
    )
    changes = _changes(cells, on_progress)
    scored = [
        ScoredCell(cell, system.metrics, changes.get(system.name))
        for cell, system in zip(cells, evaluation.systems, strict=True)
    ]
    return scored, evaluation


def _changes(cells: Sequence[Cell], on_progress: OnProgress) -> dict[str, float]:
    """cell name -> mean difference in dB to the cell of its kind with the most steps."""
    finest: dict[GenerateSettings, Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.settings.steps):
        finest[replace(cell.settings, steps=1)] = cell
    changes = {}
    for n_done, cell in enumerate(cells, 1):
        last = finest[replace(cell.settings, steps=1)]
        if last is not cell:
            names = sorted(path.name for path in cell.folder.glob("*.wav"))
            errors = [
                mel_error_db(_log_mel(last.folder / n), _log_mel(cell.folder / n)) for n in names
            ]
            changes[cell_name(cell.settings)] = sum(errors) / len(errors)
        on_progress("comparing with the most steps", n_done, len(cells))
    return changes


def _log_mel(path: Path):
    analysis = _analysis()
    waveform, _ = read_audio(path, analysis.config.sample_rate_hz, mono=True)
    return analysis(waveform)[0]


@cache
def _analysis() -> LogMel:
    return LogMel()


# --- showing


def measured(scored: Sequence[ScoredCell]) -> list[str]:
    """The names of the metrics that some cell has a number of."""
    names = dict.fromkeys(metric.name for each in scored for metric in each.metrics)
    return [name for name in names if any(each.metric(name) for each in scored)]


def trade_offs(scored: Sequence[ScoredCell]) -> list[Panel]:
    """A panel for each number; a curve for each guidance and scheduler, from few steps to many."""
    panels = []
    for name in measured(scored):
        if not name.startswith(NOT_DRAWN):
            metrics = [each.metric(name) for each in scored]
            better = next(metric.better for metric in metrics if metric)
            values = [metric and (metric.value, metric.ci_95) for metric in metrics]
            panels.append(_panel(name, f"{better} is better", scored, values))
    changes = [None if e.change_db is None else (e.change_db, None) for e in scored]
    if any(changes):
        hint = "mean difference to the sound with the most steps"
        panels.append(_panel("Change, dB", hint, scored, changes))
    return panels


def _panel(
    title: str,
    hint: str,
    scored: Sequence[ScoredCell],
    values: Sequence[tuple[float, tuple[float, float] | None] | None],
) -> Panel:
    one_scheduler = len({each.cell.settings.scheduler for each in scored}) == 1
    curves: dict[str, list[Point]] = {}
    for each, value in zip(scored, values, strict=True):
        if value is None:
            continue
        settings = each.cell.settings
        name = f"guidance {settings.guidance_scale:g}"
        name = name if one_scheduler else f"{settings.scheduler}, {name}"
        point = Point(each.cell.seconds_per_sound, *value, label=f"{settings.steps}")
        curves.setdefault(name, []).append(point)
    return Panel(title, hint, tuple(Curve(name, tuple(points)) for name, points in curves.items()))
