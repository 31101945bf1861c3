"""Other published systems: which of them a folder holds, and what is known of each. No torch.

A family is a system with networks of kinds of its own. What the program needs to know of it is
here; its networks are in `engines/mel_networks.py`, and `load_families.py` makes them of a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.config import GenerationDefaults, SpectrogramConfig
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.parsing import read_json

MEL_64 = SpectrogramConfig(n_fft_samples=1024, n_mels=64, peak=0.5)
"""The log-mels of AudioLDM (arXiv 2301.12503, section 4), whose autoencoder and vocoder the others
took over."""


@dataclass(frozen=True)
class TextPart:
    """The folders of one text encoder of a family."""

    tokenizer: str
    encoder: str


@dataclass(frozen=True)
class Family:
    """A published system, as far as no network is needed."""

    name: str
    class_name: str
    """`_class_name` in its model_index.json."""
    defaults: GenerationDefaults
    text: tuple[TextPart, ...]
    spectrogram: SpectrogramConfig = MEL_64

    def refuse(self, task: str) -> UsageError:
        """The error for a task about the layers of a UNet, such as "attention"."""
        return UsageError(
            f"{task} is not possible with {self.name}",
            hint="It is with Auffusion's models: --model embedded, auffusion or auffusion-full.",
        )


def _defaults(guidance_scale: float) -> GenerationDefaults:
    """Those of the papers: 200 steps of DDIM."""
    return GenerationDefaults(steps=200, guidance_scale=guidance_scale, scheduler="ddim")


AUDIOLDM = Family(
    name="AudioLDM",
    class_name="AudioLDMPipeline",
    defaults=_defaults(2.5),
    text=(TextPart("tokenizer", "text_encoder"),),
)
"""arXiv 2301.12503"""
AUDIOLDM2 = Family(
    name="AudioLDM 2",
    class_name="AudioLDM2Pipeline",
    defaults=_defaults(3.5),
    text=(TextPart("tokenizer", "text_encoder"), TextPart("tokenizer_2", "text_encoder_2")),
)
"""arXiv 2308.05734"""
FAMILIES = (AUDIOLDM, AUDIOLDM2)
UNSUPPORTED = (
    "StableAudioPipeline",
    "StableAudio3Pipeline",
    "MusicLDMPipeline",
    "LongCatAudioDiTPipeline",
)
"""Pipelines of diffusers that make sounds of words, and are no family here."""


def find_family(folder: Path) -> Family | None:
    """The family of the checkpoint in `folder`; None for Auffusion's own layouts, and for neither.

    Raises:
        CheckpointError: its model_index.json is damaged, or that of a system not supported.
    """
    path = folder / "model_index.json"
    if (folder / "condition_config.json").is_file() or not path.is_file():
        return None
    index = read_json(path, raising=CheckpointError)
    class_name = index.get("_class_name") if isinstance(index, dict) else None
    if class_name in UNSUPPORTED:
        names = ", ".join(family.name for family in FAMILIES)
        raise CheckpointError(
            f"{path}: {class_name} is not supported", hint=f"Auffusion is, and so are {names}."
        )
    return next((family for family in FAMILIES if family.class_name == class_name), None)
