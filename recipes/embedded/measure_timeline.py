"""Do sounds land where a timeline puts them?

    python recipes/embedded/measure_timeline.py --model embedded --classifier weights/tagger

Draws scenes of three kinds that the tagger knows, 3.2 s each, and makes each of them three times
with the same seed:

- timeline: "0-3.2s A; 3.2-6.4s B; 6.4-9.6s C";
- one prompt: "A, then B, then C", as long, by the model without its vocabulary, which would make it
  a timeline;
- alone: each of the three as a sound of its own, the most that can be expected.

The tagger judges every third by itself. "In place" is how often, among the three kinds of a scene,
the one that belongs there comes first: a third by chance. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from classifier import hit_interval
from torch import Tensor

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import AuffusionError
from auffusion_cli.evaluation.tagger import Tagger, TaggerFeatures, load_tagger, windows
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, TimelineRequest
from auffusion_cli.tasks.generate import generate

N_REGIONS = 3
REGION_S = 3.2


def words(kind: str) -> str:
    return kind.replace("_", " ")


def thirds(
    model: Model, requests: Sequence[GenerateRequest], settings: GenerateSettings
) -> Iterator[Tensor]:
    """The sounds of the regions (n,), of one request after another."""
    n_region = round(REGION_S * model.codec.spectrogram_config.sample_rate_hz)
    for result in generate(model, requests, settings):
        print(".", end="", file=sys.stderr, flush=True)
        yield from torch.from_numpy(result.waveform).split(n_region)


def make(
    model: Model, scenes: Sequence[Sequence[str]], steps: int | None, seed: int
) -> dict[str, list[Tensor]]:
    """What was made -> the sounds of all regions, in the order of `scenes`."""

    def settings(n_regions: int) -> GenerateSettings:
        return GenerateSettings.from_defaults(
            model.defaults, duration_s=n_regions * REGION_S, steps=steps
        )

    timelines, combined, alone = [], [], []
    for index, kinds in enumerate(scenes):
        regions = [
            f"{i * REGION_S:g}-{(i + 1) * REGION_S:g}s {words(kind)}"
            for i, kind in enumerate(kinds)
        ]
        timelines.append(TimelineRequest("", seed + index, timeline="; ".join(regions)))
        combined.append(GenerateRequest(", then ".join(map(words, kinds)), seed + index))
        alone += [GenerateRequest(words(kind), seed + index) for kind in kinds]
    in_one = replace(model, vocabulary=None)
    return {
        "timeline": list(thirds(model, timelines, settings(N_REGIONS))),
        "one prompt": list(thirds(in_one, combined, settings(N_REGIONS))),
        "alone": list(thirds(model, alone, settings(1))),
    }


@torch.inference_mode()
def judge(tagger: Tagger, sounds: Sequence[Tensor], scenes: Sequence[Sequence[str]]) -> list[int]:
    """How many regions have their kind as first guess, among the first five, and in place."""
    features = TaggerFeatures()
    n_first = n_among_5 = n_in_place = 0
    for sound, (kinds, place) in zip(
        sounds, ((kinds, i) for kinds in scenes for i in range(N_REGIONS)), strict=True
    ):
        scores = tagger(features(windows(sound))).mean(dim=0)
        asked = [tagger.kinds.index(kind) for kind in kinds]
        rank = int((scores > scores[asked[place]]).sum())
        n_first += rank == 0
        n_among_5 += rank < 5
        n_in_place += int(scores[asked].argmax()) == place
    return [n_first, n_among_5, n_in_place]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="name, Hub id or folder")
    parser.add_argument("--classifier", type=Path, required=True, help="folder of classifier.py")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--steps", type=int, help="else the model's default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        tagger = load_tagger(args.classifier)
        model = load_model(args.model, device=args.device)
        rng = random.Random(args.seed)
        scenes = [rng.sample(tagger.kinds, N_REGIONS) for _ in range(args.scenes)]
        made = make(model, scenes, args.steps, args.seed)
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    n = N_REGIONS * len(scenes)
    print(f"\n| Made as | Regions | First guess | Among first five | In place |\n{'| --- ' * 5}|")
    for name, sounds in made.items():
        cells = [
            "{:.0%} ({:.0%} to {:.0%})".format(hits / n, *hit_interval(hits, n))
            for hits in judge(tagger, sounds, scenes)
        ]
        print(f"| {name} | {n} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
