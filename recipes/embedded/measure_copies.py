"""Does the model repeat the clips that it learned from?

    python recipes/embedded/measure_copies.py --sounds runs/sounds --data data/embedded-sounds \
        -o runs/copies.json

`--sounds` is what `measure.py --sounds` wrote: generated sounds and held-out recordings, named by
kind. The loudest 0.8 s of each is laid over every place of every training clip of its kind, played
at speeds from 0.9 to 1.1, and the best correlation of the two log-mel pictures is kept. A held-out
recording shows how alike two recordings of one kind are; a generated sound that finds a much better
match repeats a clip.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from auffusion_cli.evaluation.tagger import HOP_SAMPLES, SAMPLE_RATE_HZ, TaggerFeatures
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.data import Clip, load_clips

PATCH_S = 0.8
SPEEDS_PERCENT = (90, 95, 100, 105, 110)
MAX_CLIP_S = 30.0
PATCH_FRAMES = round(PATCH_S * SAMPLE_RATE_HZ / HOP_SAMPLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    clips = defaultdict(list)
    for clip in load_clips(options.data, "train").clips:
        clips[clip.kind].append(clip)
    matches = {which: defaultdict(list) for which in ("real", "generated")}
    kinds = sorted({path.stem.rsplit("-", 1)[0] for path in (options.sounds / "real").iterdir()})
    for i, kind in enumerate(kinds, start=1):
        pictures = clip_pictures(clips[kind])
        for which, found in matches.items():
            for path in sorted((options.sounds / which).glob(f"{kind}-*.wav")):
                patch = loudest_patch(
                    torch.from_numpy(read_audio(path, SAMPLE_RATE_HZ, mono=True)[0][0])
                )
                found[clips[kind][0].role].append(best_match(patch, pictures))
        print(f"\r{i} of {len(kinds)} kinds", end="", flush=True)
    print()
    result = {}
    for role in sorted(matches["real"]):
        real, generated = (torch.tensor(matches[which][role]) for which in ("real", "generated"))
        limit = real.quantile(0.95)
        result[role] = {
            "n": [len(real), len(generated)],
            "median": [real.median().item(), generated.median().item()],
            "above_95_percent_of_real": (generated > limit).float().mean().item(),
            "real_95_percent": limit.item(),
        }
        print(
            f"{role}: best match of held-out recordings {real.median():.3f}, of generated sounds "
            f"{generated.median():.3f} (medians); {(generated > limit).float().mean():.0%} of the "
            f"generated match better than 95 % of the recordings ({limit:.3f})"
        )
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def clip_pictures(clips: list[Clip]) -> list[Tensor]:
    """Log-mel pictures (64, T) of the clips at all speeds, with silence around them."""
    store, features = ClipStore(clips, SAMPLE_RATE_HZ), TaggerFeatures()
    silence = torch.zeros(round(PATCH_S * SAMPLE_RATE_HZ))
    pictures = []
    for index in range(len(store)):
        waveform = store[index][: round(MAX_CLIP_S * SAMPLE_RATE_HZ)]
        for percent in SPEEDS_PERCENT:
            played = torchaudio.functional.resample(waveform, percent, 100)
            pictures.append(features(torch.cat([silence, played, silence])[None])[0])
    return pictures


def loudest_patch(waveform: Tensor) -> Tensor:
    """(64, PATCH_FRAMES): where a sound has most of its energy."""
    energy = F.avg_pool1d(waveform.square()[None, None], HOP_SAMPLES)[0, 0]
    start = int(F.avg_pool1d(energy[None, None], PATCH_FRAMES, 1).argmax())
    return TaggerFeatures()(waveform[None])[0, :, start : start + PATCH_FRAMES]


def best_match(patch: Tensor, pictures: list[Tensor]) -> float:
    """The highest Pearson correlation of `patch` with an equally long piece of a picture."""
    n = patch.numel()
    centred = (patch - patch.mean()) / patch.std(correction=0).clamp(min=1e-6)
    ones = torch.ones_like(patch)
    best = -1.0
    for picture in pictures:
        product, total, squares = (
            F.conv1d(x[None], kernel[None])[0, 0]
            for x, kernel in ((picture, centred), (picture, ones), (picture.square(), ones))
        )
        deviation = (squares / n - (total / n).square()).clamp(min=1e-6).sqrt()
        best = max(best, float((product / n / deviation).max()))
    return best


if __name__ == "__main__":
    main()
