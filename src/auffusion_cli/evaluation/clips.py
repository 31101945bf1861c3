"""The sounds of a folder: found, checked, hashed, paired with a reference, and given their prompts.

Every file found is either measured or named in a `FlaggedFile`; none is dropped in silence. Only
two kinds are left out of the numbers: files that cannot be read, and the second of two files with
one name. A silent clip stays in: it is what the system made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from auffusion_cli.errors import AudioError, AuffusionError, DataError
from auffusion_cli.evaluation.result import ClipSet, Flag, FlaggedFile
from auffusion_cli.files import hash_file
from auffusion_cli.requests.provenance import Provenance, hash_samples
from auffusion_cli.requests.request import (
    EditRequest,
    ExtendRequest,
    GenerateRequest,
    InpaintRequest,
    TimelineRequest,
)
from auffusion_cli.requests.shards import Shard
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.formats import AUDIO_SUFFIXES, SOUND_SUFFIXES, sounds_among
from auffusion_cli.signal.sound_file import read_provenance

SILENCE = 1e-3
"""Full scale is 1, so this is -60 dBFS."""
FULL_SCALE = 0.999
CLIPPED_SHARE = 1e-3
MIN_DURATION_S = 1.0
"""A frame of VGGish has 0.96 s."""

PARTLY_PROMPTED = (TimelineRequest.task, InpaintRequest.task, ExtendRequest.task)
"""Tasks whose prompt is not for the whole sound."""

OnClip = Callable[[int, int], None]
"""(clips done, clips in all)"""


@dataclass(frozen=True)
class SoundFile:
    """A file that can be measured."""

    path: Path
    relative: str
    """To the folder of its set, with forward slashes."""
    sha256: str
    """Checksum of the file."""
    samples_sha256: str
    """Checksum of rate and samples: equal for copies in other formats or with other tags."""
    duration_s: float
    prompt: str | None
    """The prompt in its own record."""

    @property
    def name(self) -> str:
        """The name by which clips are paired."""
        return clip_name(self.relative)


@dataclass(frozen=True)
class SoundFolder:
    """The sounds of a folder."""

    clips: tuple[SoundFile, ...]
    """Clips to measure, sorted by path."""
    record: ClipSet
    """Everything found and its flaws, for the result."""


# --- finding and checking


def find_sounds(folder: Path) -> list[str]:
    """Paths of the sound files under `folder`, relative to it, sorted.

    Hidden files and folders are passed over, links to folders are not followed.

    Raises:
        DataError: there is no such folder, or no sound in it.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {problem}")
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (name for name in names if not name.startswith("."))
        paths = [Path(parent, name) for name in sounds_among(shown)]
        found += [
            path.relative_to(folder).as_posix()
            for path in paths
            if path.is_file()  # no pipe or device
        ]
    if not found:
        raise DataError(
            f"{folder}: holds no sound files",
            hint=f"Valid: {', '.join(AUDIO_SUFFIXES)}; folders in it are searched too.",
        )
    return sorted(found)


def scan_folder(folder: Path, sample_rate_hz: int, on_clip: OnClip | None = None) -> SoundFolder:
    """Read and check every sound of `folder` once.

    Args:
        sample_rate_hz: rate of the metrics; other rates are a finding.

    Raises:
        DataError: nothing is left to measure.
    """
    names = find_sounds(folder)
    clips: list[SoundFile] = []
    findings: list[FlaggedFile] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        looks = readers.map(lambda name: _scan_file(folder, name, sample_rate_hz), names)
        for n_done, (clip, found) in enumerate(looks, 1):
            findings += found
            if clip is not None:
                clips.append(clip)
            if on_clip is not None:
                on_clip(n_done, len(names))
    if not clips:
        raise DataError(
            f"{folder}: none of its {len(names)} sound files can be read; {findings[0].path}: "
            + findings[0].detail
        )
    clips, same_name = _without_same_names(clips)
    findings += same_name + _duplicates(clips)
    findings.sort(key=lambda finding: (finding.path, finding.flag))
    record = ClipSet(str(folder), len(names), len(clips), set_hash(clips), tuple(findings))
    return SoundFolder(tuple(clips), record)


def readable_sounds(folder: Path, share: Shard, sample_rate_hz: int) -> list[SoundFile]:
    """The sounds of a share of the files in `folder` that can be read, not compared with others."""
    scans = (_scan_file(folder, name, sample_rate_hz) for name in share.of(find_sounds(folder)))
    return [clip for clip, _ in scans if clip is not None]


def _scan_file(
    folder: Path, relative: str, sample_rate_hz: int
) -> tuple[SoundFile | None, list[FlaggedFile]]:
    path = folder / relative
    try:
        samples, rate_hz = read_audio(path)
        prompt = prompt_inside(path)
        sha256 = hash_file(path)
    except (AudioError, OSError, MemoryError) as error:
        reason = str(error).removeprefix(f"{path}: ") or "does not fit into memory"
        return None, [FlaggedFile("unreadable", relative, reason, excluded=True)]
    digest = hashlib.sha256(f"{rate_hz} {samples.shape} {hash_samples(samples)}".encode())
    clip = SoundFile(
        path=path,
        relative=relative,
        sha256=sha256,
        samples_sha256=digest.hexdigest(),
        duration_s=samples.shape[1] / rate_hz,
        prompt=prompt,
    )
    flaws = flaws_of_samples(samples) | flaws_of_form(samples.shape, rate_hz, sample_rate_hz)
    return clip, [FlaggedFile(flag, relative, why, excluded=False) for flag, why in flaws.items()]


