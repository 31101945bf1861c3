"""Names -> checkpoint folders: finds them on this machine, or fetches them from the Hub.

Nothing here imports torch. Files go to the Hub's usual cache (`HF_HUB_CACHE`), so that other
programs share them; `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they always mean. A
file gets its name there only when its size and checksum are what the Hub announces, and the commit
is recorded only when every file is there, so that later loads need no network and use the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from auffusion_cli.checkpoints.layout import WEIGHT_SUFFIXES
from auffusion_cli.errors import AuffusionError, CheckpointError, DownloadError, UsageError
from auffusion_cli.files import hash_file

CONFIRM_ABOVE_BYTES = 1_000_000_000
N_ATTEMPTS = 3
"""How often a transfer that made progress is taken up again, beyond what huggingface_hub does."""


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint that has a short name."""

    name: str
    description: str
    licence: str
    repo_id: str | None
    """None: comes with this package."""
    revision: str | None
    """The branch to take the first time; the commit found there is recorded and kept."""
    approximate_bytes: int


KNOWN: dict[str, KnownCheckpoint] = {
    known.name: known
    for known in (
        KnownCheckpoint(
            name="embedded",
            description="small model that comes with this package; needs no network",
            licence="see CREDITS.md",
            repo_id=None,
            revision=None,
            approximate_bytes=100_000_000,
        ),
        KnownCheckpoint(
            name="auffusion",
            description="the paper's model, trained on AudioCaps",
            licence="CC-BY-NC-SA-4.0",
            repo_id="auffusion/auffusion",
            revision="main",
            approximate_bytes=4_300_000_000,
        ),
        KnownCheckpoint(
            name="auffusion-full",
            description="the paper's model, trained on AudioCaps and further sets",
            licence="CC-BY-NC-SA-4.0",
            repo_id="auffusion/auffusion-full",
            revision="main",
            approximate_bytes=4_300_000_000,
        ),
        KnownCheckpoint(
            name="auffusion-full-no-adapter",
            description="the same in Stable Diffusion's layout, for edits of existing sounds",
            licence="CC-BY-NC-SA-4.0",
            repo_id="auffusion/auffusion-full-no-adapter",
            revision="main",
            approximate_bytes=4_300_000_000,
        ),
    )
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine."""

    name: str
    folder: Path
    revision: str | None = None
    """The commit on the Hub; None for a folder."""
    licence: str | None = None


@dataclass(frozen=True)
class Download:
    """What is about to be fetched; a `confirm` callback looks at it."""

    name: str
    repo_id: str
    commit: str
    licence: str | None
    n_files: int
    n_bytes: int
    folder: Path


Confirm = Callable[[Download], bool]
Report = Callable[[int, int], None]
"""(bytes there, bytes in all), often while a download runs."""


def resolve(
    name_or_path: str | Path,
    *,
    confirm: Confirm | None = None,
    on_progress: Report | None = None,
) -> Checkpoint:
    """The folder of a known name, a Hub id (`org/name`, `org/name@revision`) or a folder's path.

    What is not on this machine is downloaded. From 1 GB on, `confirm` is asked before; without one
    such a download is refused.

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
    if (found := find_cached(source)) is not None:
        return found
    return pull(source, confirm=confirm, on_progress=on_progress)


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hub, under the name that the user gave."""

    name: str
    repo_id: str
    revision: str
    licence: str | None = None


def parse_name(text: str) -> HubSource:
    """`auffusion-full`, `org/name` or either with `@revision`, without looking anything up."""
    base, _, revision = text.partition("@")
    known = KNOWN.get(base)
    if known is not None and known.repo_id is not None:
        return HubSource(base, known.repo_id, revision or known.revision, known.licence)
    part = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
    valid_id = re.fullmatch(f"{part}/{part}", base) and not re.search(r"--|\.\.", base)
    valid_revision = not revision or (
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}", revision) and ".." not in revision
    )
    if not valid_id or not valid_revision or ("@" in text and not revision):
        raise CheckpointError(
            f"no checkpoint {text!r}: there is no such folder, and it is not a known name "
            f"({', '.join(KNOWN)}) or a Hub id (org/name, org/name@revision)"
        )
    return HubSource(base, base, revision or "main")


def embedded_folder() -> Path:
    """The model that comes with the package: inside it, or beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "weights" / "embedded", package.parents[1] / "weights" / "embedded"):
        if (folder / "unet").is_dir():
            return folder
    raise CheckpointError(
        "the embedded model is missing from this installation",
        hint="Install the package again, or name another model with --model.",
    )


