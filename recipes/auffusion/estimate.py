"""Estimate the hours and the memory of the recipe on a GPU, without one.

    python recipes/auffusion/estimate.py

Operations and activations of a training step are counted on a network without memory (torch's meta
device), at Stable Diffusion 1.5's size and the recipe's batch. Hours are operations / (peak of the
GPU x its share that training reaches); the share is an assumption. Memory is the state of every
weight, plus the frozen parts, plus the activations of one accumulated part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from auffusion_cli.training.config_file import load_config

RECIPE = Path(__file__).with_name("diffusion.yaml")
LATENT_SHAPE = (4, 32, 128)
N_TOKENS, WIDTH = 77, 768
GPUS = {"RTX 4090, 24 GB": 165, "RTX A6000, 48 GB": 155, "A100, 80 GB": 312, "H100, 80 GB": 989}
"""Dense bf16 TFLOPS by the makers' data sheets."""
STATE_BYTES = {"float32 weights, gradients, AdamW": 16, "moving average": 4}
FROZEN_WEIGHTS = 84_000_000 + 123_000_000 + 14_000_000
"""Autoencoder, CLIP text encoder, vocoder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.35, help="of the peak that is reached")
    share = parser.parse_args().share
    config = load_config(RECIPE, {})
    loop = config.loop
    n_samples = loop.batch_size // loop.gradient_accumulation
    n_weights, n_operations, n_bytes = count(n_samples, config.diffusion.gradient_checkpointing)
    per_sample = n_operations / n_samples
    total = per_sample * loop.batch_size * loop.max_steps
    print(f"UNet: {n_weights / 1e6:.0f} million weights")
    print(f"a sample: {per_sample / 1e12:.2f} TFLOP, forward and backward")
    print(f"{loop.max_steps:,} steps of {loop.batch_size}: {total / 1e18:.1f} million TFLOP")
    for name, tera in GPUS.items():
        hours = total / (tera * 1e12 * share) / 3600
        print(f"  {name}: {hours:.0f} h at {share:.0%} of {tera} TFLOPS")
    for name, n in STATE_BYTES.items():
        print(f"{name}: {n * n_weights / 1e9:.1f} GB")
    print(f"frozen parts: {4 * FROZEN_WEIGHTS / 1e9:.1f} GB")
    print(f"activations of {n_samples} samples: {n_bytes / 1e9:.1f} GB")
    whole = sum(STATE_BYTES.values()) * n_weights + 4 * FROZEN_WEIGHTS + n_bytes
    print(f"together: {whole / 1e9:.0f} GB, and what the libraries take")


def count(n_samples: int, checkpointing: bool) -> tuple[int, int, int]:
    """(weights, operations of a step, bytes of its activations in bf16) for `n_samples`."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1:], cross_attention_dim=WIDTH, attention_head_dim=8
        ).bfloat16()
        latents = torch.empty(n_samples, *LATENT_SHAPE, dtype=torch.bfloat16)
        text = torch.empty(n_samples, N_TOKENS, WIDTH, dtype=torch.bfloat16)
        timesteps = torch.empty(n_samples)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    n_kept = sum(_saved(unet, latents, timesteps, text).values())
    with FlopCounterMode(display=False) as counter:
        unet.train()(latents, timesteps, encoder_hidden_states=text).sample.sum().backward()
    if checkpointing:  # the layer that is computed a second time keeps its own
        unet.disable_gradient_checkpointing()
        n_kept += max(_saved(unet, latents, timesteps, text).values())
    return sum(p.numel() for p in unet.parameters()), counter.get_total_flops(), n_kept


def _saved(unet: UNet2DConditionModel, *inputs: torch.Tensor) -> dict[str, int]:
    """Bytes that a forward pass keeps for the backward pass, by residual block or transformer."""
    latents, timesteps, text = inputs
    kept: dict[int, tuple[str, torch.Tensor]] = {}
    layer = ""

    def enter(name: str):
        def hook(*_) -> None:
            nonlocal layer
            layer = name

        return hook

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[id(tensor)] = layer, tensor  # held, so that no other tensor gets its id
        return tensor

    handles = [
        module.register_forward_pre_hook(enter(name))
        for name, module in unet.named_modules()
        if name.rsplit(".", 2)[-2:-1] in (["resnets"], ["attentions"])
    ]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        unet.train()(latents, timesteps, encoder_hidden_states=text)
    for handle in handles:
        handle.remove()
    n_bytes: dict[str, int] = {}
    for name, tensor in kept.values():
        n_bytes[name] = n_bytes.get(name, 0) + tensor.nbytes
    return n_bytes


if __name__ == "__main__":
    main()
