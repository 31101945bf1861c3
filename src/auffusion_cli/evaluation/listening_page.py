"""A listening test as a folder: one page and its sounds, which need no server, and a key apart.

Nothing in the folder says which system made a sound: files have random names, one format, and only
their samples. The key says it, and is written beside the folder, for whoever holds the test.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auffusion_cli.errors import AuffusionWarning, OutputExistsError, UsageError
from auffusion_cli.evaluation.captions import match_captions
from auffusion_cli.evaluation.clips import clip_name, find_sounds, prompt_inside
from auffusion_cli.evaluation.listening import HIGHEST, LOWEST, Key, Trial
from auffusion_cli.evaluation.pages import render_page, shown
from auffusion_cli.files import atomic_folder, folder_of, write_text
from auffusion_cli.parsing import plain
from auffusion_cli.requests.finish import Finish
from auffusion_cli.signal.audio import read_audio, write_audio
from auffusion_cli.signal.finish import finish

PAGE, SOUNDS = "index.html", "sounds"
OWN_SOUND = re.compile(r"[0-9a-f]{16}\.flac")
LOUDNESS_LUFS = -23.0
"""Of all sounds, where they are matched: that of programmes (EBU R 128)."""
ASKED_RATINGS = range(15, 86)
"""From which an instruction's rating is drawn: no end of the slider, which one hits by chance."""
NOISE_AMPLITUDE = 0.1
INTERRUPTIONS_HZ = 4

OnSound = Callable[[int, int], None]
"""(sounds done, sounds in all)"""


@dataclass(frozen=True)
class Clip:
    """One clip as all systems made it."""

    name: str
    words: str
    sounds: Mapping[str, Path]
    """system -> file"""


# --- the material


def pair_clips(
    systems: Mapping[str, Path], captions: Mapping[str, str] | None
) -> tuple[list[Clip], list[str]]:
    """The clips that all of `systems` have, by name, and the names that only some have.

    Args:
        captions: clip name -> words; None for those in the files' own records.

    Raises:
        DataError: a folder has no sounds.
        UsageError: two sounds of a folder have one name, there is no common clip, one has no words,
            or the records contradict each other.
    """
    files = {system: _by_name(folder) for system, folder in systems.items()}
    every = sorted(set().union(*files.values()))
    common = [name for name in every if all(name in of for of in files.values())]
    if not common:
        raise UsageError(
            f"no sound has the same name in all of {', '.join(map(str, systems.values()))}",
            hint="Clips are paired by their names without the suffix.",
        )
    clips = [{system: of[name] for system, of in files.items()} for name in common]
    if captions is None:
        words = [_recorded_words(sounds) for sounds in clips]
    else:
        found: dict[str, str] = {}
        for folder in systems.values():
            found |= match_captions(captions, common, folder)
        words = [captions.get(found.get(name, "")) for name in common]
    if None in words:
        n_without = words.count(None)
        raise UsageError(
            f"{n_without} of {len(common)} clips, such as {common[words.index(None)]!r}, "
            f"{'has' if n_without == 1 else 'have'} no words to compare with",
            hint="--prompts FILE gives a .csv or .jsonl with the clips' names and words.",
        )
    paired = [Clip(*one) for one in zip(common, words, clips, strict=True)]
    return paired, [name for name in every if name not in set(common)]


