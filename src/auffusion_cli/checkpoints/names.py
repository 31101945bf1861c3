"""Names of checkpoints: known names, Hub ids, folders; licences of each. No torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.checkpoints.families import (
    AUDIOLDM,
    AUDIOLDM2,
    STABLE_AUDIO,
    STABLE_AUDIO_3_MEDIUM,
    STABLE_AUDIO_3_SMALL,
    TANGO,
    Family,
    find_family,
)
from auffusion_cli.checkpoints.foreign import recognise
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.parsing import parse_yaml, read_text

MAX_CARD_BYTES = 1_000_000


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
    makes_sound: bool = True
    """False: a model of images, which a training starts from."""
    family: Family | None = None
    """Of another system than Auffusion."""


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
        KnownCheckpoint(
            name="stable-diffusion-v1-5",
            description="image model that the paper fine-tunes: auffusion train --from",
            licence="CreativeML-OpenRAIL-M",
            # The repository of Runway, which trained it, is gone; this is the Hub's mirror of it.
            repo_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            approximate_bytes=4_300_000_000,
            makes_sound=False,
        ),
        KnownCheckpoint(
            name="audioldm",
            description="AudioLDM, small (421 M parameters)",
            licence="CC-BY-NC-SA-4.0",
            repo_id="cvssp/audioldm",
            revision="main",
            approximate_bytes=1_700_000_000,
            family=AUDIOLDM,
        ),
        KnownCheckpoint(
            name="audioldm-m-full",
            description="AudioLDM, medium (652 M parameters)",
            licence="CC-BY-NC-SA-4.0",
            repo_id="cvssp/audioldm-m-full",
            revision="main",
            approximate_bytes=2_600_000_000,
            family=AUDIOLDM,
        ),
        KnownCheckpoint(
            name="audioldm2",
            description="AudioLDM 2 (1.1 G parameters)",
            licence="CC-BY-NC-SA-4.0",
            repo_id="cvssp/audioldm2",
            revision="main",
            approximate_bytes=4_400_000_000,
            family=AUDIOLDM2,
        ),
        KnownCheckpoint(
            name="audioldm2-large",
            description="AudioLDM 2, large (1.5 G parameters)",
            licence="CC-BY-NC-SA-4.0",
            repo_id="cvssp/audioldm2-large",
            revision="main",
            approximate_bytes=6_000_000_000,
            family=AUDIOLDM2,
        ),
        KnownCheckpoint(
            name="tango",
            description="Tango, trained on AudioCaps (1.3 G parameters)",
            licence="CC-BY-NC-SA-4.0",
            repo_id="declare-lab/tango",
            revision="main",
            approximate_bytes=5_300_000_000,
            family=TANGO,
        ),
        KnownCheckpoint(
            name="tango2",
            description="Tango 2: Tango aligned with preferences",
            licence="CC-BY-NC-SA-4.0",
            repo_id="declare-lab/tango2",
            revision="main",
            approximate_bytes=5_300_000_000,
            family=TANGO,
        ),
        KnownCheckpoint(
            name="stable-audio-open",
            description="Stable Audio Open 1.0: 44.1 kHz stereo, up to 47 s (1.3 G parameters)",
            licence="Stability AI Community License",
            repo_id="stabilityai/stable-audio-open-1.0",
            revision="main",
            approximate_bytes=5_300_000_000,
            family=STABLE_AUDIO,
        ),
        KnownCheckpoint(
            name="stable-audio-3-small-sfx",
            description="Stable Audio 3, small: effects, 44.1 kHz stereo, up to 2 min (0.8 G)",
            licence="Stability AI Community License, Gemma Terms of Use",
            repo_id="stabilityai/stable-audio-3-small-sfx",
            revision="main",
            approximate_bytes=3_500_000_000,
            family=STABLE_AUDIO_3_SMALL,
        ),
        KnownCheckpoint(
            name="stable-audio-3-medium",
            description="Stable Audio 3, medium: 44.1 kHz stereo, up to 6 min (2.6 G parameters)",
            licence="Stability AI Community License, Gemma Terms of Use",
            repo_id="stabilityai/stable-audio-3-medium",
            revision="main",
            approximate_bytes=10_400_000_000,
            family=STABLE_AUDIO_3_MEDIUM,
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
class HubSource:
    """A repository on the Hub, under the name that the user gave."""

    name: str
    repo_id: str
    revision: str
    licence: str | None = None


def parse_name(text: str) -> HubSource:
    """`auffusion-full`, `org/name` or either with `@revision`; nothing is looked up on the Hub.

    Raises:
        UsageError: it is the name of a file.
        CheckpointError: it can be no checkpoint's name.
    """
    base, _, revision = text.partition("@")
    known = KNOWN.get(base)
    if known is not None and known.repo_id is not None:
        return HubSource(base, known.repo_id, revision or known.revision, known.licence)
    if os.path.isfile(text):
        description, hint = recognise(Path(text))
        raise UsageError(f"{text}: {description}", hint=hint)
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


def require_sound(name: str) -> None:
    """Raise a UsageError where `name` is a known model of images."""
    known = KNOWN.get(name.partition("@")[0])
    if known is not None and not known.makes_sound:
        raise UsageError(
            f"--model {name} makes pictures",
            hint=f"A sound model is trained from it: auffusion train --from {name} --data SOUNDS/.",
        )


def find_family_of(name: str) -> Family | None:
    """The family of the model called `name`, as far as it is known before a download."""
    known = KNOWN.get(name.partition("@")[0])
    if known is not None:
        return known.family
    return find_family(Path(name)) if Path(name).is_dir() else None


def refuse_family(name: str, task: str) -> None:
    """Raise a UsageError where `name` is another system's, which `task` is not possible with."""
    family = find_family_of(name)
    if family is not None and task not in family.unet_tasks:
        raise family.refuse(task)


def refuse_waveforms(name: str, task: str) -> None:
    """Raise a UsageError where `name` is a system on waveforms, which `task` is not possible with.

    `task` is about log-mels.
    """
    family = find_family_of(name)
    if family is not None and family.codes_waveforms:
        raise family.refuse_waveforms(task)


def refuse_ddim(name: str, task: str) -> None:
    """Raise a UsageError where `name` is a system that cannot take DDIM's steps, as `task` does."""
    family = find_family_of(name)
    if family is not None and "ddim" not in family.schedulers:
        raise family.refuse_ddim(task)


def is_commit(revision: str) -> bool:
    """Whether `revision` is the full hash of a commit, which never moves."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


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
    card_path = folder / "README.md"
    try:
        card = read_text(card_path, max_bytes=MAX_CARD_BYTES, raising=CheckpointError)
        if not card.startswith("---"):
            return None
        front_matter = parse_yaml(
            card.split("---")[1], raising=CheckpointError, where=str(card_path)
        )
    except (CheckpointError, IndexError):  # a card is for readers: no model is worse for it
        return None
    licence = front_matter.get("license") if isinstance(front_matter, dict) else None
    return licence if isinstance(licence, str) else None
