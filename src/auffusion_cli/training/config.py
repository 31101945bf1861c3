"""The settings of a training run, checked. Nothing here imports torch.

Every field is a key of the YAML (`config_file.py`), and its docstring a line of
docs/training-keys.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from auffusion_cli.config import MAX_STEPS, SETTING_LIMITS
from auffusion_cli.errors import UsageError
from auffusion_cli.training.checks import check, check_unused
from auffusion_cli.training.diffusion_config import DiffusionConfig

MAX_COUNT = 10**9
"""Of steps, samples and scenes."""
MAX_WORKERS = 512
MAX_CROPS = 1_000
MAX_FIT_IMAGES = 100_000
"""Which fit into memory."""
MAX_SEGMENT_SAMPLES = 960_000
"""A minute."""
MAX_STUDENT_STEPS = 32
"""Beyond these the teacher's solver has nothing to gain from a student."""

StageName = Literal["autoencoder", "vocoder", "diffusion", "distill"]


@dataclass(frozen=True)
class LoopConfig:
    """Settings that all stages share. A *step* is one optimiser step on `batch_size` samples."""

    batch_size: int = 32
    """Samples per optimiser step, over all processes and accumulated parts."""
    gradient_accumulation: int = 1
    """Parts into which a process divides its share of a batch, one after the other: less memory."""
    max_steps: int = 100_000
    """Steps of the whole run, resumed parts included."""
    max_minutes: float | None = None
    """Time after which this process ends cleanly, with a checkpoint; none: no limit."""
    learning_rate: float = 1e-4
    """AdamW learning rate after the warm-up."""
    warmup_steps: int = 500
    """First steps, over which the learning rate rises linearly."""
    decay_steps: int = 0
    """Last of the `max_steps`, over which the learning rate falls to zero; 0: it is constant."""
    decay: Literal["linear", "cosine"] = "linear"
    """Form of that fall: a line, or half a cosine, which is slow at both ends."""
    epoch_decay: float = 1.0
    """Factor of the learning rate at every epoch (HiFi-GAN: 0.999)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW betas."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    max_grad_norm: float | None = 1.0
    """Norm to which longer gradients are clipped; none: no clipping."""
    ema_decay: float | None = 0.999
    """Decay of the moving average of the weights that is the result; none: the last weights."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the computation; the weights stay in float32. fp16 needs a GPU."""
    compile: bool = False
    """Compile the networks first (`torch.compile`), which takes minutes and shortens the steps."""
    workers: int | None = None
    """Processes that read and compose the next batches in advance; none: on a GPU one less than the
    cores, at most 16 (on Linux), on a CPU 0. The result does not depend on it."""
    log_every_steps: int = 50
    """Interval of the logs."""
    checkpoint_every_steps: int = 2_000
    """Interval of the checkpoints; a last one is written at the end of a run, however it ends."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; older ones are deleted."""
    validate_every_steps: int | None = None
    """Diffusion: interval of the loss on the held-out data (the data's `val`), always with the same
    noise and time steps; none: it is not measured."""
    keep_best: bool = False
    """The result is that of the step with the least loss on the held-out data, not the last one."""
    early_stop: int | None = None
    """Measurements in a row without a better one after which the run ends; none: it goes on."""
    preview_every_steps: int | None = None
    """Interval of sample sounds and pictures in `previews/`; none: there are none."""
    tensorboard: bool = True
    """Write a TensorBoard log to `logs/`."""
    wandb: str | None = None
    """Weights & Biases project of another log, in `logs/wandb/`: offline, for `wandb sync`, unless
    the environment says `WANDB_MODE=online`; none: there is none."""

    def __post_init__(self) -> None:
        whole = {
            name: (1 <= getattr(self, name) <= MAX_COUNT, f"between 1 and {MAX_COUNT}")
            for name in (
                "batch_size",
                "gradient_accumulation",
                "max_steps",
                "log_every_steps",
                "checkpoint_every_steps",
                "keep_checkpoints",
            )
        }
        whole |= {
            name: (getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
            for name in ("preview_every_steps", "validate_every_steps", "early_stop")
        }
        check(
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
                "workers": (
                    self.workers is None or 0 <= self.workers <= MAX_WORKERS,
                    f"between 0 and {MAX_WORKERS}",
                ),
            },
        )
        check_unused("loop", self, not self.decay_steps, "without loop.decay_steps", ("decay",))
        unmeasured = self.validate_every_steps is None
        reason = "without loop.validate_every_steps"
        check_unused("loop", self, unmeasured, reason, ("keep_best", "early_stop"))
        check_unused("loop", self, not self.keep_best, "without loop.keep_best", ("early_stop",))


