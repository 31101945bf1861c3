"""What does a classifier that never heard our clips hear? The first table of the model card.

    pip install ai-edge-litert
    python recipes/embedded/measure_independent.py --model weights/embedded --data DATA \
        --judge DIR -o runs/independent.json

DIR holds YAMNet, which was trained on AudioSet by others: `yamnet.tflite`, which maps 0.975 s at
16 kHz to the scores of 521 classes, and `classes.csv`, the published map with a `display_name`. A
sound has the largest score of each class over its windows, and is right where one of its kind's
classes (`audioset.yaml`) is among the first ones. Judged are:

- real: held-out clips of the kinds, up to `--per-kind`;
- mel, latent: the same through the vocoder alone, and through the latent as well;
- known, other: sounds from captions of `kinds.yaml`, and from wordings that were never taught;
- pairs: an event before a background, and as the ceiling a mix of two real clips.

Writes a JSON file with every sound's prompt, seed, ranks and first classes, and prints the table.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from classifier import hit_interval, load_store
from words import load_words

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.codec.codec import Codec, decoding_noise
from auffusion_cli.errors import AuffusionError
from auffusion_cli.files import write_text
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.requests.seeds import line_seed
from auffusion_cli.signal.spectrogram import normalize_peak
from auffusion_cli.tasks.generate import generate
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.scenes import lay_alone

WINDOW_SAMPLES, HOP_SAMPLES = 15_600, 7_680
SCENES = SceneConfig(duration_s=5.0, pitch_range=0.0)
BACKGROUND_DB = -6.0
N_FIRST = 3
"""How many of the first classes the result names."""


@dataclass(frozen=True)
class Table:
    """`audioset.yaml`."""

    classes: dict[str, list[str]]
    noise_like: list[str]
    pairs: list[tuple[str, str, str]]
    umbrella: list[str]


@dataclass(frozen=True)
class Sound:
    """One sound to judge: what it is of, and what it was made from."""

    kinds: tuple[str, ...]
    waveform: np.ndarray
    """(N,) at 16 kHz."""
    source: str
    """Its prompt, or the name of its clip."""
    seed: int | None = None


@dataclass(frozen=True)
class Verdict:
    """At which rank the classifier has each kind of a sound, 1 is the first."""

    kinds: tuple[str, ...]
    ranks: tuple[int, ...]
    first: tuple[str, ...]
    source: str
    seed: int | None


class Judge:
    """A classifier by class names; `score` maps windows (n, 15600) to scores (n, n_classes)."""

    def __init__(
        self, score: Callable[[np.ndarray], np.ndarray], names: Sequence[str], table: Table
    ) -> None:
        self.score, self.names, self.table = score, list(names), table
        self.ranked = ~np.isin(self.names, table.umbrella)
        known = set(self.names)
        if unknown := [c for row in table.classes.values() for c in row if c not in known]:
            raise AuffusionError(f"--judge: its classes.csv lacks {unknown[0]!r}")

    def hear(self, sound: Sound) -> Verdict:
        scores = self.score(windows_of(sound.waveform)).max(axis=0)
        order = np.argsort(-np.where(self.ranked, scores, -np.inf))
        return Verdict(
            sound.kinds,
            tuple(self._rank(scores, kind) for kind in sound.kinds),
            tuple(self.names[i] for i in order[:N_FIRST]),
            sound.source,
            sound.seed,
        )

    def _rank(self, scores: np.ndarray, kind: str) -> int:
        best = max(scores[self.names.index(name)] for name in self.table.classes[kind])
        return 1 + int((scores[self.ranked] > best).sum())


def windows_of(waveform: np.ndarray) -> np.ndarray:
    """(N,) samples -> (n, 15600) of the peak-normalised sound; zeros complete the last window."""
    normalized = normalize_peak(waveform[None])[0]
    n_missing = max(WINDOW_SAMPLES - len(normalized), 0)
    n_missing += -(len(normalized) + n_missing - WINDOW_SAMPLES) % HOP_SAMPLES
    padded = np.pad(normalized, (0, n_missing)).astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]


def load_judge(folder: Path, table: Table) -> Judge:
    """YAMNet from its LiteRT file. Raises AuffusionError where the folder is not usable."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        with (folder / "classes.csv").open(encoding="utf-8") as file:
            names = [row["display_name"] for row in csv.DictReader(file)]
        network = Interpreter(str(folder / "yamnet.tflite"), num_threads=1)
    except (ImportError, OSError, KeyError, ValueError) as error:
        raise AuffusionError(f"--judge {folder}: {error}") from error
    network.allocate_tensors()
    given, scores = network.get_input_details()[0], network.get_output_details()[0]

    def score(windows: np.ndarray) -> np.ndarray:
        rows = []
        for window in windows:
            network.set_tensor(given["index"], window.reshape(given["shape"]))
            network.invoke()
            rows.append(network.get_tensor(scores["index"])[0].copy())
        return np.stack(rows)

    return Judge(score, names, table)


