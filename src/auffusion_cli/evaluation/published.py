"""Sources of the published networks' weights, and their place on this machine; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.checkpoints import download
from auffusion_cli.checkpoints.names import parse_name
from auffusion_cli.errors import CheckpointError, DownloadError, UsageError
from auffusion_cli.evaluation.protocols import CLAP
from auffusion_cli.files import hash_file


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file that is not on the Hub."""

    description: str
    licence: str
    file_name: str
    url: str | None
    """None: it has no address that is known to stay, and is brought by hand."""
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
    "yamnet": PublishedWeights(
        "YAMNet, for FD, KL, IS and KAD by an independent judge",
        "Apache-2.0",
        "yamnet.tflite",
        None,
        "687f226c147a2caab4706fbbab5e9cecb14b9a368264bf61108078b1fddf68f5",
        3_959_752,
    ),
}
CLAP_DESCRIPTION, CLAP_LICENCE = "CLAP, for the CLAP score", "Apache-2.0"
CLAP_APPROXIMATE_BYTES = 620_000_000
NAMES = (*WEIGHTS, "clap")


@dataclass(frozen=True)
class Unverified:
    """Weights that are not known to be the published ones."""

    weights: str
    """Their name in a result."""
    note: str
    """A caution about numbers made with them."""


@dataclass(frozen=True)
class PublishedNetwork:
    """A published network, and whether its weights are on this machine."""

    name: str
    description: str
    licence: str
    approximate_bytes: int
    source: str | None
    """The file's URL, or the Hub id with its commit; None: it is brought by hand."""
    sha256: str | None
    """Checksum of the published file; None on the Hub, where the commit is pinned instead."""
    place: Path
    """Path of the file or folder in the cache."""
    here: bool


def published_network(name: str) -> PublishedNetwork:
    """Facts about "cnn14", "vggish", "yamnet" or "clap"; nothing is downloaded."""
    if name == "clap":
        source = parse_name(CLAP.weights)
        place = download.repo_cache(source) / "snapshots" / source.revision
        here = download.find_cached(source) is not None
        return PublishedNetwork(
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
    return PublishedNetwork(
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
    name: str,
    *,
    confirm: download.Confirm | None = None,
    on_progress: download.Report | None = None,
) -> PublishedNetwork:
    """Fetch the weights of one of `NAMES` unless they are in the cache, and verify them.

    Raises:
        DownloadError: they cannot be fetched; its hint has the steps by hand.
        CheckpointError: another file is in their place.
    """
    if name == "clap":
        fetch(name, confirm=confirm, on_progress=on_progress)
        return published_network(name)
    place = find_or_fetch(name, None, on_progress)
    if (found := hash_file(place)) != WEIGHTS[name].sha256:
        raise CheckpointError(
            f"{place}: has the checksum {found}, but {WEIGHTS[name].sha256} is what was published",
            hint="Remove it, and run the same command again.",
        )
    return published_network(name)


def find_or_fetch(
    name: str,
    weights_folder: Path | None,
    on_progress: download.Report | None = None,
    confirm: download.Confirm | None = None,
) -> Path:
    """The weight file of "cnn14" or "vggish", or the folder of "clap": the user's, the cache's, or
    fetched into the cache.

    Raises:
        DownloadError: it cannot be fetched; its hint has the steps by hand.
    """
    if (found := local_weights(weights_folder, name)) is not None:
        return found
    if not published_network(name).here:
        fetch(name, confirm=confirm, on_progress=on_progress)
    return published_network(name).place


def missing(names: Iterable[str], weights_folder: Path | None) -> list[str]:
    """The published networks among `names` that would have to be fetched."""
    return [
        name
        for name in names
        if name in NAMES
        and local_weights(weights_folder, name) is None
        and not published_network(name).here
    ]


def fetch(
    name: str,
    *,
    then: Sequence[str] = (),
    confirm: download.Confirm | None = None,
    on_progress: download.Report | None = None,
) -> None:
    """Fetch the weights of "cnn14", "vggish", "yamnet" or "clap" into the cache, and verify them.

    Args:
        then: networks to be fetched after this one, which an error names too.

    Raises:
        DownloadError: its hint has the steps by hand for all of them.
    """
    others = f"; missing too: {', '.join(then)}" if then else ""
    hint = _by_hand([name, *then])
    try:
        if name == "clap":
            download.pull(parse_name(CLAP.weights), confirm=confirm, on_progress=on_progress)
            return
        published = WEIGHTS[name]
        if published.url is None:
            raise DownloadError(f"{name}: its file is not downloaded, but brought by hand")
        download.download_url(
            name,
            published.url,
            cache_folder() / published.file_name,
            sha256=published.sha256,
            approximate_bytes=published.approximate_bytes,
            on_progress=on_progress,
        )
    except DownloadError as error:
        # What the Hub's errors advise is for models, of which there are others to choose from.
        own = f"{error.hint} " if error.hint and name != "clap" else ""
        raise DownloadError(error.message + others, hint=own + hint) from error


def _by_hand(names: Sequence[str]) -> str:
    """Steps to bring the weights of `names` to a machine that cannot fetch them."""
    steps = []
    for name in names:
        known = published_network(name)
        if name == "clap":
            source = parse_name(known.source)
            url = f"https://huggingface.co/{source.repo_id}/tree/{source.revision}"
            steps.append(f"save the files of {url} in FOLDER/clap")
        elif known.source is None:
            steps.append(
                f"save the file with SHA-256 {known.sha256} as {known.place}, or in FOLDER as"
                f" {known.place.name}"
            )
        else:
            steps.append(f"save {known.source} as {known.place}, or in FOLDER")
    return f"By hand: {'; '.join(steps)}. Then `evaluate --weights FOLDER` finds them in FOLDER."


# --- the folder of --weights


def names_in_folder(name: str) -> tuple[str, ...]:
    """Names valid in the folder of `--weights`; those of folders end in a slash."""
    if name not in WEIGHTS:
        return (f"{name}/",)
    file_name = WEIGHTS[name].file_name
    return (file_name, f"{name}.safetensors") if file_name.endswith(".pth") else (file_name,)


def local_weights(weights_folder: Path | None, name: str) -> Path | None:
    """The weights of the network `name` that the user put into the folder of `--weights`.

    Raises:
        UsageError: a folder is in the place of a file, or a file in that of a folder.
    """
    for wanted in names_in_folder(name) if weights_folder is not None else ():
        path = weights_folder / wanted
        if not path.exists():
            continue
        if path.is_dir() != wanted.endswith("/"):
            kinds = ("a folder", "a weight file") if path.is_dir() else ("a file", "a folder")
            raise UsageError(f"--weights: {path} is {kinds[0]}, not {kinds[1]}")
        return path
    return None


def check_weights_folder(folder: Path, names: Sequence[str]) -> None:
    """Raise UsageError unless `folder` holds the weights of one of the networks `names`."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "no such folder"
        raise UsageError(f"--weights {folder}: {problem}")
    if not [name for name in names if local_weights(folder, name) is not None]:
        wanted = ", ".join(wanted for name in names for wanted in names_in_folder(name))
        raise UsageError(
            f"--weights {folder}: has none of the networks of the protocol",
            hint=f"Looked for {wanted}.",
        )


def cache_folder() -> Path:
    """Folder of fetched weight files that are not on the Hub, beside those that are."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "auffusion--evaluation"