@dataclass(frozen=True)
class SceneConfig:
    """Composition of training samples from clips. The defaults only crop and pad."""

    duration_s: float = 10.24
    """Length of a scene: the window of the model."""
    n_cached: int | None = None
    """Diffusion: scenes that are composed once and kept as latents; none: one for each clip; 0: no
    latents are kept, every training sample is a new scene. Distill: trajectories."""
    n_crops: int = 1
    """Diffusion, where every clip is a scene: crops of a clip longer than that which are kept as
    latents; each training sample draws one."""
    kinds: tuple[str, ...] = ()
    """Kinds of clips that are used; empty: all."""
    mix_probability: float = 0.0
    """Probability that a scene is composed of two or three clips."""
    phrase_probability: float = 0.0
    """Probability that the caption of a lone sound is a short phrase of it ("dog barking")."""
    kind_balance: float = 0.0
    """0: all clips are equally likely; 1: all kinds are."""
    kind_weights: dict[str, float] = field(default_factory=dict)
    """Kind -> how many times likelier it is drawn than others."""
    max_repeats: int = 1
    """Most times that a short event occurs in a scene."""
    gap_s: tuple[float, float] = (0.2, 1.2)
    """Shortest and longest gap between repeats, and between two events in a row."""
    pitch_range: float = 0.0
    """Largest fraction by which a clip is played faster or slower."""
    background_gain_db: tuple[float, float] = (-12.0, -3.0)
    """Softest and loudest peak of a background, relative to the event over it."""

    def __post_init__(self) -> None:
        checks = {
            "duration_s": (0.1 <= self.duration_s <= 600, "between 0.1 and 600 s"),
            "n_cached": (
                self.n_cached is None or 0 <= self.n_cached <= MAX_COUNT,
                f"between 0 and {MAX_COUNT}",
            ),
            "n_crops": (1 <= self.n_crops <= MAX_CROPS, f"between 1 and {MAX_CROPS}"),
            "mix_probability": (0 <= self.mix_probability <= 1, "between 0 and 1"),
            "phrase_probability": (0 <= self.phrase_probability <= 1, "between 0 and 1"),
            "kind_balance": (0 <= self.kind_balance <= 1, "between 0 and 1"),
            "kind_weights": (
                all(0 < weight < math.inf for weight in self.kind_weights.values()),
                "numbers above 0",
            ),
            "max_repeats": (self.max_repeats >= 1, "at least 1"),
            "gap_s": (0 <= self.gap_s[0] <= self.gap_s[1] <= 600, "two rising numbers from 0"),
            "pitch_range": (0 <= self.pitch_range <= 0.5, "between 0 and 0.5"),
            "background_gain_db": (
                -100 <= self.background_gain_db[0] <= self.background_gain_db[1] <= 0,
                "two rising numbers from -100 to 0",
            ),
        }
        check("scenes", self, checks)


OF_KIND = {
    "kl": ("kl_weight", "adversarial_weight", "adversarial_start_step"),
    "patch": ("n_fit_images", "latent_noise"),
}
"""Keys of `autoencoder` that only one kind has."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Settings of the autoencoder stage: `kl` is an AutoencoderKL, `patch` a refined PCA."""

    kind: Literal["kl", "patch"] = "kl"
    """Kind of autoencoder."""
    init_from: str | None = None
    """Name, Hub id or folder of an autoencoder, a checkpoint or a run to start from; none: from
    scratch."""
    model: dict[str, Any] = field(default_factory=dict)
    """From scratch: arguments of `AutoencoderKL` or `PatchAutoencoder`."""
    l1_weight: float = 1.0
    """Weight of the mean absolute error of the image."""
    gradient_weight: float = 1.0
    """Weight of the error of its differences along time and frequency, for sharper edges."""
    kl_weight: float = 1e-6
    """`kl` only: weight of the latents' KL divergence from unit Gaussians."""
    adversarial_weight: float = 0.0
    """`kl` only: weight of the PatchGAN's loss; 0: there is no discriminator."""
    adversarial_start_step: int = 0
    """`kl` only: first step with the discriminator."""
    n_fit_images: int = 1_000
    """`patch` only: scenes to which the principal components are fitted."""
    latent_noise: float = 0.0
    """`patch` only: largest standard deviation of the noise on the latents that are refined, since
    those of a diffusion model are never exact; 0: no noise."""

    def __post_init__(self) -> None:
        from_start = ("model", "n_fit_images")
        check_unused("autoencoder", self, self.init_from, "with autoencoder.init_from", from_start)
        other = OF_KIND["patch" if self.kind == "kl" else "kl"]
        check_unused("autoencoder", self, True, f"with autoencoder.kind: {self.kind}", other)
        without = "without autoencoder.adversarial_weight"
        check_unused(
            "autoencoder", self, not self.adversarial_weight, without, ("adversarial_start_step",)
        )
        checks = {
            "n_fit_images": (
                1 <= self.n_fit_images <= MAX_FIT_IMAGES,
                f"between 1 and {MAX_FIT_IMAGES}",
            ),
        } | {
            name: (getattr(self, name) >= 0, "at least 0")
            for name in (
                "l1_weight",
                "gradient_weight",
                "kl_weight",
                "adversarial_weight",
                "adversarial_start_step",
                "latent_noise",
            )
        }
        check("autoencoder", self, checks)


