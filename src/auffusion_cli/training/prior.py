"""Prior preservation for a LoRA: sounds of the start, which the result is held to.

DreamBooth (Ruiz et al. 2022, arXiv 2208.12242, section 3.2) trains on pictures of the start beside
the new ones. Here the target on them is what the start itself predicts, not the noise: it is exact,
and the sounds may be few and made in few steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.errors import UsageError
from auffusion_cli.files import atomic_file
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateSettings
from auffusion_cli.training.diffusion_config import LoraConfig
from auffusion_cli.training.encoding import hidden_states
from auffusion_cli.training.samples import scene_seed
from auffusion_cli.training.stage import OnPrepare

MAX_STEPS = 8
BATCH = 4
OWN_PROMPT = 0.5
"""Share of the draws in which a sound has the prompt that it was made of."""


class Prior:
    """N latents of the start, and the hidden states of K prompts that it knows.

    As the target is what the start itself predicts, a latent may be denoised with any of the
    prompts: few sounds hold many.
    """

    def __init__(
        self, latents: Tensor, prompt_of: Sequence[int], hidden_states: Sequence[Tensor]
    ) -> None:
        self.latents = latents
        """(N, C, h, w)"""
        self.prompt_of = torch.tensor(prompt_of)
        """(N,): the number of the prompt that each of them was made of."""
        self.hidden_states = list(hidden_states)
        """(K, T_i, D_i) for each text encoder"""

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The numbers (1,) of a latent and of a prompt for it: its own half of the time."""
        latent = torch.randint(len(self.latents), (1,), generator=generator)
        if torch.rand(1, generator=generator) < OWN_PROMPT:
            return latent, self.prompt_of[latent]
        n_prompts = len(self.hidden_states[0])
        return latent, torch.randint(n_prompts, (1,), generator=generator)

    def take(self, latents: Tensor, prompts: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents (B, C, h, w) and hidden states (B, T_i, D_i) by their numbers (B,)."""
        return self.latents[latents], [states[prompts] for states in self.hidden_states]


def prepare_prior(
    model: Model,
    config: LoraConfig,
    kinds: Sequence[str],
    cache: Path,
    seed: int,
    on_progress: OnPrepare | None = None,
) -> Prior:
    """The prior of `model`; its prompts are `config`'s or `kinds`, its latents stay in `cache`.

    Raises:
        UsageError: there are no prompts.
    """
    known = config.prior_prompts or tuple(kinds)
    if not known:
        raise UsageError(
            "diffusion.lora.prior_prompts: the start states no kinds of sound of its own",
            hint="Name prompts of what is to stay, or: --set diffusion.lora.prior_weight=0.",
        )
    n = config.prior_sounds
    # Spread over all of them where these are more.
    prompt_of = [i * len(known) // n if n < len(known) else i % len(known) for i in range(n)]
    prompts = [known[i] for i in prompt_of]
    steps = min(model.defaults.steps, MAX_STEPS)
    settings = GenerateSettings.from_defaults(model.defaults, steps=steps)
    path = cache / f"prior-{model_digest(model, prompts, asdict(settings), seed)}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        latents = _generate(model, prompts, settings, seed, on_progress)
        with atomic_file(path) as beside, beside.open("wb") as file:
            np.save(file, latents.astype(np.float16))
    latents = torch.from_numpy(np.load(path).astype(np.float32))
    return Prior(latents, prompt_of, hidden_states(model.text, known))


def _generate(
    model: Model,
    prompts: Sequence[str],
    settings: GenerateSettings,
    seed: int,
    on_progress: OnPrepare | None,
) -> np.ndarray:
    """(N, C, h, w) latents of one window each."""
    batches = []
    shape = model.latent_shape(model.defaults.max_duration_s)
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        seeds = [scene_seed(seed, start + i) for i in range(len(some))]
        scheduler = model.scheduler(settings)
        denoise = model.denoiser(some, [""] * len(some), settings, scheduler)
        *_, last = sample(denoise, scheduler, initial_noise(seeds, shape), settings.steps)
        batches.append(last.latents)
        if on_progress is not None:
            on_progress("generating sounds to keep", start + len(some), len(prompts))
    return np.concatenate(batches)


def model_digest(model: Model, *facts: object) -> str:
    """The name of a cache of what `model` makes of `facts`: it changes with either."""
    digest = hashlib.sha256(repr(facts).encode())
    networks = model.networks
    for module in (networks.unet, networks.text_encoders, networks.adapters):
        for name, tensor in () if module is None else module.state_dict().items():
            digest.update(f"{name}{tensor.double().sum().item():.12g}".encode())
    return digest.hexdigest()[:16]
