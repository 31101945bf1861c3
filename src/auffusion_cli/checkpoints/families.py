"""Other published systems: which of them a folder holds, and what is known of each. No torch.

A family is a system with networks of kinds of its own. What the program needs to know of it is
here; its networks are in `engines/mel_networks.py`, and `load_families.py` makes them of a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auffusion_cli.config import (
    FLOW_SCHEDULE,
    FLOW_SCHEDULERS,
    MAX_DURATION_S,
    SCHEDULERS,
    GenerationDefaults,
    SpectrogramConfig,
)
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.parsing import read_json

MEL_64 = SpectrogramConfig(n_fft_samples=1024, n_mels=64, peak=0.5)
"""The log-mels of AudioLDM (arXiv 2301.12503, section 4), whose autoencoder and vocoder the others
took over."""
WAVES = SpectrogramConfig(
    sample_rate_hz=44_100,
    n_fft_samples=4096,
    win_length_samples=2048,
    hop_length_samples=512,
    n_mels=128,
    fmax_hz=22_050.0,
)
"""The pictures of systems that work on waveforms."""
AUTOENCODER = "autoencoder"
"""In the place of a vocoder, where latents become waveforms at once."""


@dataclass(frozen=True)
class TextPart:
    """The folders of one text encoder of a family."""

    tokenizer: str
    encoder: str
    max_tokens: int | None = None
    """The most that the system reads, where it is fewer than both can."""


@dataclass(frozen=True)
class Family:
    """A published system, as far as no network is needed."""

    name: str
    class_name: str | None
    """`_class_name` in its model_index.json; None in a layout of its own."""
    defaults: GenerationDefaults
    text: tuple[TextPart, ...]
    spectrogram: SpectrogramConfig = MEL_64
    scheduler_config: Mapping[str, Any] | None = None
    """The noise schedule, where the folder does not hold it."""
    unet_tasks: tuple[str, ...] = ()
    """The tasks about the layers of a UNet that it can do."""
    denoiser: str = "unet"
    """The folder of the network that denoises."""
    schedulers: tuple[str, ...] = tuple(SCHEDULERS)
    """Those that can follow its noise schedule."""
    codes_waveforms: bool = False
    """Whether latents are of waveforms, at whose place `spectrogram` is for pictures alone."""
    fills_window: bool = True
    """Whether a short sound is made as a part of a whole window."""

    def refuse(self, task: str) -> UsageError:
        """The error for a task about the layers of a UNet, such as "attention"."""
        others = [family.name for family in FAMILIES if task in family.unet_tasks]
        also = f", and with {' and '.join(others)}" if others else ""
        return UsageError(
            f"{task} is not possible with {self.name}",
            hint="It is with Auffusion's models: --model embedded, auffusion or auffusion-full"
            f"{also}.",
        )

    def refuse_waveforms(self, task: str) -> UsageError:
        """The error for a task about log-mels of a system that has none."""
        names = ", ".join(each.name for each in FAMILIES if not each.codes_waveforms)
        return UsageError(
            f"{task} is not possible with {self.name}, which works on waveforms",
            hint=f"It is with Auffusion's models, {names}.",
        )

    def refuse_ddim(self, task: str) -> UsageError:
        """The error for a task that takes DDIM's steps, of a system that has no such steps."""
        names = ", ".join(each.name for each in FAMILIES if "ddim" in each.schedulers)
        return UsageError(
            f"{task} is not possible with {self.name}, whose time steps have no numbers",
            hint=f"It is with Auffusion's models, {names}: with --scheduler ddim.",
        )

    def check_scheduler(self, name: str) -> None:
        """Raise a UsageError where the scheduler called `name` cannot follow the noise schedule."""
        if name not in self.schedulers:
            raise UsageError(
                f"--scheduler {name} cannot follow the noise schedule of {self.name}",
                hint=f"Valid schedulers: {', '.join(self.schedulers)}.",
            )


