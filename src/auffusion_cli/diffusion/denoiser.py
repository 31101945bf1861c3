"""UNet, conditioning and guidance composed into one callable: `denoise(latents, timestep)`.

Samplers and tasks use nothing below it. Masks, attention edits and sliding windows are wrappers of
this callable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from auffusion_cli.diffusion.text import Conditioning

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(latents (B, C, h, w), timestep ()) -> the guided model output, (B, C, h, w).

The output is the checkpoint's prediction type, noise or velocity, as its scheduler config says.
"""


def guided_denoiser(
    unet: torch.nn.Module,
    conditioning: Conditioning,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022) around `unet`.

    `conditioning` has one row for each row of the latents. Both branches go through the UNet in
    one call; at a scale of 1 the guided output equals the conditional one, which is then all that
    is computed. The UNet runs in its own precision and the result returns in that of the latents,
    so that a sampler may keep its state in float32.
    """
    dtype = next(unet.parameters()).dtype

    def predict(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        output = unet(latents.to(dtype), timestep, encoder_hidden_states=text.to(dtype)).sample
        return output.to(latents.dtype)

    if guidance_scale == 1.0:
        return lambda latents, timestep: predict(latents, timestep, conditioning.cond)

    both = torch.cat([conditioning.uncond, conditioning.cond])

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        uncond, cond = predict(torch.cat([latents, latents]), timestep, both).chunk(2)
        guided = uncond + guidance_scale * (cond - uncond)
        return rescale_guidance(guided, cond, guidance_rescale) if guidance_rescale else guided

    return denoise


def rescale_guidance(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Pull the spread of `guided` back towards that of `cond`, by `amount` in 0..1.

    High scales inflate the output and over-expose the result. Lin et al. 2023 (arXiv 2305.08891),
    section 3.4, equations 15 and 16. Both tensors are (B, C, h, w); each row has its own spread.
    """
    rows = tuple(range(1, cond.ndim))
    matched = guided * (cond.std(dim=rows, keepdim=True) / guided.std(dim=rows, keepdim=True))
    return amount * matched + (1.0 - amount) * guided
