"""Where the published networks' weights come from, and where they are kept; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from auffusion_cli import hub
from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation.protocols import CLAP
from auffusion_cli.provenance import hash_file


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file that is not on the Hub."""

    description: str
    licence: str
    file_name: str
    url: str
    sha256: str
    approximate_bytes: int


# The checksums of these two files are recorded by many independent users of them; that of VGGish
# is moreover in its name, and that of Cnn14 belongs to the MD5 that Zenodo publishes
# (362fc5ff18f1d6ad2f6d464b45893f2c).
WEIGHTS: dict[str, PublishedWeights] = {
    "cnn14": PublishedWeights(
        "PANNs Cnn14 at 16 kHz, for FD, KL, IS and KAD",
        "CC-BY-4.0",
        "Cnn14_16k_mAP=0.438.pth",
        "https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth",
        "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
        358_668_570,
    ),
    "vggish": PublishedWeights(
        "VGGish, for FAD",
        "Apache-2.0",
        "vggish-10086976.pth",
        "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
        "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        288_570_000,
    ),
}
CLAP_DESCRIPTION, CLAP_LICENCE = "CLAP, for the CLAP score", "Apache-2.0"
CLAP_APPROXIMATE_BYTES = 620_000_000
NAMES = (*WEIGHTS, "clap")


@dataclass(frozen=True)
class Listener:
    """A published network, and whether its weights are on this machine."""

    name: str
    description: str
    licence: str
    approximate_bytes: int
    source: str
    """The file's URL, or the Hub id with its commit."""
    sha256: str | None
    """Of the file, as it was published; of what is on the Hub the commit is pinned instead."""
    place: Path
    """Where the file, or the folder of files, is looked for."""
    here: bool


def listener(name: str) -> Listener:
    """What is known of "cnn14", "vggish" or "clap"; the network is not asked."""
    if name == "clap":
        source = hub.parse_name(CLAP.weights)
        place = hub.repo_cache(source) / "snapshots" / source.revision
        here = hub.find_cached(source) is not None
        return Listener(
            name,
            CLAP_DESCRIPTION,
            CLAP_LICENCE,
            CLAP_APPROXIMATE_BYTES,
            CLAP.weights,
            None,
            place,
            here,
        )
    published = WEIGHTS[name]
    place = cache_folder() / published.file_name
    return Listener(
        name,
        published.description,
        published.licence,
        published.approximate_bytes,
        published.url,
        published.sha256,
        place,
        place.is_file(),
    )


def pull(
    name: str, *, confirm: hub.Confirm | None = None, on_progress: hub.Report | None = None
) -> Listener:
    """Fetch the weights of "cnn14", "vggish" or "clap" where they are not here, and verify them.

    Raises:
        DownloadError: they cannot be fetched; says how to bring them.
        CheckpointError: what is here is another file.
    """
    if name == "clap":
        hub.pull(hub.parse_name(CLAP.weights), confirm=confirm, on_progress=on_progress)
        return listener(name)
    place = find_or_fetch(name, None, on_progress)
    if (found := hash_file(place)) != WEIGHTS[name].sha256:
        raise CheckpointError(
            f"{place}: has the checksum {found}, but {WEIGHTS[name].sha256} is what was published",
            hint="Remove it, and run the same command again.",
        )
    return listener(name)


def find_or_fetch(
    name: str, weights_folder: Path | None, on_progress: hub.Report | None = None
) -> Path:
    """The weight file of "cnn14" or "vggish": the user's, the cache's, or fetched into the cache.

    Raises DownloadError where it cannot be had, saying how to bring it.
    """
    published = WEIGHTS[name]
    for file_name in (published.file_name, f"{name}.safetensors"):
        if (found := brought(weights_folder, file_name)) is not None:
            return found
    target = cache_folder() / published.file_name
    if not target.is_file():
        hub.download_url(
            name,
            published.url,
            target,
            sha256=published.sha256,
            approximate_bytes=published.approximate_bytes,
            on_progress=on_progress,
        )
    return target


def brought(weights_folder: Path | None, name: str) -> Path | None:
    """What the user put into the folder of `--weights`, where they did."""
    if weights_folder is None or not (weights_folder / name).exists():
        return None
    return weights_folder / name


def cache_folder() -> Path:
    """Where fetched weight files that are not on the Hub lie: beside those that are."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "auffusion--evaluation"
