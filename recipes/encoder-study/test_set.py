"""Compose the test set of embedded.yaml: real sounds of one to three events, and their prompts.

    python recipes/encoder-study/test_set.py --data data/embedded-sounds -o runs/encoder-test

The sounds are layers of held-out clips of the kinds in diffusion.yaml. One half of the prompts is
made of the phrases of the training's captions (`known-…`), the other of wordings that no caption
has (`new-…`, from recipes/embedded/wordings.yaml).
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.evaluation.events import count_events
from auffusion_cli.files import atomic_folder
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.config_file import load_config
from auffusion_cli.training.data import load_clips
from auffusion_cli.training.scenes import PEAK, lay_alone

FOLDER = Path(__file__).parent
WORDINGS = FOLDER.parent / "embedded" / "wordings.yaml"
JOINED = ("{}", "{} and {}", "{}, {} and {}")
"""Prompts of one, two and three events."""
LAYER_GAIN = 0.6
"""Of every layer after the first."""


@dataclass(frozen=True)
class Kind:
    """One kind of sound: its held-out clips, and what it is called."""

    clips: Sequence[int]
    known: Sequence[str]
    new: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the embedded model's sounds")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--counts", type=int, nargs=3, default=(32, 32, 16), help="of 1, 2 and 3 events"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scenes = load_config(FOLDER / "diffusion.yaml", {}).scenes
    store = ClipStore(load_clips(arguments.data, "test").clips, SpectrogramConfig().sample_rate_hz)
    kinds = find_kinds(store, scenes, yaml.safe_load(WORDINGS.read_text("utf-8")))
    with atomic_folder(arguments.output) as folder:
        n = compose_all(folder, store, scenes, kinds, arguments.counts, arguments.seed)
    print(f"{arguments.output}: {n} prompts and real sounds of {len(kinds)} kinds")


def find_kinds(
    store: ClipStore, scenes: SceneConfig, wordings: dict[str, list[str]]
) -> dict[str, Kind]:
    """The kinds of `scenes`, each with its clips and wordings."""
    captions = {text for clip in store.clips for text in clip.wordings.captions}
    kinds = {}
    for name in scenes.kinds:
        clips = [i for i, clip in enumerate(store.clips) if clip.kind == name]
        known = sorted({phrase for i in clips for phrase in store.clips[i].phrases})
        new = [text for text in wordings[name] if count_events(text) == 1]
        kinds[name] = Kind(clips, known, sorted(set(new) - captions - set(known)))
    return kinds


def compose_all(
    folder: Path,
    store: ClipStore,
    scenes: SceneConfig,
    kinds: dict[str, Kind],
    counts: Sequence[int],
    seed: int,
) -> int:
    """Write `real/NAME.flac` and `prompts.csv`; returns their number."""
    (folder / "real").mkdir()
    rng, rows = random.Random(seed), []
    for n_events, n in enumerate(counts, 1):
        for number in range(n):
            # Kinds in turn, so that each is as frequent.
            names = sorted(kinds)
            first = names.pop(number % len(names))
            chosen = [kinds[name] for name in (first, *rng.sample(names, n_events - 1))]
            wording = "known" if number % (2 * len(kinds)) < len(kinds) else "new"
            texts = [rng.choice(getattr(kind, wording)) for kind in chosen]
            layers = [
                lay_alone(store, scenes, rng.getrandbits(32), rng.choice(kind.clips)).waveform
                for kind in chosen
            ]
            sound = layers[0] + LAYER_GAIN * sum(layers[1:])
            name = f"{wording}-{n_events}-{number:03}"
            sound = (sound * (PEAK / sound.abs().max())).numpy()
            write_audio(folder / "real" / f"{name}.flac", sound, store.sample_rate_hz)
            rows.append((name, JOINED[n_events - 1].format(*texts)))
    with (folder / "prompts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "prompt"), *rows])
    return len(rows)


if __name__ == "__main__":
    main()
