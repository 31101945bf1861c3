"""How well can a model's sounds be recognised? The measurement in the embedded model's card.

    python recipes/embedded/measure.py --model weights/embedded --data DATA \
        --classifier weights/tagger --per-kind 10 -o runs/measure.json

A classifier of real sounds (`classifier.py`) judges four sets, by its first guess and first five:

- real: one scene of each clip in DATA/test, which neither the model nor the classifier has seen;
- round trip: the same scenes through the model's latent and its vocoder, the most that a generator
  on this codec can reach;
- generated: `--per-kind` sounds of each kind, from its phrases in turn, each with its own seed;
- pairs: an event before a background. Prompts are the captions of composed held-out scenes, and
  those real scenes are judged too.

Writes a JSON file with all prompts, seeds and guesses, and beside it a Markdown table. With
`--sounds DIR` real scenes and as many generated sounds of their kinds are kept, for

    auffusion evaluate DIR/generated --reference DIR/real
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from classifier import (
    accuracy,
    hit_interval,
    load_classifier,
    load_store,
    rank_kinds,
)
from torch import Tensor

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.codec.codec import Codec
from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.evaluation.tagger import SAMPLE_RATE_HZ, Tagger, TaggerFeatures
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.tasks.generate import generate
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.data import Clip, load_clips
from auffusion_cli.training.scenes import Scene, compose, lay_alone

TRIES_PER_PAIR = 50


# What is judged -----------------------------------------------------------------------------------


def phrases_by_kind(clips: Iterable[Clip]) -> dict[str, tuple[str, ...]]:
    """Every phrase that the data set has for a kind, in order of first mention."""
    phrases: dict[str, dict[str, None]] = {}
    for clip in clips:
        phrases.setdefault(clip.kind, {}).update(dict.fromkeys(clip.phrases))
    return {kind: tuple(found) for kind, found in phrases.items()}


def kind_requests(
    phrases: dict[str, tuple[str, ...]], kinds: Sequence[str], per_kind: int, seed: int
) -> list[GenerateRequest]:
    """`per_kind` requests for each kind, its phrases in turn, seeds counted up from `seed`."""
    if unnamed := [kind for kind in kinds if not phrases.get(kind)]:
        raise UsageError(f"--data: no phrases for {', '.join(unnamed)}")
    prompts = [phrases[kind][i % len(phrases[kind])] for kind in kinds for i in range(per_kind)]
    return [GenerateRequest(prompt, seed + i) for i, prompt in enumerate(prompts)]


def compose_pairs(store: ClipStore, scenes: SceneConfig, n: int, seed: int) -> list[Scene]:
    """Up to `n` composed scenes of one event and one background, no two of the same kinds."""
    roles = {clip.kind: clip.role for clip in store.clips}
    always_mixed = replace(scenes, mix_probability=1.0)
    pairs: dict[tuple[str, ...], Scene] = {}
    for attempt in range(TRIES_PER_PAIR * n):
        if len(pairs) == n:
            break
        scene = compose(store, always_mixed, seed + attempt)
        if [roles[kind] for kind in scene.kinds] == ["event", "background"]:
            pairs.setdefault(scene.kinds, scene)
    return list(pairs.values())


def generate_waveforms(
    model: Model,
    requests: Sequence[GenerateRequest],
    settings: GenerateSettings,
    batch_size: int,
    paths: Sequence[Path | None],
) -> Iterator[Tensor]:
    """The sound (N,) of each request, in order; also written where it has a path."""
    results = generate(model, requests, settings, batch_size=batch_size)
    for i, result in enumerate(_counted(results, len(requests), "generated")):
        if paths[i] is not None:
            result.save(paths[i])
        yield torch.from_numpy(result.waveform)


def sound_paths(folder: Path, asked: Sequence[str], limits: dict[str, int]) -> list[Path | None]:
    """FOLDER/KIND-00.wav, KIND-01.wav … up to a kind's limit, None for what is beyond it."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    paths = []
    for kind in asked:
        beyond = counts[kind] >= limits.get(kind, 0)
        paths.append(None if beyond else folder / f"{kind}-{counts[kind]:02d}.wav")
        counts[kind] += 1
    return paths


def _counted(items: Iterable, n: int, what: str) -> Iterator:
    for i, item in enumerate(items, start=1):
        print(f"\r{what}: {i} of {n}", end="", file=sys.stderr)
        yield item
    print(file=sys.stderr)


