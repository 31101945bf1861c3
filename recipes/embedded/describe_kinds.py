"""Write `kinds.json` of the embedded model: each kind's wordings, recordings and licences.

    python recipes/embedded/describe_kinds.py --sounds data/embedded-sounds -o weights/embedded

`auffusion models kinds` searches it, and `auffusion info` finds in it the licences behind a sound.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import yaml
from attribution import made_here, spdx  # a recipe's scripts import their neighbours
from build_sounds import load_kinds
from checksums import write_checksums

from auffusion_cli.checkpoints.kinds import KINDS_NAME

KINDS = Path(__file__).with_name("kinds.yaml")
WORDINGS = Path(__file__).with_name("wordings.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=Path, required=True, help="what build_sounds.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint's folder")
    arguments = parser.parse_args()
    write_kinds(arguments.sounds, arguments.output)
    write_checksums(arguments.output)


def write_kinds(sounds: Path, folder: Path) -> None:
    """Write `kinds.json` into `folder`, from the clips that the model was trained on."""
    kinds = describe(sounds / "train" / "metadata.jsonl")
    lines = ",\n".join(json.dumps(kind, ensure_ascii=False) for kind in kinds)  # a kind a line
    text = f'{{"format_version": 1, "kinds": [\n{lines}\n]}}\n'
    (folder / KINDS_NAME).write_text(text, encoding="utf-8")


def describe(metadata: Path) -> list[dict[str, Any]]:
    """The kinds that have training clips, in the order of `kinds.yaml`."""
    recordings: dict[str, dict[str, str]] = defaultdict(dict)
    for line in metadata.read_text("utf-8").splitlines():
        clip = json.loads(line)
        package, _, path = clip["source"].partition(":")
        made = made_here(package, path)
        recordings[clip["kind"]][clip["source"]] = spdx(made[1] if made else clip["licence"])
    taught: dict[str, list[str]] = yaml.safe_load(WORDINGS.read_text("utf-8"))
    return [
        {
            "name": kind.name.replace("_", " "),
            "role": kind.role,
            "phrases": kind.phrases,
            "captions": kind.captions,
            # A caption of its own has wordings, too: those of a kitten are a cat's.
            "wordings": [
                w for key in (kind.name, *kind.words.values()) for w in taught.get(key, [])
            ],
            "licences": dict(Counter(recordings[kind.name].values()).most_common()),
        }
        for kind in load_kinds(KINDS)
        if recordings[kind.name]
    ]


if __name__ == "__main__":
    main()
