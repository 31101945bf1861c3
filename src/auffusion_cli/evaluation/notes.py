"""The cautions of an evaluation in words: its protocol, weights, files and prompts. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from auffusion_cli.evaluation.protocols import Protocol
from auffusion_cli.evaluation.published import Unverified
from auffusion_cli.evaluation.result import ClipSet, Flag, System

PHRASES: dict[Flag, tuple[str, str]] = {
    "unreadable": ("cannot be read and is left out", "cannot be read and are left out"),
    "same-name": (
        "has the name of another and is left out",
        "have the name of another and are left out",
    ),
    "silent": ("is silent", "are silent"),
    "constant": ("never changes", "never change"),
    "clipped": ("is clipped", "are clipped"),
    "too-short": ("is too short", "are too short"),
    "duplicate": ("is the same as another", "are the same as another"),
    "in-reference": ("is in the reference too", "are in the reference too"),
    "no-partner": ("has no partner in the reference", "have no partner in the reference"),
    "wrong-rate": (
        "has another sample rate and is resampled",
        "have another sample rate and are resampled",
    ),
    "several-channels": (
        "has several channels, of which the protocol makes one",
        "have several channels, of which the protocol makes one",
    ),
}
"""The guards, gravest first: the phrase for one sound, and for several."""
NAMED_IN_NOTES = 3
"""Number of files that a note names where many have the same flaw."""


def cautions(
    protocol: Protocol,
    unverified: Iterable[Unverified],
    systems: Sequence[System],
    reference: ClipSet | None,
) -> Iterator[str]:
    """Cautions about all of it, the gravest first."""
    if not protocol.comparable_with_papers:
        yield (
            f"the protocol {protocol.name!r} has a network of its own: its numbers can be"
            " compared with each other, never with those of a paper"
        )
    yield from (weights.note for weights in unverified)
    sets = [(system.name, system.clips) for system in systems]
    if reference is not None:
        sets.append(("the reference", reference))
    for name, clips in sets:
        for flag, phrase in PHRASES.items():
            paths = [finding.path for finding in clips.findings if finding.flag == flag]
            if paths:
                n, of = len(paths), f"of {clips.n_files} sounds"
                yield f"{name}: {n} {of} {phrase[n > 1]}: {some_of(paths)}"
    for system in systems:
        if alone := system.reference_without_partner:
            have = "sounds have" if len(alone) > 1 else "sound has"
            yield (
                f"{system.name}: {len(alone)} reference {have} no partner in it: {some_of(alone)}"
            )


def caption_cautions(
    captions: Mapping[str, str] | None, unused: Sequence[str], systems: Sequence[System]
) -> Iterator[str]:
    """Names of the list without a sound, and sounds without a prompt in it."""
    if captions is None:
        return
    if unused:
        yield (
            f"the list of prompts: {len(unused)} of {len(captions)} names in it belong to no sound:"
            f" {some_of(unused)}"
        )
    for system in systems:
        if without := [row.path for row in system.rows if row.prompt is None]:
            n = len(system.rows)
            yield (
                f"{system.name}: {len(without)} of {n} sounds have no prompt in the list: "
                f"{some_of(without)}"
            )


def some_of(paths: Sequence[str]) -> str:
    """The first of `paths`, and how many more there are."""
    more = len(paths) - NAMED_IN_NOTES
    return ", ".join(paths[:NAMED_IN_NOTES]) + (f" and {more} more" if more > 0 else "")
