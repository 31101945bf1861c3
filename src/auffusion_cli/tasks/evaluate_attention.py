"""Attention to the words of generated sounds: each sound is made again and its attention recorded.

A picture carries its numbers and what it was drawn from, as a sound carries its record, so that an
evaluation that was stopped resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from auffusion_cli.errors import AudioError, AuffusionError, OutputExistsError
from auffusion_cli.evaluation import measure
from auffusion_cli.evaluation.events import complexity, names_something
from auffusion_cli.evaluation.metrics import attention_entropy, level_at_peak
from auffusion_cli.evaluation.notes import some_of
from auffusion_cli.evaluation.result import (
    BackboneRecord,
    Evaluation,
    ScoredClip,
    System,
    WordAttention,
)
from auffusion_cli.files import clear_unfinished, folder_of, is_unfinished
from auffusion_cli.model import Model
from auffusion_cli.parsing import decode
from auffusion_cli.pictures.attention import AttentionColumn, save_attention
from auffusion_cli.pictures.drawing import read_png_record
from auffusion_cli.requests.provenance import Provenance, current_versions
from auffusion_cli.requests.request import GenerateRequest
from auffusion_cli.signal.audio import to_pcm16
from auffusion_cli.signal.formats import LOSSY_SUFFIXES
from auffusion_cli.signal.recording import read_recording
from auffusion_cli.signal.sound_file import read_record
from auffusion_cli.tasks.attention import AttentionResult, generate_with_attention
from auffusion_cli.tasks.evaluate import OnProgress
from auffusion_cli.tasks.generate import GenerateResult

ENTROPY, LEVEL = "attention-entropy", "attention-level"
GENERATOR = "generator"
"""Name in `Evaluation.backbones` of the models that made the sounds."""


class Models(Protocol):
    """The models that made the files; an AuffusionError where one is not to be used."""

    def identity(self, recorded: Provenance, path: Path) -> str:
        """Changes with everything on which its sounds depend besides their request."""

    def load(self, recorded: Provenance, path: Path) -> Model: ...


@dataclass(frozen=True)
class RecordedAttention:
    """Attention recorded from one sound, made again."""

    words: tuple[WordAttention, ...]
    model: str
    is_same: bool
    """True: its samples are those of the file."""

    @property
    def scores(self) -> dict[str, float]:
        """The means over the words that count."""
        counted = [word for word in self.words if word.counted]
        return {
            ENTROPY: float(np.mean([word.entropy for word in counted])),
            LEVEL: float(np.mean([word.level for word in counted])),
        }


@dataclass(frozen=True)
class _Job:
    """One sound to make again, and the picture to draw."""

    clip: ScoredClip
    path: Path
    recorded: Provenance
    picture: Path
    key: str
    """Checksum of the sources of the picture: the file, the model and the versions."""


Reasons = dict[str, list[str]]
"""Reason why sounds are left out -> their paths"""


def add_attention(
    evaluation: Evaluation,
    models: Models,
    pictures: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda what, n_done, n: None,
) -> Evaluation:
    """`evaluation` with two more numbers for each sound that `generate` made.

    attention-entropy: how spread out the attention to a word is, 0 to 1; attention-level: how loud
    the sound is where it is greatest, 0 to 1 with 0.5 for chance. A sound's score is the mean over
    the words of its prompt that name something. A picture of each goes to
    `pictures/SYSTEM/CLIP.png`; one that was drawn from the same file, model and versions is taken
    as it is.

    Raises:
        OutputExistsError: another picture is in the place of one, and `overwrite` is not set.
    """
    plans = [_plan(system, models, pictures / system.name) for system in evaluation.systems]
    for folder in {job.picture.parent for jobs, _ in plans for job in jobs}:
        clear_unfinished(folder)
    if not overwrite:
        for job in (job for jobs, _ in plans for job in jobs):
            if job.picture.exists() and _find(job) is None:
                raise OutputExistsError(
                    f"{job.picture} was drawn from another sound, by another model or version",
                    hint="Give another --attention, or --overwrite to replace it.",
                )
    systems, names, notes = [], set(), []
    for system, (jobs, reasons) in zip(evaluation.systems, plans, strict=True):
        watched: dict[str, RecordedAttention] = {}
        for n_done, job in enumerate(jobs):
            on_progress(f"making the sounds of {system.name} again", n_done, len(jobs))
            try:
                watched[job.clip.name] = _find(job) or _watch(job, models)
            except AuffusionError as error:
                _add_reason(reasons, error, job.path, job.clip)
        names |= {each.model for each in watched.values()}
        systems.append(_with_scores(system, watched))
        notes += _notes(system, watched, reasons)
    generator = BackboneRecord(GENERATOR, ", ".join(sorted(names)), "", "", 16_000)
    return replace(
        evaluation,
        systems=tuple(systems),
        backbones=evaluation.backbones | {GENERATOR: generator},
        notes=(*evaluation.notes, *notes),
    )


def check_pictures(folder: Path) -> None:
    """Raise an OutputExistsError unless all files below `folder` are pictures of `add_attention`.

    What a killed run has left of a picture does not count, and is removed by the next one.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or is_unfinished(path) or read_png_record(path) is not None:
            continue
        raise OutputExistsError(
            f"{folder} holds {path.relative_to(folder)}, which no evaluation has drawn",
            hint="Give another --attention, or --overwrite to draw beside it.",
        )


