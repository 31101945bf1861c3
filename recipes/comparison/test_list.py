"""A paper's AudioCaps test list and your files -> the prompts and real sounds of a comparison.

    python recipes/comparison/test_list.py test_audiocaps_subset.json --sounds audiocaps/ -o test

Reads the lists as their authors published them (JSON lines, AudioLDM's JSON) and AudioCaps' own
test.csv, of which it takes the first caption of a clip. A clip is known by its YouTube id, whatever
paths the list has. Writes `test/prompts.csv` and `test/real/ID.wav` (links) of the clips that are
there.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from auffusion_cli.errors import AuffusionError, DataError
from auffusion_cli.files import atomic_folder
from auffusion_cli.parsing import read_text
from auffusion_cli.signal.formats import AUDIO_SUFFIXES
from auffusion_cli.tables import BadRow, read_rows

PATH_KEYS = ("location", "audio_path", "wav")
"""Of Tango's lists, Auffusion's and AudioLDM's."""
CAPTION_KEYS = ("captions", "text", "caption")
NAME = re.compile(r"Y?(?P<id>[\w-]{11})(_\d+)?")
"""A file's name without suffix: YouTube's id, and often the second at which the clip begins."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="a paper's .json or .jsonl, or AudioCaps' test.csv")
    parser.add_argument("--sounds", type=Path, required=True, help="folder with AudioCaps' sounds")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        captions = read_list(options.list)
        found = find_sounds(options.sounds)
        there = {id: caption for id, caption in captions.items() if id in found}
        if not there:
            raise DataError(f"--sounds {options.sounds}: has none of {len(captions)} clips")
        write(options.output, there, found)
    except AuffusionError as error:
        sys.exit(f"error: {error.message}")
    print(f"{options.output}: {len(there)} of {len(captions)} clips")


def read_list(path: Path) -> dict[str, str]:
    """YouTube id -> caption, in the order of the list.

    Raises:
        DataError: it is none, or has a line that does not name a clip and its caption.
    """
    captions: dict[str, str] = {}
    for where, row in _rows(path):
        id, caption = _id_of(row), _first(row, CAPTION_KEYS)
        if id is None or not caption.strip():
            raise DataError(f"{where}: no clip of YouTube, or no caption")
        captions.setdefault(id, " ".join(caption.split()))
    return captions


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path, max_bytes=10**8, raising=DataError)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None  # a table, or lines of JSON
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        for number, row in enumerate(document["data"]):
            if not isinstance(row, dict):
                raise DataError(f"{path}, data[{number}]: is no object")
            yield f"{path}, data[{number}]", row
        return
    try:
        for row in read_rows(text, "csv" if path.suffix.lower() == ".csv" else "jsonl"):
            where = f"{path}, line {row.line}"
            if isinstance(row, BadRow):
                raise DataError(f"{where}: {row.reason}")
            yield where, row.values
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _id_of(row: dict[str, Any]) -> str | None:
    name = _first(row, ("youtube_id",)) or PurePosixPath(_first(row, PATH_KEYS)).stem
    match = NAME.fullmatch(name)
    return None if match is None else match["id"]


def _first(row: dict[str, Any], keys: Iterable[str]) -> str:
    return next((row[key] for key in keys if isinstance(row.get(key), str)), "")


def find_sounds(folder: Path) -> dict[str, Path]:
    """YouTube id -> file, by the names that AudioCaps' downloaders give (docs/training-data.md)."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    found = {match["id"]: path for path in files if (match := NAME.fullmatch(path.stem))}
    if (table := folder / "test.csv").is_file():  # files may be named by its numbers
        numbered = {path.stem: path for path in files if "test" in path.relative_to(folder).parts}
        for _, row in _rows(table):
            if (path := numbered.get(_first(row, ("audiocap_id",)))) is not None:
                found.setdefault(_first(row, ("youtube_id",)), path)
    return found


def write(folder: Path, captions: dict[str, str], found: dict[str, Path]) -> None:
    """Write the prompts, and links to their sounds. Raises OutputExistsError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, overwrite=False) as beside:
        (beside / "real").mkdir()
        for id in captions:
            link = beside / "real" / f"{id}{found[id].suffix}"
            link.symlink_to(found[id].resolve())
        with (beside / "prompts.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("name", "prompt"), *captions.items()])


if __name__ == "__main__":
    main()