def _by_name(folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for sound in find_sounds(folder):
        path = folder / sound
        if (other := paths.setdefault(clip_name(sound), path)) is not path:
            raise UsageError(
                f"{other} and {path} have one name",
                hint="Clips are paired by their names without the suffix: move one of them away.",
            )
    return paths


def _recorded_words(sounds: Mapping[str, Path]) -> str | None:
    words = {text: path for path in sounds.values() if (text := prompt_inside(path)) is not None}
    if len(words) > 1:
        first, second = list(words.values())[:2]
        raise UsageError(
            f"{first} and {second} were made with different words",
            hint="--prompts FILE says which words belong to the clip.",
        )
    return next(iter(words), None)


# --- the folder


def key_path(output: Path) -> Path:
    """Where the key of a test goes: beside its folder, which is given away."""
    return output.with_name(f"{output.resolve().name}.key.json")


def check_target(output: Path, *, overwrite: bool) -> None:
    """Raise a UsageError unless a test can be written to `output`; to ask before the work."""
    for path in (output, key_path(output)):
        if path.exists() and not overwrite:
            raise OutputExistsError(
                f"{path} exists", hint="Give another --output, or --overwrite to replace it."
            )
    if output.exists() and not _is_a_test(output):
        raise OutputExistsError(
            f"{output} holds files of no listening test: it is not replaced",
            hint="Give another --output, or move it away.",
        )


def _is_a_test(folder: Path) -> bool:
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= {PAGE, SOUNDS}:
        return False
    sounds = folder / SOUNDS
    return not sounds.exists() or all(OWN_SOUND.fullmatch(path.name) for path in sounds.iterdir())


def write_test(
    clips: Sequence[Clip],
    output: Path,
    *,
    title: str,
    n_catch: int,
    n_clips_each: int,
    match_loudness: bool = True,
    overwrite: bool = False,
    on_sound: OnSound | None = None,
) -> Key:
    """Write the folder `output` and, at `key_path(output)`, its key; both appear when whole.

    Args:
        n_catch: catch trials, which every listener is given; every other is noise, the rest are
            instructions.
        n_clips_each: clips that a listener is given, in all systems.
        match_loudness: bring all sounds to `LOUDNESS_LUFS`, as far as their peaks allow.

    Raises:
        AudioError: a sound cannot be read or written.
        UsageError: `output` is taken.
    """
    check_target(output, overwrite=overwrite)
    drawn = random.SystemRandom()
    systems = tuple(clips[0].sounds)
    trials, groups = [], []
    n_sounds = len(clips) * len(systems) + n_catch
    asked = Finish(loudness_lufs=LOUDNESS_LUFS if match_loudness else None)
    n_missed = 0
    with folder_of(output), atomic_folder(output, overwrite=overwrite) as folder:
        (folder / SOUNDS).mkdir()

        def add(trial: Trial, waveform: np.ndarray, rate_hz: int, words: str) -> dict[str, str]:
            nonlocal n_missed
            finished = finish(waveform, rate_hz, asked)
            n_missed += finished.missed_lufs is not None
            write_audio(folder / SOUNDS / f"{trial.id}.flac", finished.waveform, rate_hz)
            trials.append(trial)
            if on_sound is not None:
                on_sound(len(trials), n_sounds)
            return {"id": trial.id, "words": shown(words)}

        for clip in clips:
            group = [
                add(Trial(_token(), "sound", clip.name, system), *read_audio(path), clip.words)
                for system, path in clip.sounds.items()
            ]
            drawn.shuffle(group)
            groups.append(group)
        catch = []
        for i, clip in enumerate(drawn.choices(clips, k=n_catch)):
            waveform, rate_hz = read_audio(drawn.choice(list(clip.sounds.values())))
            if i % 2:
                rating = drawn.choice(ASKED_RATINGS)
                trial = Trial(_token(), "instruction", clip.name, rating=rating)
                words = f"This is a check of attention: please set both sliders to {rating}."
            else:
                trial, words = Trial(_token(), "noise", clip.name), clip.words
                waveform = _interrupted_noise(waveform.shape, rate_hz)
            catch.append(add(trial, waveform, rate_hz, words))
        for path in (folder / SOUNDS).iterdir():  # else the times tell the order of systems
            os.utime(path, (0, 0))
        drawn.shuffle(groups)
        n_given = n_clips_each * len(systems) + n_catch
        key = Key(_token(), title, systems, tuple(trials), n_given)
        data = {"test": key.test, "clipsEach": n_clips_each, "groups": groups, "always": catch}
        (folder / PAGE).write_text(render(title, data, n_given), encoding="utf-8")
        write_text(key_path(output), json.dumps(plain(key), ensure_ascii=False, indent=1) + "\n")
    if n_missed:
        warnings.warn(
            f"{n_missed} of {n_sounds} sounds stay below {LOUDNESS_LUFS:g} LUFS, as their peaks "
            "would be clipped",
            AuffusionWarning,
            stacklevel=2,
        )
    return key


def _token() -> str:
    return secrets.token_hex(8)


def _interrupted_noise(shape: tuple[int, int], rate_hz: int) -> np.ndarray:
    """Noise that nobody takes for a recording of rain: it is cut every eighth of a second."""
    noise = np.random.default_rng().normal(0, NOISE_AMPLITUDE, shape).astype(np.float32)
    return noise * (np.arange(shape[1]) * 2 * INTERRUPTIONS_HZ // rate_hz % 2 == 0)


# --- the page


def render(title: str, data: Mapping[str, Any], n_given: int) -> str:
    """The page: `data` is what its script reads."""
    return render_page(
        "listening_test", data, title=title, n_given=n_given, lowest=LOWEST, highest=HIGHEST
    )
