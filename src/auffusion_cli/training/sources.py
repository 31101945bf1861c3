"""What `--data` is: listed clips, data that is read from end to end, or latents. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.training.checks import changed, check_unused
from auffusion_cli.training.config import TrainingConfig
from auffusion_cli.training.data import (
    SPLIT_NAMES,
    TABLE_SUFFIXES,
    Manifest,
    NoSplitError,
    load_clips,
)
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.records import RecordSet, find_records
from auffusion_cli.training.run_folder import LATENTS_NAME

OF_RECORDS = ("duration_s", "n_crops", "phrase_probability")
"""Keys of `scenes` that are read where sounds come one after the other."""

Found = Manifest | RecordSet | Path
"""Clips; sounds one after the other; a folder of latents."""


def find_all(data_sets: Sequence[str], split: str, reading: Reading) -> Found:
    """What all data sets have for a split, together; raises as `find_data` does.

    Of several, those that have no such split are left out, but not all of them.

    Raises:
        UsageError: they cannot be read together.
    """
    found, without = [], []
    for data in data_sets:
        try:
            found.append(find_data(data, split, reading))
        except NoSplitError as error:
            without.append(error)
    if without and (split == "train" or not found):
        raise without[0]
    if len(found) == 1:
        return found[0]
    if all(isinstance(each, Manifest) for each in found):
        clips = tuple(clip for each in found for clip in each.clips)
        return Manifest(clips, tuple(problem for each in found for problem in each.problems))
    if all(isinstance(each, RecordSet) for each in found):
        return RecordSet(tuple(part for each in found for part in each.parts), reading)
    raise UsageError(
        "--data: of several, all have to be folders and lists of sounds, or all tar and parquet",
        hint="Latents are of several where --precompute was given several.",
    )


def find_data(data: str, split: str, reading: Reading) -> Found:
    """What `--data` is, by its content. Raises as `load_clips` and `find_records` do."""
    folder = Path(data)
    if (latents := find_latents(folder, split)) is not None:
        return latents
    has_table = any(
        (folder / f"{name}{suffix}").is_file()
        for name in ("metadata", *SPLIT_NAMES[split])
        for suffix in (".jsonl", *TABLE_SUFFIXES)
    )
    records = None if has_table else find_records(data, split, reading)
    return load_clips(folder, split, reading) if records is None else records


def find_latents(folder: Path, split: str) -> Path | None:
    """The latents of a split that `train --precompute` wrote into `folder`; None: it holds none.

    Where these are of several starts, the folder of all is returned.

    Raises:
        DataError: it holds those of another split.
    """
    if (folder / LATENTS_NAME).is_file():
        return folder
    found = sorted(path.parent for path in folder.glob(f"*/*/{LATENTS_NAME}"))
    found = [path for path in found if path.parent.name in SPLIT_NAMES]
    if not found:
        return None
    of_split = [path for path in found if path.parent.name == split]
    if not of_split:
        raise NoSplitError(f"--data {folder} has latents, but none of the split {split!r}")
    return of_split[0] if len(of_split) == 1 else of_split[0].parent


def check_settings(config: TrainingConfig, found: Found) -> None:
    """Raise a UsageError for settings that have no effect on such data.

    Raises a DataError for latents in other stages than diffusion.
    """
    if isinstance(found, Manifest) or (isinstance(found, RecordSet) and reads_files(config)):
        return
    if reads_files(config):
        named = ", ".join(config.data_sets)
        raise DataError(
            f"--data {named} holds latents, and stage: {config.stage} needs sounds",
            hint="Latents are for the diffusion stage.",
        )
    reason = "on latents" if isinstance(found, Path) else "on data that is read from end to end"
    read = {"duration_s", "phrase_probability"} if isinstance(found, Path) else set(OF_RECORDS)
    others = changed(config.scenes) - read
    check_unused("scenes", config.scenes, True, reason, others)


def reads_files(config: TrainingConfig) -> bool:
    """Whether the stage reads sound files again and again, so that others are unpacked first."""
    return config.stage != "diffusion"
