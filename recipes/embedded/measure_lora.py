"""Does a LoRA learn a new kind of sound from ten clips, and do the old kinds stay?

    python recipes/embedded/measure_lora.py clips -o data/theremin
    auffusion train --lora 16 --data data/theremin/train -o runs/theremin
    python recipes/embedded/measure_lora.py measure --lora runs/theremin \
        --held-out data/theremin/test --classifier weights/judge -o runs/theremin.json

The new kind is a theremin, computed here: a gliding tone with vibrato and a few harmonics. The
embedded model does not know it. Without and with the LoRA, from the same seeds:

- old kinds: the share of `--sounds` sounds of each of `--kinds` kinds that the classifier knows,
  asked for by their names, that its first guess is right about, and the difference that the LoRA
  makes, with the interval of its scatter over kinds;
- new kind: the share of sounds whose nearest neighbour in the classifier's embedding is a held-out
  theremin, not a sound of an old kind.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.evaluation.bootstrap import Z_95
from auffusion_cli.evaluation.tagger import Tagger, TaggerFeatures, load_tagger, windows
from auffusion_cli.model import Model
from auffusion_cli.requests.loras import parse_loras
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import generate

RATE_HZ = 16_000
N_CLIPS = 10
NAME = "theremin"
CAPTIONS = ("theremin", "A theremin plays", "a theremin gliding between notes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(required=True)
    clips = tasks.add_parser("clips", help="ten clips to learn from, and ten to judge by")
    clips.add_argument("-o", "--output", type=Path, required=True)
    clips.set_defaults(run=write_clips)
    measured = tasks.add_parser("measure")
    measured.add_argument("--lora", required=True, help="a run or file, or that and :WEIGHT")
    measured.add_argument("--held-out", type=Path, required=True)
    measured.add_argument("--classifier", type=Path, required=True, help="folder of classifier.py")
    measured.add_argument("--kinds", type=int, default=118)
    measured.add_argument("--sounds", type=int, default=1, help="sounds of each kind")
    measured.add_argument("--new", type=int, default=20, help="sounds of the new kind")
    measured.add_argument("--steps", type=int, help="else the model's default")
    measured.add_argument("--without", type=Path, help="an earlier result, to not make this anew")
    measured.add_argument("-o", "--output", type=Path, required=True)
    measured.set_defaults(run=measure)
    options = parser.parse_args()
    options.run(options)


def theremin(seed: int) -> np.ndarray:
    """(N,): 4 to 5 s of it."""
    rng = np.random.default_rng(seed)
    n_samples = round(rng.uniform(4, 5) * RATE_HZ)
    time_s = np.arange(n_samples) / RATE_HZ
    n_notes = rng.integers(3, 6)
    notes = rng.uniform(250, 900) * 2 ** (rng.integers(-5, 6, n_notes) / 12)
    place = np.linspace(0, n_notes - 1, n_samples)
    # Held, then gliding to the next.
    glide = np.floor(place) + np.clip((place % 1 - 0.6) / 0.4, 0, 1)
    hz = np.exp(np.interp(glide, np.arange(n_notes), np.log(notes)))
    hz *= 1 + rng.uniform(0.01, 0.025) * np.sin(2 * np.pi * rng.uniform(5, 7) * time_s)
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    harmonics = rng.uniform(0.1, 0.5, 4) ** np.arange(1, 5)
    tone = np.sin(phase) + sum(a * np.sin((k + 2) * phase) for k, a in enumerate(harmonics))
    level = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.3)
    return (0.5 * level * tone / np.abs(tone).max()).astype(np.float32)


def write_clips(options: argparse.Namespace) -> None:
    for split, first in (("train", 0), ("test", 1000)):
        folder = options.output / split
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(N_CLIPS):
            soundfile.write(folder / f"{i}.wav", theremin(first + i), RATE_HZ)
            rows.append({"file_name": f"{i}.wav", "text": list(CAPTIONS), "kind": NAME})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")


def measure(options: argparse.Namespace) -> None:
    tagger = load_tagger(options.classifier)
    n_kinds = min(options.kinds, len(tagger.kinds))
    kinds = [tagger.kinds[i * len(tagger.kinds) // n_kinds] for i in range(n_kinds)]
    held_out = sorted(options.held_out.glob("*.wav"))
    of_real = judge(tagger, [soundfile.read(path, dtype="float32")[0] for path in held_out])[1]
    asked = {"kinds": n_kinds, "sounds": options.sounds, "new": options.new, "steps": options.steps}
    result: dict = {"lora": options.lora, **asked}
    if options.without is not None:
        earlier = json.loads(options.without.read_text(encoding="utf-8"))
        if {key: earlier[key] for key in asked} != asked:
            raise SystemExit(f"{options.without} is not of {asked}")
        result["without"] = earlier["without"]
    for name, loras in (("without", ()), ("with", parse_loras([options.lora]))):
        if name in result:
            continue
        # Without the LoRA by the engine that it needs, so that nothing else differs.
        model = load_model(engine="torch", loras=loras)
        prompts = [kind.replace("_", " ") for kind in kinds] * options.sounds
        old = generated(model, prompts, 0, options.steps)
        new = generated(model, [NAME] * options.new, 10_000, options.steps)
        guesses, of_old = judge(tagger, old)
        of_new = judge(tagger, new)[1]
        right = [guess == kind for guess, kind in zip(guesses, kinds * options.sounds, strict=True)]
        to_real = nearest(of_new, of_real)
        result[name] = {
            "old_top1": float(np.mean(right)),
            "new_nearest_to_real": float(np.mean(to_real > nearest(of_new, of_old))),
            "new_similarity": float(np.mean(to_real)),
            "right": right,
        }
        print(name, {key: value for key, value in result[name].items() if key != "right"})
    result["old_difference"] = difference(
        *(np.array(result[name]["right"]).reshape(-1, n_kinds) for name in ("without", "with"))
    )
    print("old_difference", result["old_difference"])
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def difference(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Of the shares of `after` and `before` (sounds, kinds), with the ends of its 95 % interval."""
    of_kind = after.mean(axis=0) - before.mean(axis=0)
    scatter = Z_95 * of_kind.std(ddof=1) / len(of_kind) ** 0.5
    mean = of_kind.mean()
    return {"mean": float(mean), "low": float(mean - scatter), "high": float(mean + scatter)}


def generated(
    model: Model, prompts: Sequence[str], first_seed: int, steps: int | None
) -> list[np.ndarray]:
    """A sound (N,) for each prompt."""
    requests = [GenerateRequest(prompt, first_seed + i) for i, prompt in enumerate(prompts)]
    settings = GenerateSettings.from_defaults(model.defaults, steps=steps)
    return [result.waveform for result in generate(model, requests, settings)]


@torch.inference_mode()
def judge(tagger: Tagger, waveforms: Sequence[np.ndarray]) -> tuple[list[str], np.ndarray]:
    """(the first guess for each of (N_i,) at 16 kHz, embeddings (n, D) of length 1)."""
    features = TaggerFeatures()
    embeddings, guesses = [], []
    for waveform in waveforms:
        embedded = tagger.embed(features(windows(torch.from_numpy(waveform))))
        scores = tagger.head(embedded).log_softmax(dim=1).mean(dim=0)
        guesses.append(tagger.kinds[int(scores.argmax())])
        embeddings.append(embedded.mean(dim=0).numpy())
    rows = np.stack(embeddings)
    return guesses, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Cosine (N,) of each of `these` to the nearest of `those`."""
    return (these @ those.T).max(axis=1)


if __name__ == "__main__":
    main()
