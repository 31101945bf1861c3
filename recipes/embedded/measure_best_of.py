"""How much does `generate --best-of` gain? Judged by another classifier than the one that chose.

    pip install ai-edge-litert
    python recipes/embedded/measure_best_of.py --judge DIR -o runs/best-of.json

Makes 8 sounds of the first caption of each kind in `audioset.yaml`, ranks them as `generate` does,
guards included, and asks YAMNet (DIR: see `measure_independent.py`) which of them it hears as their
kind. The same 8 sounds stand for 8 runs of one sound, 4 of the best of 2, 2 of the best of 4, and
one of the best of 8. Writes a JSON file with every sound, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from classifier import hit_interval
from measure_independent import Sound, load_judge, load_table
from words import load_words

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import AuffusionError
from auffusion_cli.evaluation.judge import load_kind_judge
from auffusion_cli.files import write_text
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.requests.selection import Choosing
from auffusion_cli.tasks.choose import Chooser
from auffusion_cli.tasks.generate import generate

N_CANDIDATES = 8
SIZES = (1, 2, 4, 8)


def best_of(order: Sequence[int], ranks: Sequence[int], size: int) -> list[int]:
    """The other classifier's ranks of the sounds that are chosen from groups of `size`.

    `order` has the candidates, the best one first by the judge that chooses.
    """
    groups = [set(range(start, start + size)) for start in range(0, len(ranks), size)]
    return [ranks[next(i for i in order if i in group)] for group in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="name, Hub id or folder")
    parser.add_argument("--judge", type=Path, required=True, help="yamnet.tflite and classes.csv")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .json file")
    parser.add_argument("--limit-kinds", type=int, help="only the first so many")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        table = load_table(args.limit_kinds)
        other = load_judge(args.judge, table)
        model = load_model(args.model)
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    ear, words = load_kind_judge(), load_words()
    chooser = Chooser(Choosing(best_of=N_CANDIDATES), ear, ear)
    settings = GenerateSettings.from_defaults(model.defaults)
    sounds = []
    for kind in table.classes:
        request = GenerateRequest(words.captions(kind)[0], args.seed)
        (ranked,) = chooser.choose_each(lambda of: generate(model, of, settings), [request])
        heard = {
            result.request.seed - args.seed: other.hear(
                Sound((kind,), result.waveform, request.prompt)
            ).ranks[0]
            for result in ranked
        }
        order = [result.request.seed - args.seed for result in ranked]
        sounds.append({"kind": kind, "prompt": request.prompt, "order": order, "heard": heard})
        print(kind, order, heard, file=sys.stderr)
    rows = []
    for size in SIZES:
        ranks = [
            rank
            for sound in sounds
            for rank in best_of(
                sound["order"], [sound["heard"][i] for i in range(N_CANDIDATES)], size
            )
        ]
        row = {"best_of": size, "n": len(ranks), "median_rank": float(np.median(ranks))}
        for first in (1, 5):
            hits = sum(rank <= first for rank in ranks)
            row[f"first_{first}"] = hits / len(ranks)
            row[f"first_{first}_95"] = hit_interval(hits, len(ranks))
        rows.append(row)
    write_text(args.output, json.dumps({"rows": rows, "sounds": sounds}, indent=1) + "\n")
    print("| Best of | Chosen | First class | Among first 5 | Median rank |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [f"{row[f'first_{k}']:.0%}" for k in (1, 5)]
        print(f"| {row['best_of']} | {row['n']} | {' | '.join(cells)} | {row['median_rank']:g} |")


if __name__ == "__main__":
    main()