def _defaults(guidance_scale: float, scheduler: str = "ddim") -> GenerationDefaults:
    """Those of the papers: 200 steps, of DDIM but for Tango."""
    return GenerationDefaults(steps=200, guidance_scale=guidance_scale, scheduler=scheduler)


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
TANGO = Family(
    name="Tango",
    class_name=None,
    defaults=_defaults(3.0, "ddpm"),
    text=(TextPart("text_encoder", "text_encoder"),),
    # Stable Diffusion 2.1's, which its main_config.json names by a repository that is gone.
    scheduler_config={
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
    },
    unet_tasks=("attention",),
)
"""arXiv 2304.13731; Tango 2 (arXiv 2404.09956) is the same with other weights."""
STABLE_AUDIO = Family(
    name="Stable Audio Open",
    class_name="StableAudioPipeline",
    defaults=GenerationDefaults(
        max_duration_s=47.55,
        steps=100,
        guidance_scale=7.0,
        scheduler="dpm++",
        vocoder=AUTOENCODER,
    ),
    text=(TextPart("tokenizer", "text_encoder"),),
    spectrogram=WAVES,
    denoiser="transformer",
    schedulers=("dpm++", "unipc", "euler"),
    codes_waveforms=True,
)
"""arXiv 2407.14358"""
STABLE_AUDIO_3 = Family(
    name="Stable Audio 3",
    class_name="StableAudio3Pipeline",
    defaults=GenerationDefaults(
        max_duration_s=120.0,
        steps=8,
        guidance_scale=1.0,
        scheduler="pingpong",
        vocoder=AUTOENCODER,
    ),
    text=(TextPart("tokenizer", "text_encoder", max_tokens=256),),
    spectrogram=WAVES,
    denoiser="transformer",
    schedulers=FLOW_SCHEDULERS,
    codes_waveforms=True,
    fills_window=False,
)
"""arXiv 2605.17991, in the layout of diffusers, which does not say how long a sound may be."""
STABILITY_CONFIG, STABILITY_STEM = "model_config.json", "model"
"""Of the layout in which Stability AI publishes Stable Audio 3: its config, and the weights of all
networks but T5Gemma's."""
T5GEMMA = "t5gemma-b-b-ul2"
"""The folder of T5Gemma and its tokenizer."""
STABLE_AUDIO_3_SMALL = replace(
    STABLE_AUDIO_3,
    class_name=None,
    text=(TextPart(T5GEMMA, T5GEMMA, max_tokens=256),),
    scheduler_config={"_class_name": FLOW_SCHEDULE, "num_train_timesteps": 1},
)
STABLE_AUDIO_3_MEDIUM = replace(
    STABLE_AUDIO_3_SMALL, defaults=replace(STABLE_AUDIO_3.defaults, max_duration_s=380.0)
)
"""The same in the layout of Stability AI."""
FAMILIES = (AUDIOLDM, AUDIOLDM2, TANGO, STABLE_AUDIO, STABLE_AUDIO_3)
TANGO_MAIN, TANGO_VAE = "pytorch_model_main", "pytorch_model_vae"
"""Of Tango's layout: the weights of the UNet and the text encoder; of autoencoder and vocoder."""
TANGO_CONFIG, TANGO_VAE_CONFIG = "main_config.json", "vae_config.json"
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""What Tango's repositories leave to that of the text encoder; here in `text_encoder/`."""
TEXT_ENCODERS = tuple(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl"))
"""The repositories that they may name."""
UNSUPPORTED = ("MusicLDMPipeline", "LongCatAudioDiTPipeline")
"""Pipelines of diffusers that make sounds of words, and are no family here."""


def find_family(folder: Path) -> Family | None:
    """The family of the checkpoint in `folder`; None for Auffusion's own layouts, and for neither.

    Raises:
        CheckpointError: its model_index.json is damaged, or that of a system not supported.
    """
    if (folder / TANGO_CONFIG).is_file() and (folder / TANGO_VAE_CONFIG).is_file():
        return TANGO
    path = folder / "model_index.json"
    if (folder / STABILITY_CONFIG).is_file() and (folder / T5GEMMA).is_dir() and not path.is_file():
        return _find_stable_audio_3(folder / STABILITY_CONFIG)
    if (folder / "condition_config.json").is_file() or not path.is_file():
        return None
    index = read_json(path, raising=CheckpointError)
    class_name = index.get("_class_name") if isinstance(index, dict) else None
    if class_name in UNSUPPORTED:
        names = ", ".join(family.name for family in FAMILIES)
        raise CheckpointError(
            f"{path}: {class_name} is not supported", hint=f"Auffusion is, and so are {names}."
        )
    if class_name is None:  # Tango has no name of a class, and no such file
        return None
    return next((family for family in FAMILIES if family.class_name == class_name), None)


def _find_stable_audio_3(config_path: Path) -> Family:
    """With the window that the config states, in samples."""
    config = read_json(config_path, raising=CheckpointError)
    n_samples = config.get("sample_size") if isinstance(config, dict) else None
    longest = int(MAX_DURATION_S * WAVES.sample_rate_hz)
    if not isinstance(n_samples, int) or not WAVES.sample_rate_hz <= n_samples <= longest:
        raise CheckpointError(
            f"{config_path}: sample_size is {str(n_samples)[:20]}; valid: whole numbers from "
            f"{WAVES.sample_rate_hz} to {longest}"
        )
    window_s = float(n_samples // WAVES.sample_rate_hz)
    defaults = STABLE_AUDIO_3.defaults
    duration_s = min(defaults.duration_s, window_s)
    return replace(
        STABLE_AUDIO_3_SMALL,
        defaults=replace(defaults, duration_s=duration_s, max_duration_s=window_s),
    )


def check_text_files(folder: Path) -> None:
    """Raise a CheckpointError where a Tango lacks `TEXT_FILES`, which a download puts there."""
    for name in TEXT_FILES:
        path = folder / "text_encoder" / name
        if not path.is_file():
            raise CheckpointError(
                f"{path}: missing", hint=f"That of {text_encoder_of(folder)} belongs there."
            )


def text_encoder_of(folder: Path) -> str:
    """The repository of the text encoder of a Tango in `folder`.

    Raises:
        CheckpointError: it names none of `TEXT_ENCODERS`.
    """
    path = folder / TANGO_CONFIG
    config = read_json(path, raising=CheckpointError)
    name = config.get("text_encoder_name") if isinstance(config, dict) else None
    if name not in TEXT_ENCODERS:
        raise CheckpointError(
            f"{path}: text_encoder_name is {str(name)[:60]!r}; valid: {', '.join(TEXT_ENCODERS)}"
        )
    return name
