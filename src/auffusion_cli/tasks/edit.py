"""Words of a sound changed, its timing kept: prompt-to-prompt (Hertz et al. 2022).

The sound of a prompt and seed is made again, and beside it the sound of the edited prompt, from the
same noise and with attention maps of the first: arXiv 2208.01626, section 3.2.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.diffusion.attention import prompt_to_prompt
from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.diffusion.tokens import align_tokens
from auffusion_cli.errors import AuffusionWarning
from auffusion_cli.requests.request import EditRequest, GenerateRequest, GenerateSettings
from auffusion_cli.tasks.attention import torch_unet
from auffusion_cli.tasks.edits import OnProgress
from auffusion_cli.tasks.generate import GenerateResult, decode

if TYPE_CHECKING:
    from auffusion_cli.model import Model
    from auffusion_cli.requests.provenance import Provenance


@dataclass(frozen=True)
class WordEditResult:
    """A sound before and after its words were edited."""

    source: GenerateResult
    """The sound that `generate` makes of the prompt and seed, sample for sample."""
    edited: GenerateResult


def edit(
    model: Model,
    request: EditRequest,
    settings: GenerateSettings,
    *,
    on_progress: OnProgress | None = None,
) -> WordEditResult:
    """Make the sound of `request`'s prompt and seed, and its edit; this takes twice as long as one.

    Raises:
        UsageError: an edited word lies beyond what the model reads of the prompt.
        AuffusionError: the model's attention cannot be changed, or the result is not finite.
    """
    words = request.word_edit
    before = GenerateRequest(
        *(request.prompt, request.seed, request.negative_prompt),
        trim=request.trim,
        one_shot=request.one_shot,
    )
    if model.sounds(before, settings.duration_s).names:
        warnings.warn(
            "generate makes the sounds of this prompt apart, edit in one: the original that the"
            " edit is compared with is not the sound that generate gives",
            AuffusionWarning,
            stacklevel=2,
        )
    tokens = align_tokens(model.text, words)
    shape = model.latent_shape(settings.duration_s, settings.windows_at_once)
    noise = initial_noise([request.seed], shape)
    scheduler = model.scheduler(settings)
    scheduler.set_timesteps(settings.steps)
    denoise_source, denoise_edited = (
        model.denoiser([prompt], [request.negative_prompt], settings, scheduler)
        for prompt in (words.source, words.prompt)
    )
    with prompt_to_prompt(
        torch_unet(model, is_changed=True),
        denoise_source,
        denoise_edited,
        tokens,
        cross_until=scheduler.last_timestep(request.cross_steps),
        self_until=scheduler.last_timestep(request.self_steps),
    ) as denoise:
        denoise, noise = model.windowed(denoise, settings), np.concatenate([noise, noise])
        for step in sample(denoise, scheduler, noise, settings.steps):
            if on_progress:
                on_progress(step.index + 1, step.n_steps)
    source = decode(model, step.latents[:1], before, settings)
    edited = decode(model, step.latents[1:], request, settings, source.part)
    return WordEditResult(source, edited)


def is_unlike(again: Provenance, made: Provenance) -> bool:
    """Whether a source that was made again differs from its file where it should be the same.

    Another engine rounds differently, and a source in layers is made in one here.
    """
    comparable = again.engine == made.engine and not made.layers
    return comparable and again.samples_sha256 != made.samples_sha256
