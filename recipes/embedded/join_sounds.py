"""Join the sounds of several trainings, so that credits and kinds name all that was learned from.

    python recipes/embedded/join_sounds.py --sounds data/before data/now --cache data/cache \
        -o data/joined

A model that was trained on one set of `build_sounds.py` and went on with another owes its sounds to
both. Writes `train/metadata.jsonl`, a row a clip, and `CREDITS.md`: what `assemble.py --sounds` and
`describe_kinds.py --sounds` read. No audio is copied.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from attribution import Licences  # a recipe's scripts import their neighbours

SPLITS = ("train", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sounds", type=Path, nargs="+", required=True, help="what build_sounds.py wrote"
    )
    parser.add_argument("--cache", type=Path, required=True, help="that of build_sounds.py")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = {split: joined(arguments.sounds, split) for split in SPLITS}
    folder = arguments.output / "train"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows["train"])
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    sources = [row["source"] for split in SPLITS for row in rows[split]]
    credits_ = Licences(arguments.cache / "sounds").document(sources)
    (arguments.output / "CREDITS.md").write_text(credits_, encoding="utf-8")
    print(f"{len(rows['train'])} recordings to learn from, {len(set(sources))} in all")


def joined(folders: list[Path], split: str) -> list[dict]:
    """One metadata row a recording, the first that names it, in the order of the folders."""
    rows: dict[str, dict] = {}
    for folder in folders:
        for line in (folder / split / "metadata.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault(row["source"], row)
    return list(rows.values())


if __name__ == "__main__":
    main()
