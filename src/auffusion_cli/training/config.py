"""The settings of a training run, checked. Nothing here imports torch.

Every field is a key of the YAML (`config_file.py`), and its docstring a line of
docs/training-keys.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError

StageName = Literal["autoencoder", "vocoder", "diffusion"]


def _check(section: str, config: Any, checks: dict[str, tuple[bool, str]]) -> None:
    """Raise a UsageError for the first field of `config` that does not fit."""
    for name, (fits, valid) in checks.items():
        if not fits:
            raise UsageError(f"{section}.{name}: {getattr(config, name)!r} is not {valid}")


@dataclass(frozen=True)
class LoopConfig:
    """The part that all stages share. A *step* is one optimiser step on `batch_size` samples."""

    batch_size: int = 32
    """Samples an optimiser step, over all processes and accumulated parts."""
    gradient_accumulation: int = 1
    """A process takes its share of a batch in so many parts, one after the other: less memory."""
    max_steps: int = 100_000
    """The run is finished after so many steps in all."""
    max_minutes: float | None = None
    """End cleanly, with a checkpoint, when this much time has passed in this process."""
    learning_rate: float = 1e-4
    """AdamW's, after the warm-up."""
    warmup_steps: int = 500
    """The learning rate rises linearly over the first so many steps."""
    decay_steps: int = 0
    """The learning rate falls linearly to zero over the last so many of `max_steps`."""
    epoch_decay: float = 1.0
    """The learning rate is multiplied by this every epoch (HiFi-GAN's recipe: 0.999)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's."""
    weight_decay: float = 0.01
    """AdamW's."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are cut to this length; none: never."""
    ema_decay: float | None = 0.999
    """The result is this moving average of the weights; none: the last weights."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """What the networks compute in; the weights stay in float32. fp16 needs a GPU."""
    compile: bool = False
    """Compile the networks first (`torch.compile`): minutes of waiting, then shorter steps."""
    workers: int | None = None
    """Processes that read and compose the next batches meanwhile; none: on a GPU one less than the
    cores, at most 16 (on Linux), on a CPU 0. They change nothing of the result."""
    log_every_steps: int = 50
    """To TensorBoard."""
    checkpoint_every_steps: int = 2_000
    """A last checkpoint is written at the end of a run, however it ends."""
    keep_checkpoints: int = 2
    """Older ones are deleted."""
    preview_every_steps: int | None = None
    """Write sample sounds and pictures to `previews/`; none: never."""
    tensorboard: bool = True
    """Write `logs/`."""

    def __post_init__(self) -> None:
        whole = {
            name: (getattr(self, name) >= 1, "at least 1")
            for name in (
                "batch_size",
                "gradient_accumulation",
                "max_steps",
                "log_every_steps",
                "checkpoint_every_steps",
                "keep_checkpoints",
            )
        }
        every = self.preview_every_steps
        _check(
            "loop",
            self,
            whole
            | {
                "max_minutes": (self.max_minutes is None or self.max_minutes >= 0, "at least 0"),
                "learning_rate": (self.learning_rate > 0, "above 0"),
                "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
                "decay_steps": (self.decay_steps >= 0, "at least 0"),
                "epoch_decay": (0 < self.epoch_decay <= 1, "above 0 and at most 1"),
                "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 below 1"),
                "weight_decay": (self.weight_decay >= 0, "at least 0"),
                "max_grad_norm": (self.max_grad_norm is None or self.max_grad_norm > 0, "above 0"),
                "ema_decay": (self.ema_decay is None or 0 <= self.ema_decay < 1, "from 0 below 1"),
                "workers": (self.workers is None or self.workers >= 0, "at least 0"),
                "preview_every_steps": (every is None or every >= 1, "at least 1"),
            },
        )


@dataclass(frozen=True)
class SceneConfig:
    """How clips become training samples (see `scenes.py`). The defaults only crop and pad."""

    duration_s: float = 10.24
    """Length of a scene: the window of the model."""
    n_cached: int | None = None
    """Diffusion: compose so many scenes once and keep their latents; none: one scene for each clip;
    0: keep nothing, a new scene for every training sample."""
    kinds: tuple[str, ...] = ()
    """Only clips of these kinds; none named: all."""
    mix_probability: float = 0.0
    """How often a scene is made of two or three clips."""
    phrase_probability: float = 0.0
    """How often a lone sound's caption is its short phrase ("dog barking")."""
    kind_balance: float = 0.0
    """0: every clip is equally likely; 1: every kind is."""
    max_repeats: int = 1
    """A short event is heard up to so many times."""
    gap_s: tuple[float, float] = (0.2, 1.2)
    """Between repeats, and between two events in a row: shortest and longest."""
    pitch_range: float = 0.0
    """Played up to this fraction faster or slower."""
    background_gain_db: tuple[float, float] = (-12.0, -3.0)
    """Of a background's peak, relative to the event over it: softest and loudest."""

    def __post_init__(self) -> None:
        checks = {
            "duration_s": (0.1 <= self.duration_s <= 600, "between 0.1 and 600 s"),
            "n_cached": (self.n_cached is None or self.n_cached >= 0, "at least 0"),
            "mix_probability": (0 <= self.mix_probability <= 1, "between 0 and 1"),
            "phrase_probability": (0 <= self.phrase_probability <= 1, "between 0 and 1"),
            "kind_balance": (0 <= self.kind_balance <= 1, "between 0 and 1"),
            "max_repeats": (self.max_repeats >= 1, "at least 1"),
            "gap_s": (0 <= self.gap_s[0] <= self.gap_s[1] <= 600, "two rising numbers from 0"),
            "pitch_range": (0 <= self.pitch_range <= 0.5, "between 0 and 0.5"),
            "background_gain_db": (
                -100 <= self.background_gain_db[0] <= self.background_gain_db[1] <= 0,
                "two rising numbers from -100 to 0",
            ),
        }
        _check("scenes", self, checks)


