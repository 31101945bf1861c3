"""The networks that `evaluate` and `sweep` measure with: chosen, checked, fetched and loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from auffusion_cli.cli import console
from auffusion_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from auffusion_cli.evaluation.protocols import Protocol
    from auffusion_cli.tasks.evaluate import Networks, OnProgress


PROTOCOLS_OF = {
    "embedded": ("embedded",),
    "published": ("auffusion-2024", "tango"),
    "yamnet": ("yamnet",),
}
"""Backbone -> its protocols, the default first."""


@dataclass(frozen=True)
class Measuring:
    """Options for the protocol of a measurement and the weights of its networks."""

    backbone: Annotated[
        Literal["embedded", "published", "yamnet"] | None,
        typer.Option(
            help="The networks: the small one that comes with this package (the default), those of"
            " the papers, which are downloaded, or YAMNet, an independent judge.",
        ),
    ] = None
    protocol: Annotated[
        Literal["auffusion-2024", "tango", "embedded", "yamnet"] | None,
        typer.Option(help="The way of measuring; `published` takes auffusion-2024."),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Files of cnn14, vggish, clap and yamnet that were brought by hand.",
        ),
    ] = None

    @property
    def is_default(self) -> bool:
        return self.backbone is None and self.protocol is None

    def choose(self) -> Protocol:
        """The protocol asked for.

        Raises:
            UsageError: the options contradict each other, or `weights` is of no use.
        """
        from auffusion_cli.evaluation.protocols import PROTOCOLS
        from auffusion_cli.evaluation.published import check_weights_folder

        valid = PROTOCOLS_OF[self.backbone or "embedded"]
        name = self.protocol or valid[0]
        chosen = PROTOCOLS[name]
        if self.backbone is not None and name not in valid:
            raise UsageError(
                f"--backbone {self.backbone} and --protocol {name} contradict each other",
                hint="A protocol brings its networks; leave --backbone out.",
            )
        if self.weights is not None:
            check_weights_folder(self.weights, [each.name for each in chosen.backbones])
        return chosen


def cache_folder() -> Path:
    """The folder in which features are kept, by the content of the sound."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "auffusion/features"


def sounds_in(named_by: str, folder: Path) -> list[str]:
    """The sound files of a folder. UsageError, beginning with `named_by`, where there are none."""
    from auffusion_cli.evaluation.clips import find_sounds

    try:
        return find_sounds(folder)
    except DataError as error:
        raise UsageError(f"{named_by}{error.message}", hint=error.hint) from None


def load_networks(
    chosen: Protocol, has_reference: bool, weights: Path | None, device: str, *, yes: bool
) -> Networks:
    """The networks that will be needed: the one for frames only where there is a reference.

    All are fetched before the first is loaded, so that what is missing is reported at once.
    """
    from auffusion_cli.device import choose_device
    from auffusion_cli.evaluation import published
    from auffusion_cli.evaluation.weights import load_embedder
    from auffusion_cli.tasks.evaluate import Networks

    roles = {
        role: network
        for role in ("classifier", "frames", "text")
        if (network := getattr(chosen, role)) is not None and (role != "frames" or has_reference)
    }
    torch_device = choose_device(device)
    missing = published.missing([network.name for network in roles.values()], weights)
    for n, name in enumerate(missing):
        _fetch(name, then=missing[n + 1 :], yes=yes)
    loaded, unverified = {}, {}
    for role, network in roles.items():
        console.note(f"loading {network.name}")
        loaded[role], found = load_embedder(network, weights_folder=weights, device=torch_device)
        if found is not None:
            unverified[network.name] = found
    return Networks(**loaded, unverified=unverified)


def _fetch(name: str, then: list[str], *, yes: bool) -> None:
    from auffusion_cli.cli.resolve import DownloadProgress, ask
    from auffusion_cli.evaluation import published

    console.note(f"fetching {name}")
    with DownloadProgress(name) as progress:
        published.fetch(name, then=then, confirm=ask(yes=yes), on_progress=progress.report)


@contextmanager
def progress() -> Iterator[OnProgress]:
    """A bar for the phases of a measurement."""
    with console.Progress("reading", unit="clips") as bar:
        yield lambda what, n_done, n: bar.update(description=what, completed=n_done, total=n)


def warn_of(notes: Iterable[str], networks: Networks) -> None:
    """Show the notes of an evaluation, except those on weights: loading has shown them."""
    shown = {unverified.note for unverified in networks.unverified.values()}
    for note in notes:
        if note not in shown:
            console.warn(note)
