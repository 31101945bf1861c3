"""The tagger: a small classifier of sounds, to ask of generated ones what they are.

    python recipes/embedded/classifier.py --data DATA \
        --kinds-from recipes/embedded/tagger.yaml -o weights/tagger --windows-per-kind 100

It is trained on the real clips in DATA/train of the kinds that the configuration names in
`scenes.kinds`, laid into windows as the generator's training scenes are, but never mixed. The clips
in DATA/test come from other recordings and are only measured, once, at the end; nothing is chosen
by them. Writes `tagger.safetensors`, `config.json` and `report.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.errors import AuffusionError, DataError
from auffusion_cli.evaluation.tagger import (
    RANGE_DB,
    SAMPLE_RATE_HZ,
    Tagger,
    TaggerFeatures,
    load_tagger,
    save_tagger,
)
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.config_file import load_config
from auffusion_cli.training.data import load_clips
from auffusion_cli.training.scenes import lay_alone

BATCH_SIZE = 16
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
EMA_DECAY = 0.99
MADE = "synthesised:"
"""The beginning of the sources of sounds that are made by formula."""
MIX_PROBABILITY = 0.2
"""How often another window sounds along, so that the tagger also hears two kinds at once."""


# Windows ------------------------------------------------------------------------------------------


def load_store(data: Path, split: str, kinds: Sequence[str]) -> ClipStore:
    """The clips of `kinds` in one split of the data set, without those that are made by formula.

    A measure should not know what the model has learned from `synthesised.py`.
    """
    rows = map(json.loads, (data / split / "metadata.jsonl").read_text("utf-8").splitlines())
    made = {Path(row["file_name"]).name for row in rows if row.get("source", "").startswith(MADE)}
    clips = [
        clip
        for clip in load_clips(data, split).clips
        if clip.kind in kinds and clip.path.name not in made
    ]
    if not clips:
        raise DataError(f"--data {data}: no clip in {split} is of the kinds asked for")
    return ClipStore(clips, SAMPLE_RATE_HZ)


def draw_windows(
    store: ClipStore, scenes: SceneConfig, kinds: Sequence[str], per_kind: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Features (N, 64, T) in float16 and kinds (N,): `per_kind` of each, its clips in turn."""
    by_kind = defaultdict(list)
    for index, clip in enumerate(store.clips):
        by_kind[clip.kind].append(index)
    if absent := [kind for kind in kinds if kind not in by_kind]:
        raise DataError(f"the data has no clips of kind {', '.join(absent)}")
    features, rng = TaggerFeatures(), random.Random(seed)
    windows, labels = [], []
    for label, kind in enumerate(kinds):
        for draw in range(per_kind):
            clip = by_kind[kind][draw % len(by_kind[kind])]
            scene = lay_alone(store, scenes, rng.getrandbits(32), clip)
            windows.append(features(scene.waveform[None]).half())
            labels.append(label)
        print(f"\rwindows: {label + 1} of {len(kinds)} kinds", end="", file=sys.stderr)
    print(file=sys.stderr)
    return torch.cat(windows), torch.tensor(labels)


# Training -----------------------------------------------------------------------------------------