# Sounds -------------------------------------------------------------------------------------------


def real_sounds(data: Path, kinds: Sequence[str], per_kind: int, seed: int) -> list[Sound]:
    """Held-out clips, each alone in a scene; kinds that have none are left out."""
    store = load_store(data, "test", kinds)
    by_kind: dict[str, list[int]] = {}
    for index, clip in enumerate(store.clips):
        by_kind.setdefault(clip.kind, []).append(index)
    rng = random.Random(seed)
    chosen = [i for kind in sorted(by_kind) for i in rng.sample(by_kind[kind], len(by_kind[kind]))]
    counts = dict.fromkeys(by_kind, 0)
    sounds = []
    for index in chosen:
        clip = store.clips[index]
        if counts[clip.kind] < per_kind:
            counts[clip.kind] += 1
            waveform = lay_alone(store, SCENES, seed + index, index).waveform.numpy()
            sounds.append(Sound((clip.kind,), waveform, clip.path.name))
    return sounds


def through(codec: Codec, sounds: Iterable[Sound], latent: bool, seed: int) -> Iterator[Sound]:
    """The sounds as the codec gives them back."""
    for sound in sounds:
        log_mel, noise = codec.analyze(sound.waveform[None]), decoding_noise(seed)
        if latent:
            n_frames = log_mel.shape[-1]
            log_mel = codec.decode_log_mel(codec.encode_log_mel(log_mel))[..., :n_frames]
            log_mel = codec.add_texture(log_mel, noise)
        yield Sound(sound.kinds, codec.vocode(log_mel, noise)[0], sound.source)


def real_pairs(sounds: Sequence[Sound], table: Table, seed: int) -> list[Sound]:
    """Mixes of two real sounds, the background softer; pairs without clips are left out."""
    rng, pairs = random.Random(seed), []
    for event, background, _ in table.pairs:
        first, second = ([s for s in sounds if s.kinds == (kind,)] for kind in (event, background))
        if first and second:
            one, two = rng.choice(first), rng.choice(second)
            mixed = one.waveform + two.waveform * 10 ** (BACKGROUND_DB / 20)
            pairs.append(Sound((event, background), mixed, f"{one.source} + {two.source}"))
    return pairs


def prompts_of(table: Table) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """Set -> (kinds, prompt): known captions and untaught wordings, two a kind; pairs."""
    words = load_words()
    return {
        "known": [((k,), p) for k in table.classes for p in words.captions(k)[:4:3]],
        "other": [((k,), p) for k in table.classes for p in words.held_out(k)[:2]],
        "pairs": [((event, background), prompt) for event, background, prompt in table.pairs],
    }


def generated(
    model: Model,
    prompts: Sequence[tuple[tuple[str, ...], str]],
    seeds: Sequence[int],
    n_steps: int | None,
) -> Iterator[Sound]:
    requests = [
        GenerateRequest(prompt, line_seed(seed, line))
        for seed in seeds
        for line, (_, prompt) in enumerate(prompts)
    ]
    kinds = [of for _ in seeds for of, _ in prompts]
    settings = GenerateSettings.from_defaults(model.defaults, steps=n_steps)
    for of, result in zip(kinds, generate(model, requests, settings), strict=True):
        yield Sound(of, result.waveform, result.request.prompt, result.request.seed)


