"""The files that the Hub announces for a checkpoint, and which of them loading needs. No torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from auffusion_cli.checkpoints.families import (
    STABILITY_CONFIG,
    STABILITY_STEM,
    T5GEMMA,
    TANGO_CONFIG,
    TANGO_MAIN,
    TANGO_VAE,
    TANGO_VAE_CONFIG,
)
from auffusion_cli.checkpoints.layout import MODEL_CARD_NAME, WEIGHT_SUFFIXES
from auffusion_cli.checkpoints.names import HubSource, is_commit
from auffusion_cli.checkpoints.transfer import TransferError, fetch_bytes, hub_headers
from auffusion_cli.errors import AuffusionError, DownloadError, UsageError, first_line
from auffusion_cli.files import hash_file
from auffusion_cli.parsing import parse_json

MAX_LISTING_BYTES = 20_000_000


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
        """The difference between this and the file `local`; None if there is none."""
        size = local.stat().st_size
        if size != self.n_bytes:
            return f"has {size:,} bytes, the Hub announces {self.n_bytes:,}"
        if self.sha256 is not None:
            expected, digest = self.sha256, hashlib.sha256()
        elif self.git_sha1 is not None:
            expected, digest = self.git_sha1, hashlib.sha1(f"blob {size}\0".encode())
        else:
            return None
        if (found := hash_file(local, digest)) != expected:
            return f"has the checksum {found}, the Hub announces {expected}"
        return None


def announced(
    source: HubSource, parts: Sequence[str] = ()
) -> tuple[str, str | None, list[RemoteFile]]:
    """(commit, licence, the files that loading needs), from the Hub's listing of the repository.

    With `parts` only the files of these folders, if it has them.
    """
    from huggingface_hub import constants

    revision = quote(source.revision, safe="")
    url = f"{constants.ENDPOINT}/api/models/{source.repo_id}/revision/{revision}?blobs=true"
    try:
        if constants.is_offline_mode():
            raise offline_error(source)
        content = fetch_bytes(url, hub_headers(), max_bytes=MAX_LISTING_BYTES)
    except AuffusionError:
        raise
    except Exception as error:  # the HTTP library depends on huggingface_hub's version
        raise download_error(source, error) from error
    return _read_listing(source, content, parts)


def _read_listing(
    source: HubSource, content: bytes, parts: Sequence[str]
) -> tuple[str, str | None, list[RemoteFile]]:
    where = f"{source.repo_id}: the Hub's listing"
    info = parse_json(content.decode("utf-8", "replace"), raising=DownloadError, where=where)
    if not isinstance(info, dict) or not isinstance(info.get("siblings"), list):
        raise DownloadError(f"{where} has no list of files")
    commit, card = info.get("sha"), info.get("cardData")
    if not isinstance(commit, str) or not is_commit(commit):
        raise DownloadError(f"{source.repo_id}: the Hub names no commit for {source.revision!r}")
    siblings = {
        sibling["rfilename"]: sibling
        for sibling in info["siblings"]
        if isinstance(sibling, dict) and isinstance(sibling.get("rfilename"), str)
    }
    paths = needed_files(siblings)
    if of_parts := [path for path in paths if path.split("/")[0] in parts]:
        paths = of_parts + [path for path in paths if path == MODEL_CARD_NAME]  # has the licence
    files = [_remote_file(source, path, siblings[path]) for path in paths]
    if not files:
        raise DownloadError(
            f"{source.repo_id}: not a checkpoint of a known layout: it has neither "
            "condition_config.json (Auffusion's layout) nor model_index.json (Stable Diffusion's), "
            "nor config.json (one network's)"
        )
    licence = card.get("license") if isinstance(card, dict) else None
    return commit, licence if isinstance(licence, str) else None, files


def _remote_file(source: HubSource, path: str, sibling: dict[str, Any]) -> RemoteFile:
    size, lfs, blob_id = sibling.get("size"), sibling.get("lfs"), sibling.get("blobId")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise DownloadError(f"{source.repo_id}: the Hub announces no size for {path}")
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else None
    if (lfs and not _is_hex(sha256, 64)) or not (blob_id is None or _is_hex(blob_id, 40)):
        raise DownloadError(f"{source.repo_id}: the Hub announces no checksum for {path}")
    return RemoteFile(path, size, sha256, blob_id)


def _is_hex(value: Any, n_digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{n_digits}}}", value) is not None


def needed_files(paths: Iterable[str]) -> list[str]:
    """The files of a repository that loading needs, sorted: of each part's weights only one copy.

    Repositories often hold the same weights as safetensors and as pickles, in full and in half
    precision, and for other frameworks.
    """
    paths = set(paths)
    if TANGO_CONFIG in paths:
        stems = (
            f"{stem}{suffix}" for stem in (TANGO_MAIN, TANGO_VAE) for suffix in WEIGHT_SUFFIXES
        )
        return sorted({TANGO_CONFIG, TANGO_VAE_CONFIG, MODEL_CARD_NAME, *stems} & paths)
    if STABILITY_CONFIG in paths and f"{T5GEMMA}/config.json" in paths:
        return _files_of_stability(paths)
    if "condition_config.json" in paths:
        parts = r"unet|vae|scheduler|vocoder|text_encoder_\w+|condition_adapter_\w+"
    elif "model_index.json" in paths:
        parts = (
            r"unet|vae|scheduler|vocoder|text_encoder(?:_2)?|tokenizer(?:_2)?"
            "|projection_model|language_model|transformer|duration_embedder"
        )
    elif "config.json" in paths:
        return _files_of_network(paths)
    else:
        return []
    top = {"condition_config.json", "model_index.json", "auffusion.json", "README.md"} & paths
    top |= {path for path in paths if re.fullmatch(r"LICEN[CS]E[\w.-]*", path)}
    inside = {path for path in paths if re.fullmatch(rf"(?:{parts})/[\w.-]+", path)}
    texts = {path for path in inside if path.endswith((".json", ".txt", ".model"))}
    if "vae/encoder.onnx" in paths:  # else graphs of other programs, with weights of their own
        texts |= {path for path in inside if path.endswith(".onnx")}
    return sorted(top | texts | _one_copy_of_weights(inside))


def _files_of_stability(paths: set[str]) -> list[str]:
    """Those of Stable Audio 3 as Stability AI publishes it."""
    weights = _one_copy_of_weights(
        path for path in paths if re.fullmatch(rf"(?:{T5GEMMA}/)?{STABILITY_STEM}\b[\w.-]*", path)
    )
    texts = {path for path in paths if re.fullmatch(rf"{T5GEMMA}/[\w.-]+\.(?:json|model)", path)}
    top = {path for path in paths if re.fullmatch(r"(?:LICEN[CS]E|NOTICE)[\w.-]*", path)}
    return sorted({STABILITY_CONFIG} | ({MODEL_CARD_NAME} & paths) | top | texts | weights)


def _one_copy_of_weights(paths: Iterable[str]) -> set[str]:
    """The weights among `paths`, for each folder in one precision and format, the best there is."""
    weights: dict[tuple[str, str, str], set[str]] = {}
    for path in paths:
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
    return chosen


def _files_of_network(paths: set[str]) -> list[str]:
    """The files of one network (a text encoder, CLAP, an autoencoder), which lie in the top folder.

    Of weights only those by the names that transformers and diffusers give.
    """
    top = {path for path in paths if re.fullmatch(r"[\w.-]+", path)}
    named = r"(?:model|pytorch_model|diffusion_pytorch_model|vocoder)\b[\w.-]*"
    weights = _one_copy_of_weights(path for path in top if re.fullmatch(named, path))
    texts = {path for path in top if path.endswith((".json", ".txt", ".md", ".model"))}
    return sorted(texts | weights)


def offline_error(source: HubSource) -> DownloadError:
    return DownloadError(
        f"{source.name} is not on this machine, and HF_HUB_OFFLINE is set",
        hint=f"With a network: HF_HUB_OFFLINE=0 auffusion models pull {source.name}.",
    )


def download_error(source: HubSource, error: Exception, path: str = "") -> AuffusionError:
    """The failure of a request to the Hub, in the user's terms."""
    from huggingface_hub import errors

    what = f"{source.repo_id}/{path}" if path else source.repo_id
    status, code = getattr(error, "status", None), getattr(error, "code", "")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{what}: {error}")
    if code == "GatedRepo" or status == 403:
        return DownloadError(
            f"{what}: the Hub asks for permission first ({status})",
            hint=f"Accept its conditions at https://huggingface.co/{source.repo_id}, then log in"
            " with `hf auth login`, or set HF_TOKEN to a token of yours.",
        )
    if code == "RevisionNotFound":
        return DownloadError(f"{what}: has no revision {source.revision!r}")
    if code == "RepoNotFound" or status == 401 or (status == 404 and not path):
        return DownloadError(
            f"{what}: not on the Hub, or private ({status})",
            hint="Check the name; for a private one set HF_TOKEN.",
        )
    if status == 404:
        return DownloadError(f"{what}: the Hub lists this file but does not have it (404)")
    if status is not None:
        return DownloadError(f"{what}: the Hub answered {status}", hint="Try again later.")
    reason = first_line(error)
    if isinstance(error, TransferError):
        return DownloadError(f"{what}: {reason}", hint="Try again later.")
    if isinstance(error, OSError) and error.errno is not None and path and error.filename:
        return DownloadError(f"{what}: cannot be written: {reason}")
    return DownloadError(
        f"{what}: the connection failed: {reason}",
        hint="Run the same command again: it continues where it stopped."
        if path
        else "Is there a network? Without one, --model embedded works.",
    )