def card_licence(folder: Path) -> str | None:
    """The `license` in the front matter of the folder's README.md, as the Hub's model cards do."""
    import yaml

    try:
        card = (folder / "README.md").read_text("utf-8", errors="replace")
        front_matter = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
    except (OSError, IndexError, yaml.YAMLError):
        return None
    licence = front_matter.get("license") if isinstance(front_matter, dict) else None
    return licence if isinstance(licence, str) else None


# --- The cache


def find_cached(source: HubSource) -> Checkpoint | None:
    """`source` where it is complete on this machine; the network is not asked."""
    from huggingface_hub import constants

    cache = repo_cache(source)
    records = [_record_path(source, source.revision)]
    if constants.is_offline_mode():
        # Offline, what another program has fetched is better than nothing.
        records.append(cache / "refs" / source.revision)
    commits = [path.read_text("utf-8").strip() for path in records if path.is_file()]
    for commit in commits:
        folder = cache / "snapshots" / commit
        if _is_commit(commit) and looks_complete(folder):
            licence = source.licence or card_licence(folder)
            return Checkpoint(source.name, folder, commit, licence)
    return None


def looks_complete(folder: Path) -> bool:
    """Whether every part of a checkpoint is in `folder`, and none is half downloaded."""
    diffusion = ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
    listener = ["config.json", "preprocessor_config.json"]
    is_there = any(all((folder / p).is_file() for p in paths) for paths in (diffusion, listener))
    return is_there and not any(folder.rglob("*.incomplete"))


def repo_cache(source: HubSource) -> Path:
    """The folder of a repository in the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{source.repo_id.replace('/', '--')}"


def _record_path(source: HubSource, revision: str) -> Path:
    """Where the commit that stands for a revision is recorded: a ref beside the Hub's own, which
    another program may move on to a commit of which it fetches only some files."""
    return repo_cache(source) / "refs" / f"auffusion--{revision.replace('/', '--')}"


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


# --- Downloading


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub announces it."""

    path: str
    n_bytes: int
    sha256: str | None
    """For large files."""
    git_sha1: str | None
    """For small ones: git's hash of the content."""

    def problem(self, local: Path) -> str | None:
        """What differs between this and the file `local`; None if nothing."""
        size = local.stat().st_size
        if size != self.n_bytes:
            return f"has {size:,} bytes, the Hub announces {self.n_bytes:,}"
        if self.sha256 is not None:
            expected, digest = self.sha256, hashlib.sha256()
        elif self.git_sha1 is not None:
            expected, digest = self.git_sha1, hashlib.sha1(f"blob {size}\0".encode())
        else:
            return None
        with local.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != expected:
            return f"has the checksum {digest.hexdigest()}, the Hub announces {expected}"
        return None


def pull(
    source: HubSource, *, confirm: Confirm | None = None, on_progress: Report | None = None
) -> Checkpoint:
    """Fetch what is missing of `source`, verify all of it, and record its commit."""
    from huggingface_hub.utils import WeakFileLock

    commit, licence, files = announced(source)
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

        # By its commit too: sounds name it, and are made again with it.
        for revision in (source.revision, commit):
            record = _record_path(source, revision)
            record.parent.mkdir(parents=True, exist_ok=True)
            beside = record.with_name(f"{record.name}.{os.getpid()}")
            beside.write_text(commit, "utf-8")
            os.replace(beside, record)
    return Checkpoint(source.name, folder, commit, licence)


def _ask(download: Download, confirm: Confirm | None) -> None:
    if download.n_bytes < CONFIRM_ABOVE_BYTES:
        return
    if confirm is None or not confirm(download):
        gigabytes = download.n_bytes / 1e9
        raise DownloadError(
            f"{download.name} is not on this machine: {gigabytes:.1f} GB would be downloaded "
            f"(licence: {download.licence or 'not stated'}), and that was not agreed to",
            hint=f"`auffusion models pull {download.name}` fetches it.",
        )


