"""Fewer steps against the paper's 100 of PNDM, on the embedded model: how far a solver's sound is
from that of the same prompt and seed, and whether the tagger hears the same in it.

Two numbers say what is near: a second solver that has converged, too, and another seed, which is
another sound.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from auffusion_cli import GenerateRequest, GenerateSettings, load_model
from auffusion_cli.evaluation.protocols import PROTOCOLS
from auffusion_cli.evaluation.weights import load_embedder
from auffusion_cli.signal.spectrogram import mel_error_db
from auffusion_cli.tasks.generate import generate

PROMPTS = (
    "dog barking in rain",
    "a cat meowing",
    "church bells",
    "thunder",
    "a car engine starting",
    "footsteps on gravel",
    "birds singing in a forest",
    "glass breaking",
    "waves on a beach",
    "a door creaks",
    "an owl hooting",
    "a crowd applauding",
    "a helicopter flying",
    "a horse galloping",
    "a gun shot",
    "water dripping",
    "a clock ticking",
    "a woman laughing",
    "wind howling",
    "a rooster crowing",
)
REFERENCE = ("pndm", 100)
CANDIDATES = (
    *(("dpm++", steps) for steps in (12, 16, 20, 25)),
    *(("unipc", steps) for steps in (16, 20)),
    *((solver, 50) for solver in ("ddim", "euler", "pndm")),
)
ANOTHER_SEED = ("dpm++", 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the 20")
    parser.add_argument("--guidance", type=float, default=7.5, help="the paper's by default")
    arguments = parser.parse_args()

    model = load_model("embedded", device="cpu")
    tagger, _ = load_embedder(PROTOCOLS["embedded"].classifier)
    errors_db: dict[tuple[str, int], list[float]] = {}
    same_class: dict[tuple[str, int], list[bool]] = {}
    seconds: dict[tuple[str, int], list[float]] = {}

    def make(prompt: str, seed: int, scheduler: str, steps: int):
        """(log-mel, the tagger's first class) of one sound of the whole window."""
        settings = GenerateSettings.from_defaults(
            model.defaults,
            duration_s=model.defaults.max_duration_s,
            guidance_scale=arguments.guidance,
            scheduler=scheduler,
            steps=steps,
        )
        begun_s = time.perf_counter()
        (sound,) = generate(model, [GenerateRequest(prompt, seed)], settings)
        seconds.setdefault((scheduler, steps), []).append(time.perf_counter() - begun_s)
        (features,) = tagger.embed([torch.from_numpy(sound.waveform)])
        return sound.log_mel, int(np.argmax(features.logits))

    for n, prompt in enumerate(PROMPTS[: arguments.prompts], 1):
        reference, heard = make(prompt, n, *REFERENCE)
        sounds = {candidate: make(prompt, n, *candidate) for candidate in CANDIDATES}
        sounds["another seed", 0] = make(prompt, n + 1000, *ANOTHER_SEED)
        for candidate, (log_mel, class_) in sounds.items():
            errors_db.setdefault(candidate, []).append(mel_error_db(reference, log_mel))
            same_class.setdefault(candidate, []).append(class_ == heard)
        print(f"after {n} prompts, guidance {arguments.guidance:g}:", flush=True)
        show(errors_db, same_class, seconds)


def show(errors_db, same_class, seconds) -> None:
    print(f"{'solver':<14}{'steps':>5}{'dB':>7}{'worst':>7}{'same class':>12}{'s a sound':>11}")
    for (solver, steps), errors in errors_db.items():
        times = seconds.get((solver, steps))
        print(
            f"{solver:<14}{steps or '':>5}{np.mean(errors):>7.2f}{max(errors):>7.2f}"
            f"{sum(same_class[solver, steps]):>7} of {len(errors)}"
            f"{f'{np.median(times):.1f}' if times else '':>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()
