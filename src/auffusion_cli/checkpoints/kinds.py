"""`kinds.json` of a checkpoint: the kinds of sound it was trained on, and their licences. No torch.

The kinds of a prompt are found by its words alone: a kind is meant where all words of one of its
wordings are in the prompt, in any order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auffusion_cli.errors import CheckpointError
from auffusion_cli.parsing import decode, read_json

KINDS_NAME = "kinds.json"
STOP_WORDS = frozenset("a an and as at by for from in into is it its of on or the to with".split())  # noqa: SIM905
SHARE_ALIKE = re.compile(r"\bCC-BY(?:-NC)?-SA\b|GPL|GFDL|\bfree-art\b", re.IGNORECASE)
"""Licences that ask for the same licence on adaptations."""


@dataclass(frozen=True)
class Kind:
    """A kind of sound, as a model was trained on it."""

    name: str
    role: str
    """event or background."""
    phrases: tuple[str, ...]
    """Short wordings."""
    captions: tuple[str, ...]
    """Whole prompts."""
    wordings: tuple[str, ...]
    """Other wordings that the model was taught."""
    licences: dict[str, int]
    """Licence -> recordings under it."""

    @property
    def n_recordings(self) -> int:
        return sum(self.licences.values())

    @property
    def share_alike(self) -> dict[str, int]:
        """The licences that ask for the same licence, with their recordings."""
        return {name: n for name, n in self.licences.items() if asks_for_share_alike(name)}


def asks_for_share_alike(licence: str) -> bool:
    """Whether every choice that `licence` leaves asks for the same licence on adaptations."""
    return all(
        SHARE_ALIKE.search(choice) for choice in re.split(" or ", licence, flags=re.IGNORECASE)
    )


def read_kinds(folder: Path) -> list[Kind] | None:
    """The kinds of the checkpoint in `folder`; None where it does not list them.

    Raises:
        CheckpointError: the list is damaged.
    """
    path = folder / KINDS_NAME
    if not path.is_file():
        return None
    content = read_json(path, raising=CheckpointError)
    try:
        if not isinstance(content, dict) or content.get("format_version") != 1:
            raise ValueError("is not a list of kinds of format 1")
        return list(decode(tuple[Kind, ...], content.get("kinds"), "kinds"))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def search_kinds(kinds: Iterable[Kind], text: str) -> list[Kind]:
    """The kinds of which a wording has all words of `text`, those with it in the name first."""
    wanted = _stems(text)

    def rank(kind: Kind) -> int:
        groups = ((kind.name,), kind.phrases, kind.captions, kind.wordings)
        for place, wordings in enumerate(groups):
            if any(wanted <= _stems(wording) for wording in wordings):
                return place
        return len(groups)

    ranked = sorted(((rank(kind), kind) for kind in kinds), key=lambda pair: pair[0])
    return [kind for place, kind in ranked if place < 4]


def kinds_of_prompt(kinds: Iterable[Kind], prompt: str) -> list[Kind]:
    """The kinds that the words of `prompt` mean; of two, the one that means more of them."""
    words = _stems(prompt)
    meant = []
    for kind in kinds:
        wordings = map(_stems, (kind.name, *kind.phrases, *kind.wordings))
        if found := max((w for w in wordings if w and w <= words), key=len, default=None):
            meant.append((kind, found))
    return [kind for kind, found in meant if not any(found < other for _, other in meant)]


def licence_summary(kinds: Sequence[Kind]) -> dict[str, Any]:
    """Recordings of several kinds, by licence, and those among them with share-alike terms."""
    licences = _added(kind.licences for kind in kinds)
    share_alike = _added(kind.share_alike for kind in kinds)
    return {"licences": licences, "share_alike": share_alike}


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())


def _stems(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(_stem(word) for word in words if word not in STOP_WORDS)


def _stem(word: str) -> str:
    """`word` without the endings of English nouns and verbs: barks, barking, barked -> bark."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word.removesuffix("e") if len(word) > 3 else word
