"""A sound with the cross-attention maps of the words of its prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F

from auffusion_cli.diffusion.attention import AttentionRecorder, WordMaps, attending, cross_layers
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.diffusion.tokens import rows_of_words
from auffusion_cli.engines.mel_networks import MelNetworks
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.files import atomic_file
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.requests.word_edits import find_words
from auffusion_cli.tasks.edits import OnProgress
from auffusion_cli.tasks.generate import GenerateResult, generate

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from auffusion_cli.diffusion.text import TextReader
    from auffusion_cli.model import Model


@dataclass(frozen=True)
class AttentionResult:
    """One sound with the maps of its words."""

    sound: GenerateResult
    """The sound of `generate`, sample for sample."""
    on_latents: WordMaps
    maps: np.ndarray
    """(W, 256, T) float32: `on_latents.mean` at the size of `sound.log_mel`, lowest first."""

    @property
    def words(self) -> tuple[str, ...]:
        return self.on_latents.words

    @property
    def shares(self) -> list[float]:
        """Share of each word in all attention, 0..1."""
        return self.maps.mean(axis=(1, 2)).tolist()

    def save_data(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write all of it but the waveform as .npz, beside and renamed; see docs/attention.md."""
        arrays = {
            "words": np.array(self.words),
            "maps": self.maps,
            "by_step": self.on_latents.by_step.numpy(),
            "by_layer": self.on_latents.by_layer.numpy(),
            "steps": np.array(self.on_latents.steps),
            "layers": np.array(self.on_latents.layers),
            "log_mel": self.sound.log_mel,
            "duration_s": np.array(self.sound.settings.duration_s),
            "provenance": np.array(json.dumps(self.sound.provenance.to_dict())),
        }
        with (
            atomic_file(Path(path), overwrite=overwrite) as beside,
            beside.open("wb") as file,
        ):
            np.savez_compressed(file, **arrays)


def generate_with_attention(
    model: Model,
    request: GenerateRequest,
    settings: GenerateSettings | None = None,
    *,
    phase: tuple[float, float] = (0.0, 1.0),
    layers: Sequence[str] = (),
    heads: Sequence[int] = (),
    on_progress: OnProgress | None = None,
) -> AttentionResult:
    """Make one sound as `generate` does, and average the attention to each word of its prompt.

    Args:
        phase: the part of the denoising to average over, from 0 (noise) to 1 (the sound).
        layers: the layers to average over, as `choose_layers` reads them; () is all.
        heads: the heads of each layer to average over, counted from 0; () is all.

    Raises:
        UsageError: the sound is longer than the model's window, the prompt has no word, or there
            is no such layer, head or step.
        AuffusionError: the model's attention cannot be read.
    """
    settings = settings or GenerateSettings.from_defaults(model.defaults)
    check_window(settings, model.defaults.max_duration_s)
    steps = choose_steps(phase, count_steps(settings, model.scheduler_config))
    unet = torch_unet(model, is_changed=False)
    chosen = choose_layers(cross_layers(unet), layers, heads)
    recorder = AttentionRecorder(
        choose_rows(model.text, request.prompt),
        n_tokens=model.text.n_rows,
        grid=model.codec.latent_shape(model.defaults.max_duration_s)[1:],
        steps=steps,
        layers=chosen,
        heads=heads or None,
        lies=isinstance(model.networks, MelNetworks),
    )
    tell = on_progress or (lambda n_done, n: None)
    with attending(unet, recorder):
        (sound,) = generate(
            model, [request], settings, on_step=lambda _, step: tell(step.index + 1, step.n_steps)
        )
    on_latents = recorder.word_maps([word.text for word in find_words(request.prompt)])
    size = (len(sound.log_mel), on_latents.mean.shape[-1] * model.codec.width_multiple)
    maps = F.interpolate(on_latents.mean[None], size, mode="bilinear", align_corners=False)[0]
    hop = model.codec.spectrogram_config.hop_length_samples
    return AttentionResult(sound, on_latents, sound.part.of(maps.numpy(), hop))


def torch_unet(model: Model, *, is_changed: bool) -> UNet2DConditionModel:
    """The UNet whose attention is read, or changed.

    Raises:
        UsageError: the engine has no access to its insides, or they are another system's of which
            this is not possible.
    """
    if not isinstance(model.networks, TorchNetworks):
        raise UsageError(
            f"--engine {model.networks.engine} cannot read or change attention",
            hint="Take --engine torch.",
        )
    if isinstance(model.networks, MelNetworks) and (is_changed or not model.networks.sees_tokens):
        raise UsageError(
            f"attention cannot be {'changed' if is_changed else 'read'} in {model.name}"
        )
    return model.networks.unet


def check_window(settings: GenerateSettings, max_duration_s: float) -> None:
    """Raise a UsageError for a sound of several windows, whose maps do not join."""
    if settings.duration_s > max_duration_s:
        raise UsageError(
            f"{settings.duration_s:g} s is more than the {max_duration_s:g} s that this model sees"
            " at once, and maps are drawn of one window",
            hint=f"Valid: --duration up to {max_duration_s:g}.",
        )


def choose_rows(text: TextReader, prompt: str) -> list[list[int]]:
    """`rows_of_words`; UsageError where the model reads none of them."""
    rows = rows_of_words(text, prompt)
    if not any(rows):
        raise UsageError(f"{prompt!r} has no word that the model reads")
    return rows


def count_steps(settings: GenerateSettings, scheduler_config: Mapping[str, Any]) -> int:
    """Number of steps that are taken: PNDM takes one more than was asked for."""
    scheduler = make_scheduler(settings.scheduler, scheduler_config)
    scheduler.set_timesteps(settings.steps)
    return len(scheduler.timesteps)


def choose_steps(phase: tuple[float, float], n_steps: int) -> list[int]:
    """The steps in a part of the denoising; at least one.

    Raises:
        UsageError: it holds none.
    """
    start, end = phase
    steps = list(range(round(start * n_steps), round(end * n_steps)))
    if not steps:
        raise UsageError(
            f"--phase {start:g}-{end:g} holds none of the {n_steps} steps",
            hint=f"One step is {1 / n_steps:.2g} of the whole.",
        )
    return steps


def choose_layers(
    n_heads: dict[str, int], names: Sequence[str], heads: Sequence[int] = ()
) -> list[str]:
    """The layers of `n_heads` (name -> number of heads) whose names start with one of `names`.

    "down", "mid" and "up" are the parts of the UNet; no names are all layers.

    Raises:
        UsageError: no layer has such a name, or one does not have all of `heads`.
        AuffusionError: there are no layers at all.
    """
    if not n_heads:
        raise AuffusionError("This model does not attend to words: it has no such layers")
    for name in names:
        if not any(layer.startswith(name) for layer in n_heads):
            raise UsageError(
                f"--layers {name!r} is not a layer of this model",
                hint=f"Valid: down, mid, up, or the beginning of one of {', '.join(n_heads)}.",
            )
    chosen = [layer for layer in n_heads if not names or layer.startswith(tuple(names))]
    fewest = min(n_heads[layer] for layer in chosen)
    for head in heads:
        if not 0 <= head < fewest:
            raise UsageError(
                f"--heads {head} is not a head of every layer", hint=f"Valid: 0 to {fewest - 1}."
            )
    return chosen