# Judging ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """The classifier, and how it hears."""

    classifier: Tagger
    features: TaggerFeatures = field(default_factory=TaggerFeatures)

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.classifier.kinds

    def rank(self, waveforms: Iterable[Tensor]) -> Tensor:
        """(N, n_kinds) indices of kinds, the likeliest first; holds one waveform at a time."""
        return rank_kinds(
            self.classifier, torch.cat([self.features(waveform[None]) for waveform in waveforms])
        )

    def accuracy(self, ranked: Tensor, asked: Sequence[str]) -> dict:
        """`classifier.accuracy`, with the true kinds by name."""
        return accuracy(ranked, torch.tensor([self.kinds.index(k) for k in asked]), self.kinds)

    def accuracy_of_pairs(self, ranked: Tensor, asked: Sequence[tuple[str, ...]]) -> dict:
        """How often both kinds are among the first five, one is the first guess, both of these."""
        hits = {"both_among_5": 0, "one_first": 0, "recognised": 0}
        for pair, guesses in zip(asked, self.first_five(ranked), strict=True):
            both, one = set(pair) <= set(guesses), guesses[0] in pair
            hits["both_among_5"] += both
            hits["one_first"] += one
            hits["recognised"] += both and one
        n = len(asked)
        return (
            {"n": n}
            | {name: n_hits / n for name, n_hits in hits.items()}
            | {f"{name}_95": hit_interval(n_hits, n) for name, n_hits in hits.items()}
        )

    def first_five(self, ranked: Tensor) -> list[list[str]]:
        return [[self.kinds[guess] for guess in row[:5]] for row in ranked.tolist()]

    def samples(
        self, requests: Sequence[GenerateRequest], asked: Sequence, ranked: Tensor
    ) -> list[dict]:
        """Prompt, seed, what was asked for and the first five guesses of each sound."""
        return [
            {"prompt": request.prompt, "seed": request.seed, "asked": what, "guesses": guesses}
            for request, what, guesses in zip(requests, asked, self.first_five(ranked), strict=True)
        ]


def measure_real(
    judge: Judge,
    codec: Codec,
    store: ClipStore,
    scenes: SceneConfig,
    device: torch.device,
    paths: Sequence[Path | None],
) -> tuple[dict, dict]:
    """One scene of each clip, also written where it has a path; the same through the codec."""
    asked = [clip.kind for clip in store.clips]
    waveforms = [lay_alone(store, scenes, index, index).waveform for index in range(len(store))]
    for path, waveform in zip(paths, waveforms, strict=True):
        if path is not None:
            write_audio(path, waveform.numpy(), SAMPLE_RATE_HZ)
    decoded = (
        torch.from_numpy(codec.decode(codec.encode(waveform[None].numpy()))[0])
        for waveform in _counted(waveforms, len(store), "round trip")
    )
    real = judge.accuracy(judge.rank(waveforms), asked)
    return real, judge.accuracy(judge.rank(decoded), asked)


def measure_kinds(
    judge: Judge,
    requests: Sequence[GenerateRequest],
    asked: Sequence[str],
    waveforms: Iterable[Tensor],
) -> dict:
    """Sounds of single kinds."""
    ranked = judge.rank(waveforms)
    return judge.accuracy(ranked, asked) | {"samples": judge.samples(requests, asked, ranked)}


def measure_pairs(
    judge: Judge,
    requests: Sequence[GenerateRequest],
    pairs: Sequence[Scene],
    waveforms: Iterable[Tensor],
) -> tuple[dict, dict]:
    """The real scenes of two kinds, and the sounds generated from their captions."""
    asked = [scene.kinds for scene in pairs]
    real = judge.accuracy_of_pairs(judge.rank(scene.waveform for scene in pairs), asked)
    ranked = judge.rank(waveforms)
    generated = judge.accuracy_of_pairs(ranked, asked)
    return real, generated | {"samples": judge.samples(requests, asked, ranked)}


# Report -------------------------------------------------------------------------------------------


