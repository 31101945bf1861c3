"""Sets of small sounds and their evaluation, for the tests of the report."""

import hashlib
import math
from pathlib import Path

import torch

from auffusion_cli.evaluation.result import (
    BackboneRecord,
    ClipSet,
    Evaluation,
    Metric,
    ScoredClip,
    System,
)
from auffusion_cli.signal.audio import write_audio

RATE_HZ = 16_000
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "<!--<script>",
    "a \u202egnp.wav \u2066x",
    "' onmouseover='alert(1)",
    "&lt;b&gt; &#x3c;b>",
    "\u2028\u2029\x00\udc80 end",
    "{{7*7}}${7*7}`",
)
PROMPTS = (
    "a dog barking",
    "rain on a tin roof",
    "a bell rings and a door slams",
    "thunder",
    "waves, wind and gulls",
)


def make_evaluation(
    folder: Path,
    n_clips: int,
    names: tuple[str, ...] = ("ours", "tango"),
    duration_s: float = 1.0,
    prompts: tuple[str, ...] = PROMPTS,
) -> Evaluation:
    """Tones as sounds, `n_clips` for each of the systems and the reference, with made-up scores."""
    time_s = torch.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    systems = []
    for k, name in enumerate(("reference", *names)):
        rows = []
        for i in range(n_clips):
            frequency_hz = 220 * 2 ** ((i % 24) / 6) * (1 + 0.5 * k)
            wave = 0.5 * torch.sin(2 * math.pi * frequency_hz * time_s) * torch.exp(-2 * time_s)
            path = folder / name / f"{i:04d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, wave, RATE_HZ)
            rows.append(
                ScoredClip(
                    name=f"{i:04d}",
                    path=path.name,
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    duration_s=duration_s,
                    reference_path=path.name,
                    prompt=prompts[i % len(prompts)],
                    n_events=1 + i % 3,
                    scores={
                        "KL-tagger": (i * 7 + k * 3) % 11 / 2,
                        "CLAP": ((i * 5 + k) % 7) / 10 - 0.1,
                    },
                    flags=("clipped",) if i == 1 else (),
                )
            )
        clips = ClipSet(str(folder / name), n_clips, n_clips, f"{k}" * 64, ())
        shift = 4.0 * (k - 1)

        def metric(name, value, width, better, unit="", n=n_clips, **more) -> Metric:
            ends = (value - width, value + width)
            return Metric(
                name=name,
                value=value,
                ci_95=ends,
                n_resamples=100,
                n=n,
                better=better,
                unit=unit,
                backbone="t",
                **more,
            )

        metrics = (
            metric("FD-tagger", 31.4 + shift, 2.3, "lower"),
            metric(
                "KL-tagger",
                2.1 + shift / 20,
                0.2,
                "lower",
                "nats",
                note="compare with nothing else",
            ),
            metric("CLAP", 0.31 - shift / 100, 0.03, "higher", "cosine"),
            metric("CLAP", 0.21, 0.1, "higher", "cosine", n=1, subset="2 events"),
        )
        systems.append(System(name, clips, "0" * 64, metrics, tuple(rows), ()))
    reference, *made = systems
    return Evaluation(
        protocol="embedded",
        settings={"resamples": 100},
        backbones={"t": BackboneRecord("tagger", "tagger", "ab" * 32, "tagger-1", RATE_HZ)},
        reference=reference.clips,
        systems=tuple(made),
        versions={"auffusion": "0"},
        notes=("Numbers of the embedded tagger compare with each other only.",),
    )
