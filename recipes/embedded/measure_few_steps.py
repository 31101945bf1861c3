"""Are few steps, or a student of few steps, as good as the model's own? For the model card.

    python recipes/embedded/measure_few_steps.py prepare --data DATA -o runs/steps
    auffusion sweep --prompts runs/steps/prompts.csv --reference runs/steps/real --seed 1 \
        --steps 4,16 -o runs/steps/teacher
    auffusion sweep --prompts runs/steps/prompts.csv --reference runs/steps/real --seed 1 \
        --steps 2,4,8 --model runs/turbo -o runs/steps/student
    pip install ai-edge-litert
    python recipes/embedded/measure_few_steps.py hear runs/steps/*/*-steps* --judge DIR

The prompts are known captions of the kinds in `audioset.yaml`, and wordings that were never taught;
the real sounds are held-out clips of the kinds. A sweep has the numbers of `auffusion evaluate`, by
the tagger; `hear` prints how often YAMNet (measure_independent.py) has the right class among its
first five.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from measure_independent import (
    Judge,
    Sound,
    load_judge,
    load_table,
    prompts_of,
    real_sounds,
    summary,
)

from auffusion_cli.errors import AuffusionError
from auffusion_cli.signal.audio import read_audio, write_audio

SETS = ("known", "other")
RATE_HZ = 16_000
SEED = 1


def prepare(data: Path, per_kind: int, folder: Path) -> None:
    """Write prompts.csv, whose names say set and kind, and real/KIND-000.wav."""
    table = load_table()
    (folder / "real").mkdir(parents=True)
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("name", "prompt"))
        prompts = prompts_of(table)
        for of in SETS:
            for number, ((kind,), prompt) in enumerate(prompts[of]):
                rows.writerow((f"{of}-{kind}-{number:03d}", prompt))
    sounds = real_sounds(data, list(table.classes), per_kind, SEED)
    for number, sound in enumerate(sounds):
        path = folder / "real" / f"real-{sound.kinds[0]}-{number:03d}.wav"
        write_audio(path, sound.waveform, RATE_HZ)


def hear(judge: Judge, folder: Path) -> list[str]:
    """How many sounds of each set are right, as cells of a table; empty where there are none."""
    cells = []
    for of in SETS:
        verdicts = []
        for path in sorted(folder.glob(f"{of}-*.wav")):
            kind = path.stem.split("-")[1]
            waveform, _ = read_audio(path, RATE_HZ, mono=True)
            verdicts.append(judge.hear(Sound((kind,), waveform[0], path.name)))
        cells.append(_cell(summary(verdicts, judge.table.noise_like)) if verdicts else "–")
    return cells


def _cell(found: dict) -> str:
    row = found["first 5"]
    low, high = row["interval_95"]
    return f"{row['hits'] / row['n']:.0%} ({low:.0%} to {high:.0%}) of {row['n']}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    before = commands.add_parser("prepare", help="write the prompts and the real sounds")
    before.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    before.add_argument("--per-kind", type=int, default=5, help="real clips")
    before.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    after = commands.add_parser("hear", help="judge the cells of sweeps")
    after.add_argument("folders", type=Path, nargs="+")
    after.add_argument("--judge", type=Path, required=True, help="yamnet.tflite and classes.csv")
    args = parser.parse_args(arguments)
    try:
        if args.command == "prepare":
            prepare(args.data, args.per_kind, args.output)
            return
        judge = load_judge(args.judge, load_table())
        print("| Sounds | Known captions, first 5 | Untaught wordings, first 5 |")
        print("| --- | --- | --- |")
        for folder in args.folders:
            print(f"| {folder.parent.name}/{folder.name} | {' | '.join(hear(judge, folder))} |")
    except (AuffusionError, FileExistsError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
