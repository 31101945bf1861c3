"""An evaluation as a page with its sounds: one HTML file that needs nothing else.

The numbers are in the page as text; the clips are data that `report_page/page.js` draws when they
come into view. Small sets carry their sounds inside the page, larger ones in a folder beside it.

Everything in a result comes from outside: paths have to stay in the folder of their set, and a
sound has to be the one that was measured. `pages` escapes all text.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote

import numpy as np
import soundfile
from PIL import Image

from auffusion_cli.errors import (
    AudioError,
    AuffusionWarning,
    DataError,
    OutputExistsError,
    UsageError,
)
from auffusion_cli.evaluation.pages import data_url, shown
from auffusion_cli.evaluation.report_html import decimals, render
from auffusion_cli.evaluation.result import Evaluation, ScoredClip, System
from auffusion_cli.files import (
    atomic_file,
    atomic_folder,
    clear_unfinished,
    folder_of,
)
from auffusion_cli.pictures.spectrogram import colour
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.formats import AUDIO_SUFFIXES
from auffusion_cli.signal.spectrogram import LogMel

EMBEDDED_BYTES = 20_000_000
"""Sounds of up to this size together are inside of the page, a third larger as base64."""
PICTURE_HEIGHT_PX = 128
PIXELS_PER_SECOND = 64
MIN_PICTURE_WIDTH_PX, MAX_PICTURE_WIDTH_PX = 96, 640
QUIET_DB = -20.0
"""Mel level of the loudest cell below which a clip is drawn darker: noise at about -16 dBFS."""
MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".webp": "image/webp",
}
"""Files that browsers play and show; other sounds become FLAC."""
OWN_FILE = re.compile(r"\d{6}\.(?:" + "|".join(suffix[1:] for suffix in MEDIA_TYPES) + ")")

OnSound = Callable[[int, int], None]
"""(sounds done, sounds in all)"""


@dataclass(frozen=True)
class Report:
    """The files written."""

    page: Path
    folder: Path | None
    """Folder of the sounds and pictures; None where they are inside the page."""
    n_bytes: int
    """Size of page and folder together."""


@dataclass(frozen=True)
class _Sound:
    """A file that a clip's row shows."""

    folder: str
    path: str
    sha256: str | None
    """Checksum of the measured file; None where the result has none (the reference)."""


@dataclass(frozen=True)
class _Media:
    """Addresses of a sound and its picture in the page, or the `problem` that prevents them."""

    sound: str | None = None
    picture: str | None = None
    duration_s: float = 0.0
    problem: str | None = None


def write_report(
    evaluation: Evaluation,
    path: Path,
    *,
    attention: Sequence[tuple[str, Path]] = (),
    overwrite: bool = False,
    embedded_bytes: int = EMBEDDED_BYTES,
    on_sound: OnSound | None = None,
) -> Report:
    """Write `path`, and `files_folder(path)` where the sounds exceed `embedded_bytes`.

    The sounds are read from the folders that the result names. One that is missing or has changed
    since is shown without sound, with an AuffusionWarning. Page and folder appear when they are
    whole; what was there before stays until then. The PNGs of `attention`, each with its prompt,
    are inside the page.

    Raises:
        UsageError: `path` cannot be written, or exists and `overwrite` is not set.
        DataError: a path in the result leads out of its folder.
    """
    check_target(path, overwrite=overwrite)
    names, sounds = _sounds_of(evaluation)
    n_bytes = sum(_size(sound) for sound in sounds)
    folder = files_folder(path) if n_bytes > embedded_bytes else None
    with folder_of(path):
        clear_unfinished(path.parent)
        with atomic_file(path) as page, _files_to_fill(folder) as files:
            media = _prepare(sounds, files, quote(os.fsencode(files_folder(path).name)), on_sound)
            clips = _clips_data(evaluation, names, media)
            drawn = [
                (prompt, data_url("image/png", file.read_bytes())) for prompt, file in attention
            ]
            page.write_text(
                render(evaluation, clips, _sounds_note(folder, n_bytes), drawn), encoding="utf-8"
            )
            written = [page, *(files.iterdir() if files else ())]
            n_written = sum(file.stat().st_size for file in written)
        if folder is None and os.path.lexists(files_folder(path)):
            shutil.rmtree(files_folder(path))  # of the page that was replaced
    problems = [f"{s.path}: {m.problem}" for s, m in media.items() if m.problem]
    if problems:
        warnings.warn(
            f"{len(problems)} sounds are missing from {path}; {problems[0]}",
            AuffusionWarning,
            stacklevel=2,
        )
    return Report(path, folder, n_written)