def _plan(system: System, models: Models, pictures: Path) -> tuple[list[_Job], Reasons]:
    jobs: list[_Job] = []
    reasons: Reasons = {}
    for clip in system.rows:
        path = Path(system.clips.folder) / clip.path
        try:
            recorded = _read_provenance(path)
            facts = [clip.sha256, models.identity(recorded, path), current_versions()]
        except AuffusionError as error:
            _add_reason(reasons, error, path, clip)
            continue
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        jobs.append(_Job(clip, path, recorded, pictures / f"{clip.name}.png", key))
    return jobs, reasons


def _add_reason(reasons: Reasons, error: AuffusionError, path: Path, clip: ScoredClip) -> None:
    reason = error.message.removeprefix(f"{path}: ").removeprefix(f"{path} ")
    reasons.setdefault(reason, []).append(clip.path)


def _read_provenance(path: Path) -> Provenance:
    recorded = read_record(path)
    if type(recorded.request) is not GenerateRequest:
        raise AudioError(f"{path}: was made by {recorded.request.task}, not by one prompt")
    return recorded


def _find(job: _Job) -> RecordedAttention | None:
    """The attention that an existing picture records, if it was drawn from the same sources."""
    try:
        record = json.loads(read_png_record(job.picture) or "")
        if record["key"] == job.key:
            return decode(RecordedAttention, record["watched"], str(job.picture))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _watch(job: _Job, models: Models) -> RecordedAttention:
    model = models.load(job.recorded, job.path)
    result = generate_with_attention(model, job.recorded.request, job.recorded.settings)
    watched = RecordedAttention(
        words=word_attention(result),
        model=job.recorded.model,
        is_same=_is_in(job.path, result.sound, job.recorded),
    )
    _draw(result, model, job.picture, json.dumps({"key": job.key, "watched": asdict(watched)}))
    return watched


def _is_in(path: Path, sound: GenerateResult, recorded: Provenance) -> bool:
    """True if the file holds the samples of `sound`, whatever its record says.

    A file of more than 16 bits may differ by one rounding step. Lossy files (ogg, mp3) are compared
    by their records.
    """
    if path.suffix.lower() in LOSSY_SUFFIXES:
        return sound.provenance.samples_sha256 == recorded.samples_sha256
    recording = read_recording(path)
    there, made = to_pcm16(recording.waveform()), to_pcm16(sound.waveform)[None]
    if recording.sample_rate_hz != sound.sample_rate_hz or there.shape != made.shape:
        return False
    return int(np.abs(there.astype(int) - made.astype(int)).max()) <= 1


def word_attention(result: AttentionResult) -> tuple[WordAttention, ...]:
    """The words that the model reads; those that name something count, or all where none does."""
    log_mel = result.sound.log_mel
    maps = zip(result.words, result.maps, strict=True)
    read = [(word, attention) for word, attention in maps if attention.max() > 0]
    if not read:
        raise AuffusionError("the model reads no word of the prompt")
    none_names = not any(names_something(word) for word, _ in read)
    return tuple(
        WordAttention(
            word,
            attention_entropy(attention),
            level_at_peak(attention, log_mel),
            counted=none_names or names_something(word),
        )
        for word, attention in read
    )


def _draw(result: AttentionResult, model: Model, picture: Path, record: str) -> None:
    title = f"{result.sound.request.prompt}, seed {result.sound.request.seed}"
    config = model.codec.spectrogram_config
    column = AttentionColumn(title, result.sound.log_mel, result.maps, result.shares, config)
    with folder_of(picture):
        save_attention(result.words, [column], picture, record=record)


def _with_scores(system: System, watched: dict[str, RecordedAttention]) -> System:
    metrics = list(system.metrics)
    groups = {clip.name: complexity(clip.n_events) for clip in system.rows if clip.n_events}
    for name, better in ((ENTROPY, "lower"), (LEVEL, "higher")):
        if watched:
            scores = {clip: each.scores[name] for clip, each in watched.items()}
            metrics += measure.mean_score(name, GENERATOR, better, "", scores, groups)
        else:
            why = "no sound could be made again"
            metrics.append(measure.absent(name, GENERATOR, better, 0, why))

    def with_scores(clip: ScoredClip) -> ScoredClip:
        if clip.name not in watched:
            return clip
        each = watched[clip.name]
        return replace(clip, scores=clip.scores | each.scores, words=each.words)

    return replace(system, metrics=tuple(metrics), rows=tuple(map(with_scores, system.rows)))


def _notes(
    system: System, watched: Mapping[str, RecordedAttention], reasons: Reasons
) -> Iterator[str]:
    for reason, paths in sorted(reasons.items(), key=lambda item: -len(item[1])):
        were = "sounds were" if len(paths) > 1 else "sound was"
        yield (
            f"{system.name}: {len(paths)} {were} left out of the attention: {reason}:"
            f" {some_of(paths)}"
        )
    others = [c.path for c in system.rows if c.name in watched and not watched[c.name].is_same]
    if others:
        come = "sounds come" if len(others) > 1 else "sound comes"
        files = "files" if len(others) > 1 else "file"
        yield (
            f"{system.name}: {len(others)} {come} out differently than in the {files}, and the"
            f" attention is that of the new sound: {some_of(others)}"
        )