def markdown(result: dict) -> str:
    """The tables of the model card."""
    rows = ["| Judged | Sounds | Top-1 | Top-5 |", "| --- | --- | --- | --- |"]
    for name, title in (
        ("real", "Held-out real scenes"),
        ("round_trip", "Their codec round trip"),
        ("generated", "Generated"),
    ):
        overall = result[name]["overall"]
        cells = (_with_interval(overall, "top1"), _with_interval(overall, "top5"))
        rows.append(f"| {title} | {overall['n']} | {cells[0]} | {cells[1]} |")
    if "generated_pairs" in result:
        rows += [
            "",
            "| Event and background | Sounds | Both in first five | Either first | Recognised |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, title in (("real_pairs", "Held-out real"), ("generated_pairs", "Generated")):
            pairs = result[name]
            cells = [
                _with_interval(pairs, key) for key in ("both_among_5", "one_first", "recognised")
            ]
            rows.append(f"| {title} | {pairs['n']} | {' | '.join(cells)} |")
    rows += [
        "",
        "| Kind | Real clips | Top-1 | Round trip | Generated top-1 | Top-5 | Taken for |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    generated = result["generated"]
    for kind, row in generated["by_kind"].items():
        real, trip = (result[name]["by_kind"].get(kind) for name in ("real", "round_trip"))
        taken_for = ", ".join(
            f"{pair['taken_for']} ({pair['times']})"
            for pair in generated["confused"]
            if pair["kind"] == kind
        )
        of_real = f"{real['n']} | {real['top1']:.0%} | {trip['top1']:.0%}" if real else "0 | – | –"
        rows.append(f"| {kind} | {of_real} | {row['top1']:.0%} | {row['top5']:.0%} | {taken_for} |")
    return "\n".join(rows) + "\n"


def _with_interval(row: dict, name: str) -> str:
    low, high = row[f"{name}_95"]
    return f"{row[name]:.1%} ({low:.0%} to {high:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="name, Hub id or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--classifier", type=Path, required=True, help="folder of classifier.py")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .json file")
    parser.add_argument("--sounds", type=Path, help="folder for the real and generated sounds")
    parser.add_argument("--per-kind", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--limit-kinds", type=int, help="only the first so many")
    parser.add_argument("--guidance", type=float, help="else the model's default, like the next")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--scheduler")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        classifier, scenes = load_classifier(args.classifier)
        chosen = classifier.kinds[: args.limit_kinds]
        test_store = load_store(args.data, "test", chosen)
        model = load_model(args.model, device=args.device)
        sample_rate_hz = model.codec.spectrogram_config.sample_rate_hz
        if sample_rate_hz != SAMPLE_RATE_HZ:
            raise UsageError(
                f"--model {args.model}: its sounds have {sample_rate_hz} Hz,"
                f" but the classifier listens at {SAMPLE_RATE_HZ} Hz"
            )
        settings = GenerateSettings.from_defaults(
            model.defaults,
            duration_s=min(scenes.duration_s, model.defaults.max_duration_s),
            steps=args.steps,
            guidance_scale=args.guidance,
            scheduler=args.scheduler,
        )
        phrases = phrases_by_kind(load_clips(args.data, "train").clips)
        requests = kind_requests(phrases, chosen, args.per_kind, args.seed)
        pairs = compose_pairs(test_store, scenes, args.pairs, args.seed)
        pair_requests = [
            GenerateRequest(scene.caption, args.seed + len(requests) + i)
            for i, scene in enumerate(pairs)
        ]

        def generated(
            requests: Sequence[GenerateRequest], paths: Sequence[Path | None]
        ) -> Iterator[Tensor]:
            return generate_waveforms(model, requests, settings, args.batch_size, paths)

        result = {
            "model": model.name,
            "n_kinds": len(chosen),
            "n_classifier_kinds": len(classifier.kinds),
            "settings": settings.to_dict(),
        }
        judge = Judge(classifier)
        asked = [kind for kind in chosen for _ in range(args.per_kind)]
        real_kinds = [clip.kind for clip in test_store.clips]
        paths = {"real": [None] * len(real_kinds), "generated": [None] * len(asked)}
        if args.sounds:  # as many of each, so that they are pairs
            n_pairs = {kind: min(n, args.per_kind) for kind, n in Counter(real_kinds).items()}
            paths["real"] = sound_paths(args.sounds / "real", real_kinds, n_pairs)
            paths["generated"] = sound_paths(args.sounds / "generated", asked, n_pairs)
        result["real"], result["round_trip"] = measure_real(
            judge,
            model.codec,
            test_store,
            scenes,
            model.device,
            paths["real"],
        )
        sounds = generated(requests, paths["generated"])
        result["generated"] = measure_kinds(judge, requests, asked, sounds)
        if pairs:
            result["real_pairs"], result["generated_pairs"] = measure_pairs(
                judge, pair_requests, pairs, generated(pair_requests, [None] * len(pairs))
            )
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    tables = markdown(result)
    args.output.with_suffix(".md").write_text(tables)
    print(tables, end="")


if __name__ == "__main__":
    main()