@dataclass(frozen=True)
class TextEncoderConfig:
    """A frozen text encoder: a `transformers` folder, and how many of its tokens to keep."""

    path: str
    """Its folder: config, weights and tokenizer."""
    name: str = ""
    """What it is, for the record: "sentence-transformers/all-MiniLM-L6-v2"."""
    max_length: int = 77
    """Tokens (rows of its output) that the UNet sees."""

    def __post_init__(self) -> None:
        checks = {"max_length": (1 <= self.max_length <= 4096, "between 1 and 4096")}
        _check("diffusion.text_encoders", self, checks)


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion stage (paper, section 3.3)."""

    init_from: str | None = None
    """Start from this checkpoint (a name, Hub id or folder) instead of from scratch."""
    autoencoder: str | None = None
    """Folder of the autoencoder stage's result; needed from scratch."""
    vocoder: str | None = None
    """Folder of the vocoder stage's result; none: Griffin-Lim, said in the checkpoint."""
    text_encoders: tuple[TextEncoderConfig, ...] = ()
    """From scratch: one or more, each with a trained adapter; `path`, `name`, `max_length`."""
    unet: dict[str, Any] = field(default_factory=dict)
    """Arguments of `diffusers.UNet2DConditionModel`; channels and text width are filled in."""
    scheduler: dict[str, Any] = field(
        default_factory=lambda: {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "skip_prk_steps": True,
            "steps_offset": 1,
            "set_alpha_to_one": False,
        }
    )
    """From scratch: the noise schedule; `prediction_type` is epsilon or v_prediction."""
    text_dropout: float = 0.1
    """How often a caption is left out, which guidance needs."""
    min_snr_gamma: float | None = 5.0
    """Min-SNR weighting's limit (Hang et al. 2023); none: all time steps weigh the same."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations twice rather than keep them: less memory, more time."""
    preview_prompts: tuple[str, ...] = ()
    """What the preview sounds are of; needed with `loop.preview_every_steps`."""
    name: str = "trained"
    """What the result calls itself."""
    licence: str | None = None
    """Of the result; none: that of the checkpoint it started from, if any."""
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    """From scratch: what `generate` takes where the user says nothing."""

    def __post_init__(self) -> None:
        _check(
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


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder stage: `kl` is diffusers' AutoencoderKL, `patch` a refined PCA."""

    kind: Literal["kl", "patch"] = "kl"
    """Which of the two."""
    init_from: str | None = None
    """Start from the `vae/` of this checkpoint or folder."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of `AutoencoderKL` or `PatchAutoencoder`."""
    l1_weight: float = 1.0
    """Of the mean absolute error of the image."""
    gradient_weight: float = 1.0
    """Of the error of its differences along time and frequency: sharper edges."""
    kl_weight: float = 1e-6
    """`kl` only: of the latents' divergence from unit Gaussians."""
    adversarial_weight: float = 0.0
    """`kl` only: of a PatchGAN's opinion; 0: there is none."""
    adversarial_start_step: int = 0
    """`kl` only: it joins in at this step."""
    n_fit_images: int = 1_000
    """`patch` only: scenes that the principal components are fitted to."""
    latent_noise: float = 0.0
    """`patch` only: the refinement learns from latents with noise of up to this standard deviation,
    as a diffusion model's are never exact; 0: from exact ones."""

    def __post_init__(self) -> None:
        checks = {
            "n_fit_images": (self.n_fit_images >= 1, "at least 1"),
            "latent_noise": (self.latent_noise >= 0, "at least 0"),
        }
        _check("autoencoder", self, checks)


@dataclass(frozen=True)
class VocoderConfig:
    """The vocoder stage: HiFi-GAN's recipe (Kong et al. 2020, section 3)."""

    init_from: str | None = None
    """Start from the `vocoder/` of this checkpoint or folder."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `vocoder.HiFiGANConfig`."""
    segment_samples: int = 5120
    """Length of a training sample, a multiple of 160."""
    mels: Literal["true", "decoded"] = "true"
    """Learn from the recordings' own mels, or from those that went through the autoencoder."""
    autoencoder: str | None = None
    """`mels: decoded` only: the autoencoder whose round trip the vocoder learns to read."""
    mel_weight: float = 45.0
    """Of the mean absolute error of the log-mel."""
    feature_weight: float = 2.0
    """Of the discriminators' features."""
    stft_weight: float = 0.0
    """Multi-resolution STFT loss of the waveform (Parallel WaveGAN, arXiv 1910.11480), which tells
    apart what has one and the same mel; for less work than the discriminators."""
    adversarial_start_step: int | None = 0
    """The discriminators join in at this step; none: never."""
    discriminator_width: float = 1.0
    """Scales the discriminators' channels; 1 is the paper's."""


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run. `data` and `output` usually come from the command line."""

    stage: StageName = "diffusion"
    """Which part is trained."""
    data: str | None = None
    """Folder or list of sounds (docs/training-data.md)."""
    skip_bad: bool = False
    """Train without the clips that cannot be used; otherwise such a clip is an error."""
    output: str | None = None
    """Folder for checkpoints, logs and the result."""
    seed: int = 0
    """Of all that is random in the run."""
    loop: LoopConfig = LoopConfig()
    scenes: SceneConfig = SceneConfig()
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed: {self.seed} is not at least 0")