# --- where it goes


def files_folder(path: Path) -> Path:
    """The folder beside a page that has its sounds and pictures, where it needs one."""
    return path.with_name(f"{path.stem}-files")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise a UsageError unless a report can be written to `path`; to ask before the work."""
    folder = files_folder(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {path}: has to end in .html")
    if path.is_dir():
        raise UsageError(f"--report {path}: is a folder")
    if not overwrite and (there := next((p for p in (path, folder) if os.path.lexists(p)), None)):
        raise OutputExistsError(
            f"{there} exists", hint="Give another --report, or --overwrite to replace it."
        )
    if os.path.lexists(folder) and not _is_of_a_report(folder):
        raise OutputExistsError(
            f"{folder} holds files that no report has written: it is not replaced",
            hint="Give another --report, or move that folder away.",
        )


def _is_of_a_report(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(OWN_FILE.fullmatch(entry.name) and entry.is_file() for entry in folder.iterdir())


def _files_to_fill(folder: Path | None) -> AbstractContextManager[Path | None]:
    return nullcontext() if folder is None else atomic_folder(folder)


def _sounds_note(folder: Path | None, n_bytes: int) -> str:
    size = f"{n_bytes / 1e6:,.1f} MB"
    if folder is None:
        return f"The sounds ({size}) are inside this page."
    return f"The sounds ({size}) are in the folder {folder.name}: move it with the page."


# --- sounds


def _sounds_of(evaluation: Evaluation) -> tuple[list[str], list[_Sound]]:
    """The names of all clips, sorted, and every file that is shown, once."""
    sounds: dict[_Sound, None] = {}
    names: set[str] = set()
    for system in evaluation.systems:
        for clip in system.rows:
            names.add(clip.name)
            sounds[_generated(system, clip)] = None
            if (real := _real(evaluation, clip)) is not None:
                sounds[real] = None
    return sorted(names), list(sounds)


def _generated(system: System, clip: ScoredClip) -> _Sound:
    return _Sound(system.clips.folder, _inside(clip.path), clip.sha256)


def _real(evaluation: Evaluation, clip: ScoredClip) -> _Sound | None:
    if evaluation.reference is None or clip.reference_path is None:
        return None
    return _Sound(evaluation.reference.folder, _inside(clip.reference_path), None)


def _inside(path: str) -> str:
    """`path` as it is, if it leads to a sound below the folder it is relative to on any system.

    Links are not looked at: whoever owns the folder has put them there.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    windows = PureWindowsPath(path)
    outside = path.startswith(("/", "\\")) or windows.drive or ".." in parts or "\0" in path
    if outside or Path(path).suffix.lower() not in AUDIO_SUFFIXES:
        raise DataError(f"the result names a file that cannot be one of its sounds: {path[:200]!r}")
    return path


def _size(sound: _Sound) -> int:
    try:
        return os.stat(os.path.join(sound.folder, sound.path)).st_size
    except OSError:
        return 0


def _prepare(
    sounds: Sequence[_Sound], folder: Path | None, url: str, on_sound: OnSound | None
) -> dict[_Sound, _Media]:
    """Each sound with its picture, embedded, or in `folder`, which the page finds at `url`."""
    media: dict[_Sound, _Media] = {}
    readers = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        numbered = enumerate(sounds)
        done = readers.map(lambda item: _prepare_one(item[0], item[1], folder, url), numbered)
        for n_done, (sound, one) in enumerate(zip(sounds, done, strict=True), 1):
            media[sound] = one
            if on_sound is not None:
                on_sound(n_done, len(sounds))
    finally:
        readers.shutdown(cancel_futures=True)
    return media


def _prepare_one(number: int, sound: _Sound, folder: Path | None, url: str) -> _Media:
    path = Path(sound.folder, sound.path)
    try:
        waveform, rate_hz = read_audio(path, _log_mel().config.sample_rate_hz, mono=True)
        content = path.read_bytes()
    except (AudioError, OSError) as error:
        return _Media(problem=str(error).removeprefix(f"{path}: "))
    if sound.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        return _Media(problem="has changed since it was measured")
    picture = draw(waveform[0])
    suffix = path.suffix.lower()
    if suffix not in MEDIA_TYPES:
        try:
            suffix, content = ".flac", _as_flac(path)
        except (AudioError, soundfile.SoundFileError) as error:
            return _Media(problem=str(error).removeprefix(f"{path}: "))

    def address(suffix: str, content: bytes) -> str:
        if folder is None:
            return data_url(MEDIA_TYPES[suffix], content)
        name = f"{number:06d}{suffix}"
        (folder / name).write_bytes(content)
        return f"{url}/{name}"

    return _Media(
        sound=address(suffix, content),
        picture=address(".webp", picture),
        duration_s=waveform.shape[1] / rate_hz,
    )


