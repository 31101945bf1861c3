"""Edits of the words of a prompt, as users write them, and the alignment of their words. No torch.

`dog=cat` swaps, `rain=2.0` reweights, `… in a cathedral` refines, where … stands for the prompt.
Words are compared without regard to case. A word that occurs several times means all of them;
`dog#2` is the second alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from auffusion_cli.errors import UsageError

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
NTH = re.compile(r"(.*)#([0-9]{1,4})", re.DOTALL)
ELLIPSIS = re.compile(r"…|\.\.\.")
MAX_WEIGHT = 20.0
"""Attention scaled by more is outside of anything that the model was trained on."""


MAX_LISTED_CHARACTERS = 160


@dataclass(frozen=True)
class Word:
    """One word of a prompt and its place, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Match:
    """Words of the source (by number) aligned with words of the edited prompt."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class WordEdit:
    """A prompt before and after its edits. Words in no match are new, or were removed."""

    source: str
    prompt: str
    matches: tuple[Match, ...]
    weights: tuple[float, ...]
    """One for each word of `prompt`; 1 leaves its attention as it is."""

    @property
    def edited_words(self) -> tuple[int, ...]:
        """The words of `prompt` that are new, stand for others, or are reweighted."""
        source, words = find_words(self.source), find_words(self.prompt)
        kept = {
            match.targets[0]
            for match in self.matches
            if len(match.sources) == len(match.targets) == 1
            and source[match.sources[0]].text == words[match.targets[0]].text
        }
        return tuple(i for i, weight in enumerate(self.weights) if i not in kept or weight != 1.0)


def find_words(prompt: str) -> list[Word]:
    """The words of `prompt`, in order; punctuation and spaces belong to none."""
    return [Word(match[0], match.start(), match.end()) for match in WORD.finditer(prompt)]


def edit_words(
    prompt: str, swaps: Sequence[str] = (), refine: str = "", reweights: Sequence[str] = ()
) -> WordEdit:
    """Swap words of `prompt`, then refine the result, then weigh its words.

    All swaps are of words of `prompt` itself. `refine` is the prompt with something around it, for
    which … or ... stands, or a whole prompt that shares words with it; "" is none.

    Raises:
        UsageError: an edit cannot be read, or names what is not there; the message lists the words.
    """
    edited, matches = _swap(prompt, swaps)
    if refine:
        edited, matches = _refine(edited, matches, refine)
    return WordEdit(prompt, edited, tuple(matches), _weigh(edited, reweights))


def _swap(prompt: str, swaps: Sequence[str]) -> tuple[str, list[Match]]:
    """The prompt after all swaps, and the alignment of its words."""
    words = find_words(prompt)
    places: dict[tuple[int, int], str] = {}  # (first word, behind the last) -> what comes there
    for swap in swaps:
        old, equals, new = swap.partition("=")
        new = new.strip()
        if not equals or not find_words(new):
            raise UsageError(
                f"--swap {swap!r} cannot be read",
                hint="For example: --swap dog=cat. To silence a word: --reweight dog=0.",
            )
        for place in find_phrase(prompt, old, f"--swap {swap}"):
            if any(place[0] < end and start < place[1] for start, end in places):
                raise UsageError(f"--swap {swap} and another one change the same word")
            places[place] = new

    edited, pieces, copied_to = "", [], 0  # pieces: (words of the source, characters of the result)
    for place in sorted(places | {(i, i + 1): "" for i in _outside(places, len(words))}):
        start, end = words[place[0]].start, words[place[1] - 1].end
        edited += prompt[copied_to:start]
        piece = places.get(place) or prompt[start:end]
        pieces.append((place, (len(edited), len(edited) + len(piece))))
        edited += piece
        copied_to = end
    edited += prompt[copied_to:]
    matches = [
        Match(tuple(range(*place)), targets)
        for place, characters in pieces
        if (targets := _words_within(edited, *characters))
    ]
    return edited, matches


def _outside(places: dict[tuple[int, int], str], n_words: int) -> list[int]:
    taken = {i for place in places for i in range(*place)}
    return [i for i in range(n_words) if i not in taken]


def _words_within(prompt: str, start: int, end: int) -> tuple[int, ...]:
    return tuple(
        i for i, word in enumerate(find_words(prompt)) if start <= word.start and word.end <= end
    )


def _refine(prompt: str, matches: list[Match], refine: str) -> tuple[str, list[Match]]:
    """The refined prompt, and the alignment of its words with those of the source."""
    stand_ins = list(ELLIPSIS.finditer(refine))
    if len(stand_ins) > 1:
        raise UsageError(f"--refine {refine!r} has more than one …, which stands for the prompt")
    old_words = find_words(prompt)
    if stand_ins:
        start, end = stand_ins[0].span()
        refined = refine[:start] + prompt + refine[end:]
        places = {(word.start, word.end): i for i, word in enumerate(find_words(refined))}
        moved = [(word.start + start, word.end + start) for word in old_words]
        becomes = {i: places[place] for i, place in enumerate(moved) if place in places}
    else:
        refined = refine
        before = [word.text.lower() for word in old_words]
        after = [word.text.lower() for word in find_words(refined)]
        blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
        becomes = {block.a + i: block.b + i for block in blocks for i in range(block.size)}
        if not becomes:
            raise UsageError(
                f"--refine {refine!r} shares no word with the prompt. {_listed(prompt)}",
                hint='Write … for the prompt: --refine "… in a cathedral".',
            )
    followed = [
        Match(match.sources, tuple(becomes[i] for i in match.targets if i in becomes))
        for match in matches
    ]
    return refined, [match for match in followed if match.targets]


def _weigh(prompt: str, reweights: Sequence[str]) -> tuple[float, ...]:
    weights = [1.0] * len(find_words(prompt))
    weighed: set[int] = set()
    for reweight in reweights:
        phrase, equals, number = reweight.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(
                f"--reweight {reweight!r} cannot be read", hint="For example: --reweight rain=2.0."
            )
        if not abs(weight) <= MAX_WEIGHT:
            raise UsageError(
                f"--reweight {reweight} is not possible",
                hint=f"Valid weights: {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}; 1 changes nothing.",
            )
        for start, end in find_phrase(prompt, phrase, f"--reweight {reweight}"):
            if weighed & set(range(start, end)):
                raise UsageError(f"--reweight {reweight} weighs a word that has a weight already")
            weighed |= set(range(start, end))
            weights[start:end] = [weight] * (end - start)
    return tuple(weights)


def find_phrase(prompt: str, phrase: str, label: str) -> list[tuple[int, int]]:
    """Places in `prompt` where the words of `phrase` follow each other: (first word, end).

    `phrase#2` is the second such place alone.

    Raises:
        UsageError: there is none; the message begins with `label` and lists the prompt's words.
    """
    nth = None
    if numbered := NTH.fullmatch(phrase.strip()):
        phrase, nth = numbered[1], int(numbered[2])
    wanted = [word.text.lower() for word in find_words(phrase)]
    if not wanted:
        raise UsageError(f"{label}: names no word. {_listed(prompt)}")
    words = [word.text.lower() for word in find_words(prompt)]
    n = len(wanted)
    places: list[tuple[int, int]] = []
    for i in range(len(words) - n + 1):
        if words[i : i + n] == wanted and (not places or i >= places[-1][1]):
            places.append((i, i + n))
    if not places:
        raise UsageError(f"{label}: {phrase.strip()!r} is not in the prompt. {_listed(prompt)}")
    if nth is None:
        return places
    if not 1 <= nth <= len(places):
        times = "once" if len(places) == 1 else f"{len(places)} times"
        raise UsageError(
            f"{label}: {phrase.strip()!r} occurs {times} in the prompt. {_listed(prompt)}"
        )
    return [places[nth - 1]]


def _listed(prompt: str) -> str:
    words = ", ".join(word.text for word in find_words(prompt))
    if len(words) > MAX_LISTED_CHARACTERS:
        words = words[:MAX_LISTED_CHARACTERS].rpartition(", ")[0] + ", …"
    return f"Its words: {words}" if words else "It has no words"
