"""Names -> folders: finds checkpoints on this machine, or fetches them from the Hub. No torch.

Files go to the Hub's usual cache (`HF_HUB_CACHE`), so that other programs share them;
`HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they always mean. A file gets its name
there only when its size and checksum are what the Hub announces, and the commit is recorded only
when every file is there, so that later loads need no network and use the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.checkpoints.families import (
    STABILITY_CONFIG,
    STABILITY_STEM,
    T5GEMMA,
    TANGO,
    TANGO_CONFIG,
    TANGO_VAE_CONFIG,
    TEXT_FILES,
    find_family,
    text_encoder_of,
)
from auffusion_cli.checkpoints.layout import WEIGHT_SUFFIXES
from auffusion_cli.checkpoints.listing import RemoteFile, announced, download_error
from auffusion_cli.checkpoints.names import (
    KNOWN,
    Checkpoint,
    HubSource,
    card_licence,
    embedded_folder,
    is_commit,
    parse_name,
)
from auffusion_cli.checkpoints.transfer import OversizeError, hub_headers, resume
from auffusion_cli.errors import DownloadError, first_line
from auffusion_cli.files import clear_unfinished, hash_file, write_text
from auffusion_cli.parsing import read_text

MAX_TEXT_FILE_BYTES = 20_000_000
CONFIRM_ABOVE_BYTES = 1_000_000_000
PART_CONFIGS = {
    "scheduler": "scheduler/scheduler_config.json",
    "tokenizer": "tokenizer/tokenizer_config.json",
    **{name: name for name in TEXT_FILES},
}
"""The file that every part of a kind has, where it is not config.json."""


@dataclass(frozen=True)
class Download:
    """A download before it begins, for the `confirm` callback."""

    name: str
    repo_id: str
    commit: str
    licence: str | None
    n_files: int
    n_bytes: int
    folder: Path


Confirm = Callable[[Download], bool]
Report = Callable[[int, int], None]
"""(bytes present, bytes in all), called often during a download."""


def resolve(
    name_or_path: str | Path,
    *,
    parts: Sequence[str] = (),
    confirm: Confirm | None = None,
    on_progress: Report | None = None,
) -> Checkpoint:
    """The folder of a known name, a Hub id (`org/name`, `org/name@revision`) or a folder's path.

    A checkpoint that is not on this machine is downloaded; with `parts` only the folders of these
    names in it, if it has them. From 1 GB on, `confirm` is called first; without it such a download
    is refused.

    Raises:
        CheckpointError: there is no such name or folder.
        DownloadError: offline, refused, cut, damaged, or not confirmed.
    """
    text = str(name_or_path)
    if text == "embedded":
        return Checkpoint("embedded", embedded_folder(), licence=KNOWN["embedded"].licence)
    if text.partition("@")[0] not in KNOWN and Path(text).is_dir():
        return Checkpoint(text, Path(text), licence=card_licence(Path(text)))
    source = parse_name(text)
    if (found := find_cached(source, parts)) is not None:
        return found
    return pull(source, parts=parts, confirm=confirm, on_progress=on_progress)


# --- The cache


def find_cached(source: HubSource, parts: Sequence[str] = ()) -> Checkpoint | None:
    """`source` if it, or the `parts` of it, are complete on this machine; without the network."""
    from huggingface_hub import constants

    cache = repo_cache(source)
    records = [_record_path(source, source.revision)]
    if constants.is_offline_mode():
        # Offline, the files that another program fetched are better than nothing.
        records.append(cache / "refs" / source.revision)
    commits = [
        path.read_text("utf-8", errors="replace").strip() for path in records if path.is_file()
    ]
    for commit in commits:
        folder = cache / "snapshots" / commit
        if is_commit(commit) and looks_complete(folder, parts):
            licence = source.licence or card_licence(folder)
            return Checkpoint(source.name, folder, commit, licence)
    return None


def looks_complete(folder: Path, parts: Sequence[str] = ()) -> bool:
    """Whether every part of a checkpoint is in `folder`, and none is half downloaded.

    With `parts` these are enough.
    """
    common = ["vae/config.json", "scheduler/scheduler_config.json"]
    diffusion, transformer = (
        [f"{denoiser}/config.json", *common] for denoiser in ("unet", "transformer")
    )
    of_parts = [PART_CONFIGS.get(part, f"{part}/config.json") for part in parts]
    tango = [TANGO_CONFIG, TANGO_VAE_CONFIG, *(f"text_encoder/{name}" for name in TEXT_FILES)]
    stability = [STABILITY_CONFIG, f"{STABILITY_STEM}.safetensors", f"{T5GEMMA}/config.json"]
    choices = [diffusion, transformer, tango, stability, *([of_parts] if parts else [])]
    is_there = any(all((folder / path).is_file() for path in paths) for paths in choices)
    is_network = (folder / "config.json").is_file() and any(
        path.suffix in WEIGHT_SUFFIXES for path in folder.glob("*")
    )
    return (is_there or is_network) and not any(folder.rglob("*.incomplete"))


def repo_cache(source: HubSource) -> Path:
    """The folder of a repository in the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{source.repo_id.replace('/', '--')}"


def _record_path(source: HubSource, revision: str) -> Path:
    """The file that records the commit of a revision.

    It stands beside the Hub's own ref, which another program may move on to a commit of which it
    fetches only some files.
    """
    return repo_cache(source) / "refs" / f"auffusion--{revision.replace('/', '--')}"


# --- Downloading