# Report -------------------------------------------------------------------------------------------


def summary(verdicts: Sequence[Verdict], noise_like: Sequence[str]) -> dict:
    """How many sounds are right among the first 1, 5, 10 classes; of pairs both, and either."""
    noise = [v for v in verdicts if v.kinds[0] in noise_like]
    if any(len(v.kinds) > 1 for v in verdicts):
        hits = {
            "both in first 10": [max(v.ranks) <= 10 for v in verdicts],
            "either in first 5": [min(v.ranks) <= 5 for v in verdicts],
        }
    else:
        hits = {f"first {k}": [v.ranks[0] <= k for v in verdicts] for k in (1, 5, 10)}
        hits["noise-like, first 5"] = [v.ranks[0] <= 5 for v in noise]
    return {
        name: {"n": len(of), "hits": sum(of), "interval_95": hit_interval(sum(of), len(of))}
        for name, of in hits.items()
        if of
    }


def markdown(summaries: dict[str, dict]) -> str:
    lines = []
    for columns in (
        ("first 1", "first 5", "first 10", "noise-like, first 5"),
        ("both in first 10", "either in first 5"),
    ):
        rows = {name: row for name, row in summaries.items() if columns[0] in row}
        lines += [
            "| Judged | Sounds | " + " | ".join(columns) + " |",
            "| --- " * (2 + len(columns)) + "|",
        ]
        for name, row in rows.items():
            cells = " | ".join(_cell(row.get(column)) for column in columns)
            lines.append(f"| {name} | {row[columns[0]]['n']} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return "–"
    low, high = row["interval_95"]
    return f"{row['hits'] / row['n']:.0%} ({low:.0%} to {high:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="name, Hub id or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--judge", type=Path, required=True, help="yamnet.tflite and classes.csv")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .json file")
    parser.add_argument("--seeds", type=int, default=1, help="sounds a prompt")
    parser.add_argument("--per-kind", type=int, default=5, help="real clips")
    parser.add_argument("--steps", type=int, help="by default the model's")
    parser.add_argument("--limit-kinds", type=int, help="only the first so many")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        table = load_table(args.limit_kinds)
        judge = load_judge(args.judge, table)
        model = load_model(args.model, device=args.device)
        real = real_sounds(args.data, list(table.classes), args.per_kind, args.seed)
        seeds = range(args.seed, args.seed + args.seeds)
        sets: dict[str, Iterable[Sound]] = {
            "real": real,
            "mel": through(model.codec, real, False, args.seed),
            "latent": through(model.codec, real, True, args.seed),
            "real pairs": real_pairs(real, table, args.seed),
        }
        for name, prompts in prompts_of(table).items():
            sets[name] = generated(model, prompts, seeds, args.steps)
        verdicts = {}
        for name, sounds in sets.items():
            print(name, file=sys.stderr)
            verdicts[name] = [judge.hear(sound) for sound in sounds]
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    summaries = {name: summary(of, table.noise_like) for name, of in verdicts.items() if of}
    sounds = {name: [asdict(verdict) for verdict in of] for name, of in verdicts.items()}
    write_text(args.output, json.dumps({"summary": summaries, "sounds": sounds}, indent=1) + "\n")
    print(markdown(summaries))


def load_table(limit_kinds: int | None = None) -> Table:
    """`audioset.yaml`, or its first kinds and the pairs of these."""
    rows = yaml.safe_load((Path(__file__).parent / "audioset.yaml").read_text("utf-8"))
    table = Table(**rows)
    kept = dict(list(table.classes.items())[:limit_kinds])
    pairs = [tuple(pair) for pair in table.pairs if {pair[0], pair[1]} <= kept.keys()]
    return Table(kept, table.noise_like, pairs, table.umbrella)


if __name__ == "__main__":
    main()