def augment(features: Tensor, rng: torch.Generator) -> Tensor:
    """Shift in time, tint, raise the noise floor and mask (SpecAugment, arXiv 1904.08779)."""
    batch, n_bands, n_frames = features.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, generator=rng)

    frames = torch.arange(n_frames)
    shift = torch.randint(n_frames, (batch, 1, 1), generator=rng)
    features = features.gather(2, ((frames + shift) % n_frames).expand_as(features))

    bands = torch.linspace(-1, 1, n_bands)[None, :, None]
    tint_db = uniform(-6, 6) * bands + uniform(-4, 4) * torch.cos(bands * uniform(2, 8))
    floor_db = uniform(-RANGE_DB, -45)
    features = torch.maximum(features + tint_db / RANGE_DB, 1 + floor_db / RANGE_DB) * (
        features.amax((1, 2), keepdim=True) > 0
    )
    for positions, widest in (
        (frames, n_frames // 5),
        (torch.arange(n_bands)[:, None], n_bands // 6),
    ):
        start, width = uniform(0, positions.numel()), uniform(0, widest)
        masked = (positions >= start) & (positions < start + width)
        features = features.masked_fill(masked, 0.0)
    return features


def mix(features: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Let another window of the batch sound along with some, up to 12 dB softer.

    The louder of two sounds rules each cell of a log-mel, so the maximum is close to the sum.
    """
    other = torch.randperm(len(features), generator=rng)
    softer = 12 / RANGE_DB * torch.rand(len(features), 1, 1, generator=rng)
    mixed = torch.rand(len(features), generator=rng) < MIX_PROBABILITY
    together = torch.maximum(features, features[other] - softer)
    shared = 0.6 * targets + 0.4 * targets[other]
    return (
        torch.where(mixed[:, None, None], together, features),
        torch.where(mixed[:, None], shared, targets),
    )


def train(
    windows: Tensor,
    labels: Tensor,
    kinds: Sequence[str],
    max_steps: int,
    max_minutes: float,
    seed: int,
) -> tuple[Tagger, int]:
    """The tagger after `max_steps` or `max_minutes`, whichever comes first, and its steps.

    The learning rate falls to zero by the limit that is nearer.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    tagger = Tagger(kinds).to(memory_format=torch.channels_last).train()
    average = AveragedModel(tagger, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
    optimizer = torch.optim.AdamW(tagger.parameters(), weight_decay=WEIGHT_DECAY)
    started = time.monotonic()
    order, step, progress, mean_loss = [], 0, 0.0, None
    while progress < 1:
        rate = LEARNING_RATE * min(1.0, progress / 0.05 + 0.02)
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if len(order) < BATCH_SIZE:
            order = torch.randperm(len(windows), generator=rng).tolist()
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        targets = F.one_hot(labels[batch], len(kinds)).float()
        features, targets = mix(windows[batch].float(), targets, rng)
        logits = tagger(augment(features, rng))
        loss = F.cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(tagger)
        step += 1
        minutes = (time.monotonic() - started) / 60
        progress = min(1.0, max(step / max_steps, minutes / max_minutes))
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        if step % 20 == 0 or progress == 1:
            print(
                f"\rstep {step}, {minutes:.1f} min, loss {mean_loss:.3f} ", end="", file=sys.stderr
            )
    print(file=sys.stderr)
    return average.module.eval(), step


def save_classifier(tagger: Tagger, scenes: SceneConfig, folder: Path) -> None:
    """The tagger, and how the windows that it has learned from were laid."""
    save_tagger(tagger, folder, scenes=asdict(scenes))


def load_classifier(folder: Path) -> tuple[Tagger, SceneConfig]:
    """The tagger, and how the windows that it has learned from were laid."""
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in read_json(folder / "config.json")["scenes"].items()
    }
    return load_tagger(folder), SceneConfig(**values)


@torch.inference_mode()
def rank_kinds(tagger: Tagger, features: Tensor) -> Tensor:
    """Features (N, 64, T) -> (N, n_kinds) indices of kinds, the likeliest first."""
    logits = torch.cat([tagger(part.float()) for part in features.split(64)])
    return logits.argsort(dim=1, descending=True)


# Report -------------------------------------------------------------------------------------------


def hit_interval(n_hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927), which holds for few trials too."""
    z = 1.96
    centre = (n_hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n_hits * (n - n_hits) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(ranked: Tensor, labels: Tensor, kinds: Sequence[str]) -> dict:
    """Top-1 and top-5 of rankings (N, n_kinds) against true kinds (N,), overall and by kind."""
    first = ranked[:, 0] == labels
    among_5 = (ranked[:, :5] == labels[:, None]).any(1)

    def proportions(chosen: Tensor) -> dict:
        n = int(chosen.sum())
        hits = {"top1": int(first[chosen].sum()), "top5": int(among_5[chosen].sum())}
        result = {"n": n} | {name: n_hits / n for name, n_hits in hits.items()}
        return result | {f"{name}_95": hit_interval(n_hits, n) for name, n_hits in hits.items()}

    by_kind = {
        kind: proportions(labels == label)
        for label, kind in enumerate(kinds)
        if (labels == label).any()
    }
    overall = proportions(torch.ones_like(labels, dtype=torch.bool))
    for name in ("top1", "top5"):
        overall[f"{name}_mean_over_kinds"] = sum(k[name] for k in by_kind.values()) / len(by_kind)
    taken_for = Counter(
        (kinds[label], kinds[guess])
        for label, guess in zip(labels.tolist(), ranked[:, 0].tolist(), strict=True)
        if label != guess
    )
    confused = [{"kind": a, "taken_for": b, "times": n} for (a, b), n in taken_for.most_common()]
    return {"overall": overall, "by_kind": by_kind, "confused": confused}


def measure_clips(tagger: Tagger, store: ClipStore, scenes: SceneConfig, seed: int) -> dict:
    """`accuracy` on one scene of every clip in `store`."""
    features = TaggerFeatures()
    windows = [
        features(lay_alone(store, scenes, seed + index, index).waveform[None])
        for index in range(len(store))
    ]
    labels = torch.tensor([tagger.kinds.index(clip.kind) for clip in store.clips])
    return accuracy(rank_kinds(tagger, torch.cat(windows)), labels, tagger.kinds)


def print_report(report: dict) -> None:
    overall = report["overall"]
    low, high = overall["top1_95"]
    print(
        f"held out: {overall['n']} clips, top-1 {overall['top1']:.1%} ({low:.1%} to {high:.1%}),"
        f" top-5 {overall['top5']:.1%}; mean over kinds {overall['top1_mean_over_kinds']:.1%},"
        f" {overall['top5_mean_over_kinds']:.1%}"
    )
    print(f"{'kind':24} {'clips':>5} {'top-1':>6} {'top-5':>6}  taken for")
    for kind, row in sorted(report["by_kind"].items(), key=lambda item: item[1]["top1"]):
        guesses = [
            f"{pair['taken_for']} {pair['times']}x"
            for pair in report["confused"]
            if pair["kind"] == kind
        ]
        print(f"{kind:24} {row['n']:5} {row['top1']:6.0%} {row['top5']:6.0%}  {', '.join(guesses)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--kinds-from", type=Path, required=True, help="YAML with scenes.kinds")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--windows-per-kind", type=int, default=60)
    parser.add_argument("--max-steps", type=int, default=7000)
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="of the training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        scenes = load_config(args.kinds_from, {}).scenes
        kinds = scenes.kinds
        if not kinds:
            raise DataError(f"--kinds-from {args.kinds_from}: scenes.kinds names no kinds")
        train_store = load_store(args.data, "train", kinds)
        test_store = load_store(args.data, "test", kinds)
        windows, labels = draw_windows(train_store, scenes, kinds, args.windows_per_kind, args.seed)
        tagger, n_steps = train(windows, labels, kinds, args.max_steps, args.max_minutes, args.seed)
        save_classifier(tagger, scenes, args.output)
        report = measure_clips(tagger, test_store, scenes, args.seed)
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    report |= {
        "n_train_clips": len(train_store),
        "n_train_windows": len(windows),
        "n_steps": n_steps,
        "n_parameters": sum(parameter.numel() for parameter in tagger.parameters()),
    }
    (args.output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print_report(report)


if __name__ == "__main__":
    main()