def _as_flac(path: Path) -> bytes:
    waveform, rate_hz = read_audio(path)
    content = BytesIO()
    soundfile.write(content, waveform.T, rate_hz, format="FLAC")
    return content.getvalue()


def draw(waveform: np.ndarray) -> bytes:
    """A spectrogram of (N,) samples at 16 kHz as a small WebP; no axes, soft clips stay dark."""
    analysis = _log_mel()
    config = analysis.config
    n_missing = max(config.hop_length_samples - len(waveform), 0)
    log_mel = analysis(np.pad(waveform, (0, n_missing))[None])[0]
    width = round(config.frames_to_seconds(log_mel.shape[1]) * PIXELS_PER_SECOND)
    size = (min(max(width, MIN_PICTURE_WIDTH_PX), MAX_PICTURE_WIDTH_PX), PICTURE_HEIGHT_PX)
    picture = Image.fromarray(colour(log_mel, quiet_db=QUIET_DB)).resize(size, Image.BICUBIC)
    content = BytesIO()
    picture.save(content, "WEBP", quality=70, method=4)
    return content.getvalue()


@cache
def _log_mel() -> LogMel:
    return LogMel()


# --- the clips, as data for the page


def _clips_data(
    evaluation: Evaluation, names: Sequence[str], media: dict[_Sound, _Media]
) -> dict[str, object]:
    """The data that `page.js` draws: systems, scores, and the sounds of each name."""
    rows = [{clip.name: clip for clip in system.rows} for system in evaluation.systems]
    number = {sound: i for i, sound in enumerate(media)}  # one may stand in many rows
    clips = []
    for name in names:
        made = [row.get(name) for row in rows]
        there = [clip for clip in made if clip is not None]
        real = next((r for clip in there if (r := _real(evaluation, clip)) is not None), None)
        clips.append(
            {
                "name": shown(name),
                "prompt": next((shown(c.prompt) for c in there if c.prompt), None),
                "events": next((c.n_events for c in there if c.n_events), None),
                "sounds": [
                    clip
                    and {
                        "file": number[_generated(system, clip)],
                        "path": shown(clip.path),
                        "scores": clip.scores,
                        "flags": list(clip.flags),
                        "classes": [
                            asdict(one) | {"name": shown(one.name)} for one in clip.classes
                        ],
                        "words": [asdict(word) | {"word": shown(word.word)} for word in clip.words],
                    }
                    for system, clip in zip(evaluation.systems, made, strict=True)
                ],
                "reference": real and {"file": number[real], "path": shown(real.path)},
            }
        )
    return {
        "systems": [shown(system.name) for system in evaluation.systems],
        "hasReference": evaluation.reference is not None,
        "scores": _clip_scores(evaluation.systems),
        "wordDecimals": _word_decimals(evaluation.systems),
        "clips": clips,
        "files": [
            {
                "sound": one.sound,
                "picture": one.picture,
                "duration": round(one.duration_s, 3),
                "problem": one.problem and shown(one.problem),
            }
            for one in media.values()
        ],
    }


def _clip_scores(systems: Sequence[System]) -> list[dict[str, str | int]]:
    """The scores that single clips have, with the direction of the metric and decimals to show."""
    values: dict[str, list[float]] = {}
    for clip in (clip for system in systems for clip in system.rows):
        for name, value in clip.scores.items():
            values.setdefault(name, []).append(value)
    metrics = {m.name: m for system in systems for m in system.metrics}
    return [
        {
            "name": name,
            "better": metrics[name].better if name in metrics else "higher",
            "decimals": decimals(of_clips, [max(of_clips) - min(of_clips)]),
        }
        for name, of_clips in values.items()
    ]


def _word_decimals(systems: Sequence[System]) -> int:
    """Decimals for the entropy of words: enough to distinguish the words of all clips."""
    entropies = [word.entropy for s in systems for clip in s.rows for word in clip.words]
    return decimals(entropies, [max(entropies) - min(entropies)] if entropies else ())