def announced(source: HubSource) -> tuple[str, str | None, list[RemoteFile]]:
    """(commit, licence, the files that loading needs), from the Hub's listing of the repository."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(
            source.repo_id, revision=source.revision, files_metadata=True
        )
    except Exception as error:  # which HTTP library it is depends on huggingface_hub's version
        raise _download_error(source, error) from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    if not _is_commit(info.sha or ""):
        raise DownloadError(f"{source.repo_id}: the Hub names no commit for {source.revision!r}")
    files = []
    for path in needed_files(siblings):
        sibling = siblings[path]
        if sibling.size is None:
            raise DownloadError(f"{source.repo_id}: the Hub announces no size for {path}")
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        files.append(RemoteFile(path, sibling.size, sha256, sibling.blob_id))
    if not files:
        raise DownloadError(
            f"{source.repo_id}: not a checkpoint that this program knows: it has neither "
            "condition_config.json (Auffusion's layout) nor model_index.json (Stable Diffusion's)"
        )
    card = info.card_data or {}
    licence = card.get("license")
    return info.sha, licence if isinstance(licence, str) else None, files


def needed_files(paths: Iterable[str]) -> list[str]:
    """The files of a repository that loading needs, sorted: of each part's weights only one copy.

    Repositories often hold the same weights as safetensors and as pickles, in full and in half
    precision, and for other frameworks.
    """
    paths = set(paths)
    if "condition_config.json" in paths:
        parts = r"unet|vae|scheduler|vocoder|text_encoder_\w+|condition_adapter_\w+"
    elif "model_index.json" in paths:
        parts = r"unet|vae|scheduler|vocoder|text_encoder|tokenizer"
    elif {"config.json", "preprocessor_config.json"} <= paths:
        return _files_of_listener(paths)
    else:
        return []
    top = {"condition_config.json", "model_index.json", "auffusion.json", "README.md"} & paths
    top |= {path for path in paths if re.fullmatch(r"LICEN[CS]E[\w.-]*", path)}
    inside = {path for path in paths if re.fullmatch(rf"(?:{parts})/[\w.-]+", path)}
    weights: dict[tuple[str, str, str], set[str]] = {}
    for path in inside:
        name = PurePosixPath(path)
        if name.suffix in WEIGHT_SUFFIXES and "non_ema" not in name.name:
            variant = "fp16" if ".fp16." in name.name else ""
            # Shards may carry the variant before their number: NAME.fp16-00001-of-00002.bin
            variant = "fp16" if ".fp16-" in name.name else variant
            weights.setdefault((str(name.parent), variant, name.suffix), set()).add(path)
    chosen: set[str] = set()
    for part in {part for part, _, _ in weights}:
        kinds = [(part, variant, suffix) for variant in ("", "fp16") for suffix in WEIGHT_SUFFIXES]
        chosen |= next(weights[kind] for kind in kinds if kind in weights)
    texts = {path for path in inside if path.endswith((".json", ".txt", ".model"))}
    return sorted(top | texts | chosen)


def _files_of_listener(paths: set[str]) -> list[str]:
    """Those of a transformers model that hears sound (CLAP): everything lies in the top folder."""
    top = {path for path in paths if re.fullmatch(r"[\w.-]+", path)}
    weights = [name for name in ("model.safetensors", "pytorch_model.bin") if name in top][:1]
    texts = {path for path in top if path.endswith((".json", ".txt", ".md"))}
    return sorted({*texts, *weights})


class _Progress:
    """Counts bytes over all files of a download and hands on the sum."""

    def __init__(self, n_done: int, n_total: int, report: Report | None) -> None:
        self.n_done, self.n_total, self.report = n_done, n_total, report

    def advance(self, n_bytes: int) -> None:
        self.n_done += n_bytes
        if self.report is not None:
            self.report(self.n_done, self.n_total)

    def bar_class(self) -> type:
        """What huggingface_hub takes in place of tqdm, drawing nothing."""
        progress = self

        class Bar:
            def __init__(self, **_options: Any) -> None:
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_error: object) -> None:
                pass

            def update(self, n_bytes: int) -> None:
                progress.advance(n_bytes)

        return Bar


def _fetch(
    source: HubSource, commit: str, file: RemoteFile, target: Path, progress: _Progress
) -> None:
    """One file: into `target.incomplete`, which a later call continues, then verified and renamed.

    huggingface_hub's own download starts a file from nothing in every process, which with 3.4 GB
    in one file is not good enough; its HTTP transfer is used, with its retries.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    target.parent.mkdir(parents=True, exist_ok=True)
    incomplete = target.with_name(f"{target.name}.incomplete")
    incomplete.touch()
    if incomplete.stat().st_size > file.n_bytes:
        incomplete.unlink()
        incomplete.touch()
    progress.advance(incomplete.stat().st_size)
    url = hf_hub_url(source.repo_id, file.path, revision=commit, endpoint=constants.ENDPOINT)
    n_attempts_left = N_ATTEMPTS
    while (n_before := incomplete.stat().st_size) < file.n_bytes:
        try:
            location = get_hf_file_metadata(url).location
            headers = build_hf_headers()
            if urlsplit(location).hostname != urlsplit(url).hostname:
                headers.pop("authorization", None)  # the token is for the Hub only
            with incomplete.open("ab") as stream:
                http_get(
                    location,
                    stream,
                    resume_size=n_before,
                    headers=headers,
                    expected_size=file.n_bytes,
                    tqdm_class=progress.bar_class(),
                )
        except Exception as error:  # see `announced`
            n_attempts_left -= 1
            made_progress = incomplete.stat().st_size > n_before
            if not made_progress or not n_attempts_left:
                raise _download_error(source, error, file.path) from error
            time.sleep(1)
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
    """A file that is not on the Hub: verified, resumed and renamed like those that are.

    Raises:
        DownloadError: offline, refused, cut, or not the file that `sha256` pins.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    incomplete = target.with_name(f"{target.name}.incomplete")
    with WeakFileLock(target.with_name(f"{target.name}.lock")):
        if target.is_file():
            return  # another process was faster
        incomplete.touch()
        progress = _Progress(0, approximate_bytes, on_progress)
        progress.advance(incomplete.stat().st_size)
        for n_attempts_left in reversed(range(N_ATTEMPTS)):
            n_before = incomplete.stat().st_size
            try:
                with incomplete.open("ab") as stream:
                    bar_class = progress.bar_class()
                    http_get(url, stream, resume_size=n_before, headers={}, tqdm_class=bar_class)
                break
            except Exception as error:  # see `announced`
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status == 416:  # nothing is left to send: it was complete, but not yet renamed
                    break
                if isinstance(error, OfflineModeIsEnabled):
                    raise DownloadError(
                        f"{name} is not on this machine, and HF_HUB_OFFLINE is set"
                    ) from error
                if incomplete.stat().st_size == n_before or not n_attempts_left:
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    raise DownloadError(
                        f"{name}: cannot be fetched from {url}: {reason}"
                    ) from error
                time.sleep(1)
        found = hash_file(incomplete)
        if found != sha256:
            incomplete.unlink()
            raise DownloadError(
                f"{name}: {url} has the checksum {found}, but {sha256} is what was published",
                hint="Run the same command again. If it stays so, the file has been replaced.",
            )
        os.replace(incomplete, target)


def _download_error(source: HubSource, error: Exception, path: str = "") -> AuffusionError:
    """What went wrong, in the user's terms."""
    from huggingface_hub import errors

    what = f"{source.repo_id}/{path}" if path else source.repo_id
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{what}: {error}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DownloadError(
            f"{source.name} is not on this machine, and HF_HUB_OFFLINE is set",
            hint=f"With a network: HF_HUB_OFFLINE=0 auffusion models pull {source.name}",
        )
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return DownloadError(
            f"{what}: the Hub asks for permission first ({status})",
            hint="Accept its conditions on its page, then set HF_TOKEN to a token of yours.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(f"{what}: has no revision {source.revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return DownloadError(
            f"{what}: not on the Hub, or private ({status})",
            hint="Check the name; for a private one set HF_TOKEN.",
        )
    if isinstance(error, errors.EntryNotFoundError) or status == 404:
        return DownloadError(f"{what}: the Hub lists this file but does not have it (404)")
    if status is not None:
        return DownloadError(f"{what}: the Hub answered {status}", hint="Try again later.")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.errno is not None and path and error.filename:
        return DownloadError(f"{what}: cannot be written: {reason}")
    return DownloadError(
        f"{what}: the connection failed: {reason}",
        hint="Run the same command again: it continues where it stopped."
        if path
        else "Is there a network? Without one, --model embedded works.",
    )
