"""Do other settings cost sounds their kind? For the model card.

    pip install ai-edge-litert
    python recipes/embedded/measure_settings.py guidance_until=1 guidance_until=0.75 \
        --judge DIR --seeds 11 12 -o runs/guidance.jsonl
    python recipes/embedded/measure_settings.py windows_at_once=1 windows_at_once=2 \
        --duration 10.24 --judge DIR --seeds 11 12 -o runs/windows.jsonl

Sounds are generated twice, from the same noise: with the first setting and with the second. The
prompts are known captions and untaught wordings, and YAMNet says what it hears, as for the card's
first table (measure_independent.py). A line is written for each sound, and a run that was stopped
goes on; at the end the rates are printed, with the difference of each pair and its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from measure_independent import Judge, Sound, load_judge, load_table, prompts_of

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.evaluation.bootstrap import Z_95
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import generate

SETS = ("known", "other")
FIRST = (1, 5, 10)


def read_setting(text: str) -> dict[str, Any]:
    """NAME=VALUE, a field of `GenerateSettings`."""
    name, _, value = text.partition("=")
    try:
        if name not in {field.name for field in fields(GenerateSettings)}:
            raise ValueError
        return {name: json.loads(value)}
    except ValueError:
        raise UsageError(f"{text!r} is not a setting and its value") from None


def measure(
    model: Model,
    judge: Judge,
    settings: dict[str, GenerateSettings],
    seeds: Sequence[int],
    path: Path,
) -> None:
    """Append a line to `path` for each sound that is not there yet."""
    done = {(row["prompt"], row["seed"], row["setting"]) for row in read_rows(path)}
    prompts = [(of, *each) for of in SETS for each in prompts_of(judge.table)[of]]
    prompts.sort(key=lambda prompt: prompt[1])  # both sets from the first lines on
    for seed in seeds:
        for of, kinds, prompt in prompts:
            for name, each in settings.items():
                if (prompt, seed, name) in done:
                    continue
                (result,) = generate(model, [GenerateRequest(prompt, seed, trim=True)], each)
                heard = judge.hear(Sound(kinds, result.waveform, prompt, seed))
                row = {"set": of, "prompt": prompt, "seed": seed, "setting": name}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**row, "rank": heard.ranks[0]}) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def markdown(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Rates of the sounds that were made with both settings, by set."""
    ranks = {(row["set"], row["prompt"], row["seed"], row["setting"]): row["rank"] for row in rows}
    lines = [f"| Sounds | First | {names[0]} | {names[1]} | Difference |", "| --- " * 5 + "|"]
    for of in SETS:
        sounds = {key[:3] for key in ranks if key[0] == of}
        pairs = [[ranks.get((*sound, name)) for name in names] for sound in sounds]
        pairs = np.array([pair for pair in pairs if None not in pair]).reshape(-1, 2)
        for k in FIRST if len(pairs) else ():
            hits = (pairs <= k).astype(float)
            change = hits[:, 1] - hits[:, 0]
            half = Z_95 * change.std() / np.sqrt(len(pairs))
            before, after = hits.mean(axis=0)
            lines.append(
                f"| {len(pairs)} {of} | {k} | {before:.1%} | {after:.1%} "
                f"| {100 * change.mean():+.1f} ± {100 * half:.1f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs=2, metavar="NAME=VALUE", help="before, and after")
    parser.add_argument("--model", default="embedded", help="name, Hub id or folder")
    parser.add_argument("--duration", type=float, help="seconds; by default the model's")
    parser.add_argument("--judge", type=Path, required=True, help="yamnet.tflite and classes.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .jsonl file")
    args = parser.parse_args(arguments)
    try:
        asked = {text: {"duration_s": args.duration} | read_setting(text) for text in args.settings}
        judge = load_judge(args.judge, load_table())
        model = load_model(args.model)
        settings = {
            text: GenerateSettings.from_defaults(model.defaults, **each)
            for text, each in asked.items()
        }
        measure(model, judge, settings, args.seeds, args.output)
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    print(markdown(read_rows(args.output), args.settings))


if __name__ == "__main__":
    main()
