"""Checkpoint folder -> repository on the Hub, with a model card. No torch.

`HF_ENDPOINT` and `HF_TOKEN` mean what they always mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auffusion_cli.checkpoints.layout import MODEL_CARD_NAME, describe, model_files
from auffusion_cli.checkpoints.names import card_licence, parse_name
from auffusion_cli.errors import (
    AuffusionError,
    CheckpointError,
    OutputExistsError,
    UsageError,
    first_line,
)

LEFT_OUT = ("training.yaml", "clip-check.json", "manifest.jsonl")
"""Files of a training run that are about the machine it ran on."""
MARKS = ("condition_config.json", "model_index.json")
"""What a repository with a checkpoint has one of."""


@dataclass(frozen=True)
class Upload:
    """An upload before it begins."""

    repo_id: str
    files: Mapping[str, Path]
    """Path in the repository -> file."""
    n_bytes: int
    licence: str | None
    card: str | None
    """A model card to add; None where the folder has one."""


def plan_upload(folder: Path, repo_id: str) -> Upload:
    """What of `folder` goes to `repo_id`: the model's files alone.

    Raises:
        UsageError: `repo_id` is not org/name.
        CheckpointError: the folder is no checkpoint, or is incomplete.
    """
    try:
        names_one = "@" not in repo_id and parse_name(repo_id).repo_id == repo_id
    except CheckpointError:
        names_one = False
    if not names_one:
        raise UsageError(f"{repo_id!r} is not a repository's name", hint="For example: me/bells.")
    about = describe(folder)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(model_files(folder))
        if path.name not in LEFT_OUT and not path.name.startswith(".")
    }
    return Upload(
        repo_id,
        files,
        sum(path.stat().st_size for path in files.values()),
        about["licence"] or card_licence(folder),
        None if MODEL_CARD_NAME in files else make_card(repo_id, about),
    )


def make_card(repo_id: str, about: Mapping[str, Any]) -> str:
    """A model card of what `layout.describe` says: front matter for the Hub, facts, and use."""
    licence, defaults = about["licence"], about["generation"]
    front = ["license: other"] + ([f"license_name: {_slug(licence)}"] if licence else [])
    lines = [
        "---",
        *front,
        "pipeline_tag: text-to-audio",
        "tags: [auffusion, text-to-audio, latent-diffusion]",
        "---",
        "",
        f"# {repo_id.rpartition('/')[2]}",
        "",
        "A text-to-audio model. It is used with the `auffusion` command:",
        "",
        "```sh",
        f'auffusion generate "rain" --model {repo_id} -o rain.wav',
        "```",
        "",
        f"- Text encoders: {', '.join(about['text_encoders'])}",
        f"- Window: {defaults['max_duration_s']:g} s; vocoder: {about['vocoder']}",
        f"- By default {defaults['steps']} steps of {defaults['scheduler']}, guidance "
        f"{defaults['guidance_scale']:g}",
        f"- Licence: {licence or 'not stated'}"
        + ("; credits in CREDITS.md" if about["credits"] else ""),
    ]
    return "\n".join(lines) + "\n"


def _slug(licence: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in licence.lower())[:60]


def upload(plan: Upload, *, private: bool, overwrite: bool) -> str:
    """Make the repository, where there is none, and commit all files at once. Returns its address.

    Raises:
        OutputExistsError: it holds a checkpoint already, and `overwrite` is not set.
        AuffusionError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    contents: dict[str, Path | bytes] = dict(plan.files)
    if plan.card is not None:
        contents[MODEL_CARD_NAME] = plan.card.encode()
    try:
        repository = api.create_repo(plan.repo_id, private=private, exist_ok=True)
        there = api.list_repo_files(plan.repo_id)
        if any(mark in there for mark in MARKS) and not overwrite:
            raise OutputExistsError(
                f"{plan.repo_id} holds a model already", hint="--overwrite commits over it."
            )
        api.create_commit(
            plan.repo_id,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            commit_message="Upload a model of auffusion",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise AuffusionError(
            f"{plan.repo_id}: the Hub does not take it: {first_line(error)}",
            hint="HF_TOKEN has to be a token that may write there; HF_HUB_OFFLINE is not set.",
        ) from error
    return str(repository)
