"""How well does a classifier do on held-out recordings, and on sounds of another collection?

    apt-get download qabcs-data && dpkg-deb -x qabcs-data_*.deb data/qabcs
    python recipes/embedded/measure_classifier.py --classifier weights/tagger \
        --data data/embedded-sounds --independent data/qabcs/usr/share/qabcs/abcs/all/noises

The held-out clips of DATA/test come from other recordings than those of DATA/train, but out of the
same games; `independent.yaml` names sounds of qabcs-data, of which nothing here has learned. These
are heard as they are, whole; they are few, and called what their files are called, so that the
intervals are wide, and differences between classifiers say more than the numbers. Prints a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from classifier import hit_interval, load_classifier, load_store, measure_clips

from auffusion_cli.errors import AuffusionError, DataError
from auffusion_cli.evaluation.tagger import SAMPLE_RATE_HZ, Tagger, TaggerFeatures, windows
from auffusion_cli.signal.audio import read_audio

TABLE = Path(__file__).with_name("independent.yaml")


def heard_kinds(tagger: Tagger, path: Path) -> list[str]:
    """The kinds of the classifier, the one that it hears most clearly in a file first."""
    waveform = torch.from_numpy(read_audio(path, SAMPLE_RATE_HZ, mono=True)[0][0])
    with torch.inference_mode():
        scores = tagger(TaggerFeatures()(windows(waveform))).log_softmax(dim=1).mean(0)
    return [tagger.kinds[i] for i in scores.argsort(descending=True)]


def hear_all(
    tagger: Tagger, folder: Path, table: Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, str]]:
    """Of each file whose kinds the classifier has: the rank of the first right one, and its guess.

    Raises:
        DataError: a file is not in `folder`.
    """
    heard = {}
    for name, right in table.items():
        path = folder / f"{name}.ogg"
        if not path.is_file():
            raise DataError(f"--independent {folder}: lacks {path.name} of qabcs-data")
        if known := set(right) & set(tagger.kinds):
            ranked = heard_kinds(tagger, path)
            heard[name] = min(ranked.index(kind) for kind in known) + 1, ranked[0]
    return heard


def row(name: str, n: int, hits: Sequence[int]) -> str:
    """A row of the table, of `hits` at the first guess and in the first five."""
    cells = []
    for n_hits in hits:
        low, high = hit_interval(n_hits, n)
        cells.append(f"{n_hits / n:.1%} ({low:.0%} to {high:.0%})")
    return f"| {name} | {n} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classifier", type=Path, required=True, help="what classifier.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with test/")
    parser.add_argument("--independent", type=Path, required=True, help="noises of qabcs-data")
    args = parser.parse_args()
    try:
        tagger, scenes = load_classifier(args.classifier)
        store = load_store(args.data, "test", tagger.kinds)
        held_out = measure_clips(tagger, store, scenes, seed=0)["overall"]
        heard = hear_all(tagger, args.independent, yaml.safe_load(TABLE.read_text("utf-8")))
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    print("| Sounds | Number | First | First 5 |\n| --- | --- | --- | --- |")
    n = held_out["n"]
    print(row("Held-out clips", n, [round(held_out[top] * n) for top in ("top1", "top5")]))
    ranks = [rank for rank, _ in heard.values()]
    print(row("qabcs-data", len(ranks), [sum(r <= limit for r in ranks) for limit in (1, 5)]))
    taken = (f"{name} for {guess}" for name, (rank, guess) in heard.items() if rank > 1)
    print(f"\nTaken for another: {', '.join(taken)}")


if __name__ == "__main__":
    main()