def prompt_inside(path: Path) -> str | None:
    """The prompt that `auffusion` put into the file; None where there is none that can be one.

    For a sound whose words were edited it is the edited prompt. A prompt for a part of the sound is
    none for the whole.
    """
    record = read_provenance(path) or {}
    prompt = record.get("prompt")
    if record.get("task") in PARTLY_PROMPTED:
        return None
    try:
        if record.get("task") == EditRequest.task:
            prompt = Provenance.from_dict(record, str(path)).request.word_edit.prompt
        return as_prompt(prompt)
    except AuffusionError:
        return None


def as_prompt(text: object) -> str:
    """`text` in one line: tabs and other kinds of spaces become plain ones.

    Raises:
        UsageError: `generate` would not take it.
    """
    return re.sub(r"\s", " ", GenerateRequest(text, seed=0).prompt)


# --- guards


def flaws_of_samples(samples: np.ndarray) -> dict[Flag, str]:
    """Flaws of samples (C, N), full scale at -1..1: flag -> detail.

    silent: every channel stays within 0.001 (-60 dBFS) of zero; constant: of some other value;
    clipped: 0.1 % of the samples or more lie in runs of three or more at full scale.
    """
    found: dict[Flag, str] = {}
    offset = samples.mean(axis=1, keepdims=True, dtype=np.float64)
    if np.abs(samples - offset).max() <= SILENCE:
        level = float(np.abs(offset).max())
        if level <= SILENCE:
            found["silent"] = "nothing above -60 dBFS"
        else:
            found["constant"] = f"every sample is {level:.3g} of full scale"
    full = np.abs(samples) >= FULL_SCALE
    middles = full[:, :-2] & full[:, 1:-1] & full[:, 2:]
    in_runs = np.zeros_like(full)
    for shift in range(3):
        in_runs[:, shift : shift + middles.shape[1]] |= middles
    share = in_runs.mean()
    if share >= CLIPPED_SHARE and "constant" not in found:
        found["clipped"] = f"{share:.1%} of its samples are held at full scale"
    return found


def flaws_of_form(shape: tuple[int, int], rate_hz: int, wanted_hz: int) -> dict[Flag, str]:
    """Flaws of a sound of `shape` (C, N) at `rate_hz`, where metrics take `wanted_hz`."""
    n_channels, n_samples = shape
    found: dict[Flag, str] = {}
    if n_samples < MIN_DURATION_S * rate_hz:
        found["too-short"] = f"{n_samples / rate_hz:.2f} s, shorter than {MIN_DURATION_S:g} s"
    if rate_hz != wanted_hz:
        found["wrong-rate"] = f"{rate_hz:,} Hz, resampled to {wanted_hz:,} Hz" + (
            f": nothing above {rate_hz // 2:,} Hz" if rate_hz < wanted_hz else ""
        )
    if n_channels > 1:
        found["several-channels"] = f"{n_channels} channels, reduced to one"
    return found


def _without_same_names(
    clips: Sequence[SoundFile],
) -> tuple[list[SoundFile], list[FlaggedFile]]:
    """Only the first of a.flac and a.wav can be paired with the a.wav of another folder."""
    first: dict[str, SoundFile] = {}
    findings = []
    for clip in clips:
        other = first.setdefault(clip.name, clip)
        if other is not clip:
            why = f"has the name of {other.relative}, which stands for both"
            findings.append(FlaggedFile("same-name", clip.relative, why, excluded=True))
    return list(first.values()), findings


def _duplicates(clips: Sequence[SoundFile]) -> list[FlaggedFile]:
    first: dict[str, SoundFile] = {}
    findings = []
    for clip in clips:
        other = first.setdefault(clip.samples_sha256, clip)
        if other is not clip:
            why = f"the same sound as {other.relative}"
            findings.append(FlaggedFile("duplicate", clip.relative, why, excluded=False))
    return findings


def in_reference(generated: SoundFolder, reference: SoundFolder) -> list[FlaggedFile]:
    """Generated sounds that are real ones: memorised, copied, or the wrong folder."""
    real = {clip.samples_sha256: clip.relative for clip in reversed(reference.clips)}
    return [
        FlaggedFile(
            "in-reference", clip.relative, f"the same sound as {real[key]} in the reference", False
        )
        for clip in generated.clips
        if (key := clip.samples_sha256) in real
    ]


def without_partner(generated: SoundFolder, reference: SoundFolder) -> list[FlaggedFile]:
    """Generated sounds without a real one of their name."""
    real = {clip.name for clip in reference.clips}
    return [
        FlaggedFile("no-partner", clip.relative, "no file of this name in the reference", False)
        for clip in generated.clips
        if clip.name not in real
    ]


def counts(findings: Iterable[FlaggedFile]) -> Counter[Flag]:
    """Number of files with each flag."""
    return Counter(finding.flag for finding in findings)


# --- names and sets


def clip_name(relative: str) -> str:
    """The name by which a clip is paired: its path without the suffix of a sound file.

    `a.wav.flac`, which `generate -o "{name}.flac"` makes of a list with `a.wav`, is `a`, too.
    """
    path = PurePosixPath(relative)
    while path.suffix.lower() in SOUND_SUFFIXES:
        path = path.with_suffix("")
    return str(path)


def set_hash(clips: Iterable[SoundFile]) -> str:
    """SHA-256 of the sorted names and contents of `clips`."""
    return hash_pairs((clip.relative, clip.sha256) for clip in clips)


def hash_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of names and what belongs to them, in sorted order."""
    return hashlib.sha256(json.dumps(sorted(pairs)).encode()).hexdigest()
