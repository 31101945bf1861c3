"""The settings of the diffusion stage, checked. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.training.checks import check, check_unused

FIRST_SCHEDULE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
"""Noise schedule of a model from scratch: Stable Diffusion's and the published checkpoints'."""


@dataclass(frozen=True)
class TextEncoderConfig:
    """A frozen text encoder in the form of `transformers`."""

    path: str
    """Folder with config, weights and tokenizer, or Hub id; of a checkpoint (a known name, Hub id
    or folder) its text encoder is taken."""
    name: str = ""
    """Name for the record, such as "sentence-transformers/all-MiniLM-L6-v2"; empty: `path`,
    of a folder its own name."""
    max_length: int = 77
    """Tokens (rows of its output) that the UNet attends to."""
    adapter: str | None = None
    """Checkpoint whose adapter it starts with; none: a fresh one."""

    def __post_init__(self) -> None:
        checks = {"max_length": (1 <= self.max_length <= 4096, "between 1 and 4096")}
        check("diffusion.text_encoders", self, checks)


@dataclass(frozen=True)
class PreviewConfig:
    """Settings of the diffusion stage's preview sounds."""

    steps: int | None = None
    """Sampling steps; none: the model's default, at most 25."""
    duration_s: float | None = None
    """Length of a sound; none: the model's default."""
    guidance_scale: float | None = None
    """Guidance; none: the model's default."""


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults of `generate` with the result; none: the start's, from scratch the paper's."""

    duration_s: float | None = None
    """Length of a sound."""
    max_duration_s: float | None = None
    """The window, which must be `scenes.duration_s`; none: that."""
    steps: int | None = None
    """Sampling steps."""
    guidance_scale: float | None = None
    """Guidance; 1 is off."""
    guidance_rescale: float | None = None
    """Rescaling of the guidance (Lin et al. 2023), from 0 to 1."""
    guidance_until: float | None = None
    """Share of the steps that is guided, from 0 to 1."""
    windows_at_once: int | None = None
    """Windows that the UNet sees at once of a longer sound, 1 to 4."""
    scheduler: str | None = None
    """Sampling method: pndm, ddim, dpm++, unipc, euler or ddpm."""
    vocoder: str | None = None
    """hifigan or griffin-lim."""

    def over(self, defaults: GenerationDefaults) -> GenerationDefaults:
        """`defaults` with what is set here in their place."""
        return replace(defaults, **{k: v for k, v in asdict(self).items() if v is not None})


@dataclass(frozen=True)
class LoraConfig:
    """Settings of a LoRA (Hu et al. 2021): small matrices are trained, the start stays as it is."""

    rank: int | None = None
    """Rank of the matrices; none: no LoRA, the whole UNet is trained."""
    trigger: str | None = None
    """Words that call the new sounds, kept in the file; captions should contain them."""
    prior_sounds: int = 64
    """Sounds of the start, generated once, on which the result is held to what the start predicts,
    so that the start's other sounds stay (prior preservation, DreamBooth, Ruiz et al. 2022)."""
    prior_prompts: tuple[str, ...] = ()
    """Prompts for which it is held, and of which the sounds are made, in turn; empty: the kinds
    that the start states."""
    prior_weight: float = 1.0
    """Weight of their loss; 0: no sounds are generated."""

    def __post_init__(self) -> None:
        check_unused(
            "diffusion.lora",
            self,
            self.rank is None,
            "without diffusion.lora.rank",
            ("trigger", "prior_sounds", "prior_prompts", "prior_weight"),
        )
        reason = "with diffusion.lora.prior_weight: 0"
        of_prior = ("prior_sounds", "prior_prompts")
        check_unused("diffusion.lora", self, not self.prior_weight, reason, of_prior)
        check(
            "diffusion.lora",
            self,
            {
                "rank": (self.rank is None or 1 <= self.rank <= 1024, "between 1 and 1024"),
                "prior_sounds": (1 <= self.prior_sounds <= 100_000, "between 1 and 100000"),
                "prior_weight": (self.prior_weight >= 0, "at least 0"),
            },
        )


@dataclass(frozen=True)
class DiffusionConfig:
    """Settings of the diffusion stage (paper, section 3.3)."""

    init_from: str | None = None
    """Checkpoint (a name, Hub id or folder) whose UNet the run starts with, and whatever of the
    keys below is not named; none: from scratch."""
    autoencoder: str | None = None
    """Name, Hub id or folder of an autoencoder, a checkpoint or a run; none: the start's."""
    vocoder: str | None = None
    """The same for the vocoder, or griffin-lim; none: the start's, from scratch Griffin-Lim."""
    text_encoders: tuple[TextEncoderConfig, ...] = ()
    """One or more, in the order of their tokens, each with an adapter to train: `path`, `name`,
    `max_length`, `adapter`; empty: those of the start, in its layout."""
    unet: dict[str, Any] = field(default_factory=dict)
    """From scratch: arguments of `diffusers.UNet2DConditionModel`, but for the channels."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """Changes to the noise schedule of the start, from scratch to Stable Diffusion's (below);
    `prediction_type` is epsilon or v_prediction, `rescale_betas_zero_snr` gives the last time step
    a zero terminal SNR (Lin et al. 2023)."""
    lora: LoraConfig = LoraConfig()
    """A LoRA in place of the whole UNet: `rank`, `trigger`, `prior_sounds` …"""
    train_adapters: bool = True
    """Whether the adapters are trained, too; false: those of the start stay as they are."""
    text_dropout: float = 0.1
    """Probability that a caption is dropped, which classifier-free guidance needs; with a LoRA only
    those of the start's own sounds are."""
    min_snr_gamma: float | None = 5.0
    """Min-SNR gamma (Hang et al. 2023); none: all time steps have the same weight."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations twice instead of keeping them: less memory, more time."""
    preview_prompts: tuple[str, ...] = ()
    """Prompts of the preview sounds; needed with `loop.preview_every_steps`."""
    preview: PreviewConfig = PreviewConfig()
    """Settings of the preview sounds: `steps`, `duration_s`, `guidance_scale`."""
    name: str = "trained"
    """Name of the result."""
    licence: str | None = None
    """Licence of the result; none: that of the checkpoint it started from, if any."""
    generation: GenerationConfig = GenerationConfig()
    """Defaults of `generate` with the result."""

    def __post_init__(self) -> None:
        reason = "with diffusion.init_from, which has a UNet of its own"
        check_unused("diffusion", self, self.init_from, reason, ("unet",))
        check_unused("diffusion", self, self.init_from is None, "from scratch", ("train_adapters",))
        self._check_lora()
        check(
            "diffusion",
            self,
            {
                "text_dropout": (0 <= self.text_dropout <= 1, "between 0 and 1"),
                "min_snr_gamma": (
                    self.min_snr_gamma is None or self.min_snr_gamma > 0,
                    "above 0",
                ),
            },
        )

    def _check_lora(self) -> None:
        """What a LoRA changes is the UNet of its start, with which it is used later."""
        reason = "with diffusion.lora, which is used with diffusion.init_from as that is"
        others = (
            "autoencoder",
            "vocoder",
            "text_encoders",
            "scheduler",
            "generation",
            "licence",
            "train_adapters",
        )
        check_unused("diffusion", self, self.lora.rank, reason, others)
        without_prior = self.lora.rank and not self.lora.prior_weight
        reason = "with diffusion.lora.prior_weight: 0"
        check_unused("diffusion", self, without_prior, reason, ("text_dropout",))
        if self.lora.rank and self.init_from is None:
            raise UsageError("diffusion.lora needs diffusion.init_from")
