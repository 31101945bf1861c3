"""How many samples a second a network of the embedded model's shape learns from, compiled and not.

    python benchmarks/train.py --device cuda

The steps are those of `auffusion train` on data that is already there: bf16 on a GPU, float32 on a
CPU, AdamW, clipped gradients. What a run reaches besides reading, composing and drawing is what it
prints while it trains.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from auffusion_cli.training.config_file import load_config

RECIPE = Path(__file__).parents[1] / "recipes/embedded/diffusion.yaml"
LATENT_SHAPE = (32, 16, 32)
N_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, help="by default 512 on a GPU, 8 on a CPU")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    device = torch.device(options.device)
    options.batch_size = options.batch_size or (512 if device.type == "cuda" else 8)
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, batches of {options.batch_size}")
    for compiled in (False, True):
        first_s, step_s = measure(device, options.batch_size, options.steps, compiled)
        print(
            f"{'compiled' if compiled else 'as it is':9} {options.batch_size / step_s:8.1f} "
            f"samples/s, {1e3 * step_s:.1f} ms a step; the first two steps {first_s:.0f} s",
            flush=True,
        )


def measure(
    device: torch.device, batch_size: int, n_steps: int, compiled: bool
) -> tuple[float, float]:
    """Seconds of the first two steps together, median of the others."""
    torch.manual_seed(0)
    config = load_config(RECIPE, {}).diffusion.unet
    n_channels, *size = LATENT_SHAPE
    unet = UNet2DConditionModel(
        **config, sample_size=tuple(size), in_channels=n_channels, out_channels=n_channels
    ).to(device)
    if compiled:
        unet.compile()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=device.type == "cuda")
    target = torch.randn(batch_size, *LATENT_SHAPE, device=device)
    text = torch.randn(batch_size, N_TOKENS, config["cross_attention_dim"], device=device)
    timesteps = torch.randint(1000, (batch_size,), device=device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = unet(target, timesteps, encoder_hidden_states=text).sample
        (output.float() - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step() + step(), statistics.median(step() for _ in range(n_steps))


if __name__ == "__main__":
    main()