@dataclass(frozen=True)
class VocoderConfig:
    """Settings of the vocoder stage, HiFi-GAN (Kong et al. 2020, section 3)."""

    init_from: str | None = None
    """Name, Hub id or folder of a vocoder, a checkpoint or a run to start from, of the latter with
    its discriminators; none: from scratch."""
    model: dict[str, Any] = field(default_factory=dict)
    """From scratch: fields of `vocoder.HiFiGANConfig`."""
    segment_samples: int = 5120
    """Length of a training sample, a multiple of 160."""
    mels: Literal["true", "decoded"] = "true"
    """Input: the recordings' own mels, or those decoded by the autoencoder."""
    autoencoder: str | None = None
    """`mels: decoded` only: name, Hub id or folder of the autoencoder, a checkpoint or a run."""
    mel_weight: float = 45.0
    """Weight of the mean absolute error of the log-mel."""
    feature_weight: float = 2.0
    """Weight of the feature-matching loss."""
    stft_weight: float = 0.0
    """Weight of the multi-resolution STFT loss (Parallel WaveGAN, arXiv 1910.11480), which
    distinguishes waveforms of the same mel at less cost than the discriminators."""
    adversarial_start_step: int | None = 0
    """First step with the discriminators; none: there are none."""
    discriminator_width: float = 1.0
    """Factor of the discriminators' channels; 1: as in the paper."""

    def __post_init__(self) -> None:
        check_unused("vocoder", self, self.init_from, "with vocoder.init_from", ("model",))
        true_mels = self.mels == "true"
        check_unused("vocoder", self, true_mels, "with vocoder.mels: true", ("autoencoder",))
        start = self.adversarial_start_step
        reason = "with vocoder.adversarial_start_step: null"
        of_discriminators = ("feature_weight", "discriminator_width")
        check_unused("vocoder", self, start is None, reason, of_discriminators)
        checks = {
            "segment_samples": (
                1 <= self.segment_samples <= MAX_SEGMENT_SAMPLES,
                f"between 1 and {MAX_SEGMENT_SAMPLES}",
            ),
            "adversarial_start_step": (start is None or start >= 0, "at least 0"),
            "discriminator_width": (0 < self.discriminator_width <= 4, "above 0 and at most 4"),
        } | {
            name: (getattr(self, name) >= 0, "at least 0")
            for name in ("mel_weight", "feature_weight", "stft_weight")
        }
        check("vocoder", self, checks)


@dataclass(frozen=True)
class DistillConfig:
    """Settings of the distill stage: a student of `diffusion.init_from` that takes few steps."""

    steps: int = 4
    """Steps of the student, one call of the UNet each."""
    teacher_steps: int | None = None
    """Steps of the teacher, a multiple of `steps`; none: those of `--steps auto`, rounded up."""
    guidance_scale: float | None = None
    """Guidance of the teacher, which the student has without a second call; none: its default."""

    def __post_init__(self) -> None:
        of_teacher = self.teacher_steps
        limits = SETTING_LIMITS["guidance_scale"]
        checks = {
            "steps": (1 <= self.steps <= MAX_STUDENT_STEPS, f"between 1 and {MAX_STUDENT_STEPS}"),
            "teacher_steps": (
                of_teacher is None
                or (1 <= of_teacher <= MAX_STEPS and of_teacher % self.steps == 0),
                f"a multiple of distill.steps, {self.steps}, from 1 to {MAX_STEPS}",
            ),
            "guidance_scale": (
                self.guidance_scale is None or limits.allow(self.guidance_scale),
                str(limits),
            ),
        }
        check("distill", self, checks)


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run. `data` and `output` usually come from the command line."""

    stage: StageName = "diffusion"
    """Part that is trained."""
    data: tuple[str, ...] | str | None = None
    """Folder or list of sounds (docs/training-data.md), or several of them."""
    caption_column: str | None = None
    """Column or key of the captions in its lists; none: as the layout has it."""
    encoding: str | None = None
    """Encoding of its lists, such as latin-1; none: UTF-8, or UTF-16 with a byte order mark."""
    skip_bad: bool = False
    """Train without the clips that cannot be used, which are otherwise an error."""
    output: str | None = None
    """Folder for checkpoints, logs and the result."""
    seed: int = 0
    """Seed of everything random in the run."""
    loop: LoopConfig = LoopConfig()
    scenes: SceneConfig = SceneConfig()
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Each of `data`."""
        return (self.data,) if isinstance(self.data, str) else self.data or ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed: {self.seed} is not at least 0")
