"""What is told of how a sound was chosen among several, or made again by the guards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from auffusion_cli.cli import console

if TYPE_CHECKING:
    from auffusion_cli.requests.selection import Selection


def tell(path: Path, selection: Selection | None) -> Counter[str]:
    """Warn of what the guards still find in the sound of `path`; returns what they rejected."""
    if selection is None:
        return Counter()
    if selection.fault:
        console.warn(f"{path}: may be {selection.fault}; try other words, or another --seed")
    if selection.best_of > 1 and selection.judge is None:
        console.warn(
            f"{path}: the judge knows none of the words: the first without a fault is kept"
        )
    return Counter(one.fault for one in selection.rejected)


def note_rejected(faults: Counter[str]) -> None:
    """Tell in a line how many sounds were made again, and why; nothing where none was."""
    if faults:
        kinds = ", ".join(f"{n} {fault}" for fault, n in faults.most_common())
        console.note(f"made again with another seed: {kinds} (--no-guards keeps them)")