def pull(
    source: HubSource,
    *,
    parts: Sequence[str] = (),
    confirm: Confirm | None = None,
    on_progress: Report | None = None,
) -> Checkpoint:
    """Fetch the missing files of `source`, verify all files, and record its commit.

    Of `parts` only those, where it has them.
    """
    from huggingface_hub.utils import WeakFileLock

    commit, licence, files = announced(source, parts)
    licence = source.licence or licence
    cache = repo_cache(source)
    folder = cache / "snapshots" / commit

    lock = cache.parent / ".locks" / cache.name / "auffusion.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        missing = []
        for file in files:
            local = folder / file.path
            if local.is_file() and file.problem(local) is not None:
                local.unlink()
            if not local.is_file():
                missing.append(file)
        n_bytes = sum(file.n_bytes for file in missing)
        _ask(
            Download(source.name, source.repo_id, commit, licence, len(missing), n_bytes, folder),
            confirm,
        )
        total = sum(file.n_bytes for file in files)
        progress = _Progress(total - n_bytes, total, on_progress)
        for file in missing:
            _fetch(source, commit, file, folder / file.path, progress)
        if find_family(folder) is TANGO:
            _add_text_files(folder)

        # By its commit, too: the records of sounds name it, and `reproduce` looks it up.
        clear_unfinished(_record_path(source, commit).parent)
        for revision in (source.revision, commit):
            write_text(_record_path(source, revision), commit)
    return Checkpoint(source.name, folder, commit, licence)


def _add_text_files(folder: Path) -> None:
    """Put beside Tango's weights what its repository leaves to that of its text encoder."""
    name = text_encoder_of(folder)
    source = HubSource(name, name, "main")
    found = find_cached(source, TEXT_FILES) or pull(source, parts=TEXT_FILES)
    for file_name in TEXT_FILES:
        text = read_text(
            found.folder / file_name, max_bytes=MAX_TEXT_FILE_BYTES, raising=DownloadError
        )
        (folder / "text_encoder").mkdir(exist_ok=True)
        write_text(folder / "text_encoder" / file_name, text)


def _ask(download: Download, confirm: Confirm | None) -> None:
    if download.n_bytes < CONFIRM_ABOVE_BYTES:
        return
    if confirm is None or not confirm(download):
        gigabytes = download.n_bytes / 1e9
        raise DownloadError(
            f"{download.name} is not on this machine: {gigabytes:.1f} GB would be downloaded "
            f"(licence: {download.licence or 'not stated'}), and that was not confirmed",
            hint=f"`auffusion models pull {download.name}` fetches it.",
        )


class _Progress:
    """Counts bytes over all files of a download and reports the sum."""

    def __init__(self, n_done: int, n_total: int, report: Report | None) -> None:
        self.n_done, self.n_total, self.report = n_done, n_total, report

    def advance(self, n_bytes: int) -> None:
        self.n_done += n_bytes
        if self.report is not None and n_bytes:
            self.report(self.n_done, self.n_total)


def _fetch(
    source: HubSource, commit: str, file: RemoteFile, target: Path, progress: _Progress
) -> None:
    """One file: into `target.incomplete`, which a later call continues, then verified and renamed.

    huggingface_hub's own download starts a file anew in every process, which is slow for 3.4 GB in
    one file, and trusts the server.
    """
    from huggingface_hub import constants, hf_hub_url

    target.parent.mkdir(parents=True, exist_ok=True)
    incomplete = target.with_name(f"{target.name}.incomplete")
    try:
        resume(
            hf_hub_url(source.repo_id, file.path, revision=commit, endpoint=constants.ENDPOINT),
            hub_headers(),
            incomplete,
            max_bytes=file.n_bytes,
            n_bytes=file.n_bytes,
            on_bytes=progress.advance,
        )
    except OversizeError as error:
        raise DownloadError(f"{source.repo_id}: {file.path}: {error}, as it announced") from None
    except Exception as error:  # the HTTP library depends on huggingface_hub's version
        raise download_error(source, error, file.path) from error
    if (problem := file.problem(incomplete)) is not None:
        incomplete.unlink()
        raise DownloadError(
            f"{source.repo_id}: {file.path} arrived damaged: it {problem}",
            hint="Run the same command again: only this file is fetched anew.",
        )
    os.replace(incomplete, target)


def download_url(
    name: str,
    url: str,
    target: Path,
    *,
    sha256: str,
    approximate_bytes: int,
    on_progress: Report | None = None,
) -> None:
    """Download a file that is not on the Hub: resumed, verified and renamed like the others.

    Raises:
        DownloadError: offline, refused, cut, or not the file with the checksum `sha256`.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    incomplete = target.with_name(f"{target.name}.incomplete")
    with WeakFileLock(target.with_name(f"{target.name}.lock")):
        if target.is_file():
            return  # another process was faster
        if constants.is_offline_mode():
            raise DownloadError(f"{name} is not on this machine, and HF_HUB_OFFLINE is set")
        progress = _Progress(0, approximate_bytes, on_progress)
        try:
            resume(url, {}, incomplete, max_bytes=2 * approximate_bytes, on_bytes=progress.advance)
        except Exception as error:  # as in `_fetch`
            raise DownloadError(
                f"{name}: cannot be fetched from {url}: {first_line(error)}"
            ) from error
        found = hash_file(incomplete)
        if found != sha256:
            incomplete.unlink()
            raise DownloadError(
                f"{name}: {url} has the checksum {found}, but {sha256} is what was published",
                hint="Run the same command again. If it stays so, the file has been replaced.",
            )
        os.replace(incomplete, target)
