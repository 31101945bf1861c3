"""UNet, conditioning and guidance composed into one callable: `denoise(latents, timestep)`.

Samplers and tasks use nothing below it. Masks, attention edits and sliding windows are wrappers of
this callable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from auffusion_cli.diffusion.text import Conditioning

Denoise = Callable[[np.ndarray, float], np.ndarray]
"""(latents (B, C, h, w), timestep) -> the guided model output, (B, C, h, w), float32.

The output is the checkpoint's prediction type, noise or velocity, as its scheduler config says.
"""
Predict = Callable[[np.ndarray, float, np.ndarray], np.ndarray]
"""(latents (B, C, h, w), timestep, conditioning (B, T, D)) -> the model output; `Networks.predict`.
"""


def guided_denoiser(
    predict: Predict,
    conditioning: Conditioning,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
    is_guided: Callable[[float], bool] = lambda timestep: True,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022) around the UNet that `predict` calls.

    `conditioning` has one row for each row of the latents. Both branches go through the UNet in
    one call; at a scale of 1 the guided output equals the conditional one, which is then all that
    is computed, as it is at the time steps that are not `is_guided`: guidance does least where
    little noise is left (Kynkäänniemi et al. 2024, arXiv 2404.07724).
    """
    if guidance_scale == 1.0:
        return lambda latents, timestep: predict(latents, timestep, conditioning.cond)

    both = np.concatenate([conditioning.uncond, conditioning.cond])

    def denoise(latents: np.ndarray, timestep: float) -> np.ndarray:
        if not is_guided(timestep):
            return predict(latents, timestep, conditioning.cond)
        uncond, cond = np.split(predict(np.concatenate([latents, latents]), timestep, both), 2)
        guided = uncond + guidance_scale * (cond - uncond)
        return rescale_guidance(guided, cond, guidance_rescale) if guidance_rescale else guided

    return denoise


def rescale_guidance(guided: np.ndarray, cond: np.ndarray, amount: float) -> np.ndarray:
    """Pull the spread of `guided` back towards that of `cond`, by `amount` in 0..1.

    High scales inflate the output and over-expose the result. Lin et al. 2023 (arXiv 2305.08891),
    section 3.4, equations 15 and 16. Both are (B, C, h, w); each row has its own spread.
    """
    rows = tuple(range(1, cond.ndim))
    spread = cond.std(axis=rows, keepdims=True) / guided.std(axis=rows, keepdims=True)
    return (amount * spread + (1.0 - amount)) * guided
