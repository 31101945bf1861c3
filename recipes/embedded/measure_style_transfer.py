"""Style transfer: how much of the timing stays, and how far the sound moves to the prompt.

    python recipes/embedded/measure_style_transfer.py --data SOUNDS --classifier weights/tagger

Real clips out of SOUNDS/test (a data set as `auffusion train` reads it, whose clips have kinds) are
turned into another kind that the tagger knows, by SDEdit and by DDIM inversion, at several
strengths, with the same steps and guidance. For each it prints the mean over the clips of

- onset correlation: of how much louder each 10 ms become (mean over the mel bands, smoothed over
  50 ms), before and after; 1 keeps all of the timing, 0 none;
- target: the tagger's probability of the kind asked for, and how often it is among its first five;
- source: its probability of the kind that the clip was.

The row "unchanged" is the clip itself.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import AuffusionError, DataError
from auffusion_cli.evaluation.tagger import (
    SAMPLE_RATE_HZ,
    Tagger,
    TaggerFeatures,
    load_tagger,
    windows,
)
from auffusion_cli.requests.request import GenerateSettings, StyleTransferRequest
from auffusion_cli.signal.recording import Recording, read_recording
from auffusion_cli.signal.sound_file import audio_info
from auffusion_cli.signal.spectrogram import DB_PER_NEPER, LogMel
from auffusion_cli.tasks.style_transfer import style_transfer
from auffusion_cli.training.data import Clip, load_clips

MIN_DURATION_S, MAX_DURATION_S = 1.5, 5.0
SMOOTHING_FRAMES = 5


@dataclass(frozen=True)
class Ears:
    """What a sound is and when it happens."""

    tagger: Tagger
    features: TaggerFeatures
    log_mel: LogMel

    @torch.inference_mode()
    def probabilities(self, waveform: Tensor) -> Tensor:
        """(N,) -> (n_kinds,)"""
        return self.tagger(self.features(windows(waveform))).softmax(dim=1).mean(dim=0)

    def onsets(self, waveform: Tensor) -> np.ndarray:
        """(N,) -> (T - 1,): how much louder it becomes, in dB, every 10 ms."""
        level_db = torch.from_numpy(self.log_mel(waveform[None].numpy())[0]) * DB_PER_NEPER
        # What is 60 dB below the loudest is not heard to begin.
        level_db = level_db.clamp(min=level_db.max() - 60)
        rise = level_db.diff(dim=1).clamp(min=0).mean(dim=0)
        smooth = F.avg_pool1d(rise[None, None], SMOOTHING_FRAMES, 1, SMOOTHING_FRAMES // 2)
        return smooth[0, 0].numpy()


def choose(data: Path, tagger: Tagger, n: int, rng: random.Random) -> list[tuple[Clip, str]]:
    """Clips of different kinds, each with a kind that it shall become."""
    clips = [
        clip
        for clip in load_clips(data, "test").clips
        if clip.kind in tagger.kinds
        and MIN_DURATION_S <= audio_info(clip.path).duration_s <= MAX_DURATION_S
    ]
    rng.shuffle(clips)
    chosen = list({clip.kind: clip for clip in clips}.values())[:n]
    if not chosen:
        raise DataError(
            f"--data {data}: no clip of {MIN_DURATION_S} to {MAX_DURATION_S} s has a known kind"
        )
    return [
        (clip, rng.choice([kind for kind in tagger.kinds if kind != clip.kind])) for clip in chosen
    ]


def heard(recording: Recording) -> Tensor:
    if recording.sample_rate_hz != SAMPLE_RATE_HZ:
        raise DataError(f"the clips have {recording.sample_rate_hz} Hz, not {SAMPLE_RATE_HZ} Hz")
    return torch.from_numpy(recording.waveform().mean(axis=0))


def measure(ears: Ears, before: Tensor, after: Tensor, source: str, target: str) -> list[float]:
    probabilities = ears.probabilities(after)
    of_target = probabilities[ears.tagger.kinds.index(target)]
    return [
        float(np.corrcoef(ears.onsets(before), ears.onsets(after))[0, 1]),
        of_target.item(),
        float((probabilities > of_target).sum() < 5),
        probabilities[ears.tagger.kinds.index(source)].item(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="name, Hub id or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with test/")
    parser.add_argument("--classifier", type=Path, required=True, help="folder of classifier.py")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--strengths", default="0.4,0.6,0.8")
    parser.add_argument("--steps", type=int, help="else the model's default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        tagger = load_tagger(args.classifier)
        model = load_model(args.model, device=args.device)
        ears = Ears(tagger, TaggerFeatures(), LogMel())
        # Both with DDIM, which inversion needs.
        settings = GenerateSettings.from_defaults(
            model.defaults, steps=args.steps, scheduler="ddim"
        )
        rows: dict[str, list[list[float]]] = {"unchanged": []}
        started = time.monotonic()
        for clip, target in choose(args.data, tagger, args.clips, random.Random(args.seed)):
            recording = read_recording(clip.path)
            before = heard(recording)
            rows["unchanged"].append(measure(ears, before, before, clip.kind, target))
            for method in ("sdedit", "inversion"):
                for strength in map(float, args.strengths.split(",")):
                    request = StyleTransferRequest(
                        clip.path.name,
                        recording.sha256,
                        target.replace("_", " "),
                        args.seed,
                        strength,
                        method=method,
                    )
                    result = style_transfer(model, recording, request, settings)
                    row = measure(ears, before, heard(result.recording), clip.kind, target)
                    rows.setdefault(f"{method}, {strength:g}", []).append(row)
            print(".", end="", file=sys.stderr, flush=True)
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    print(
        f"\n{len(rows['unchanged'])} clips, {settings.steps} steps, guidance"
        f" {settings.guidance_scale:g}, {time.monotonic() - started:.0f} s\n"
    )
    print("| Method, strength | Onset correlation | Target | Among first five | Source |")
    print("| --- " * 5 + "|")
    for name, values in rows.items():
        means = np.nanmean(values, axis=0)  # a clip without onsets has no correlation
        error = np.nanstd([row[0] for row in values]) / len(values) ** 0.5
        print(
            f"| {name} | {means[0]:.2f} ± {error:.2f} | {means[1]:.2f} | {means[2]:.0%}"
            f" | {means[3]:.2f} |"
        )


if __name__ == "__main__":
    main()
