"""Give the embedded model a weighted mean of its UNet's weights and those of a fine-tuned one.

    python recipes/embedded/average_unets.py --before weights/embedded --after runs/finetuned \
        -o runs/averaged

Halfway between a model and its fine-tuning lies one that often does better than both (Wortsman et
al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903); with `--share 1` it is the
fine-tuned one alone. Everything else is that of `--before`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from checksums import write_checksums  # a recipe's scripts import their neighbours
from safetensors import safe_open
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="a checkpoint's folder")
    parser.add_argument("--after", type=Path, required=True, help="a checkpoint's or run's folder")
    parser.add_argument("--share", type=float, default=0.5, help="of the weights after, 0 to 1")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    average(arguments.before, arguments.after, arguments.output, arguments.share)


def average(before: Path, after: Path, output: Path, share: float = 0.5) -> None:
    """Write ``output``; its tensors have the types and the order of ``before``.

    Raises SystemExit where a folder has no UNet, or the UNets differ in their tensors.
    """
    for option, folder in (("--before", before), ("--after", after)):
        if not (folder / UNET).is_file():
            raise SystemExit(f"{option} {folder}: there is no {UNET} in it")
    tensors, tuned = load_file(before / UNET), load_file(after / UNET)
    with safe_open(before / UNET, "pt") as file:
        metadata = file.metadata()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != {name: tensor.shape for name, tensor in tuned.items()}:
        raise SystemExit(f"--after {after}: its UNet is another one than that of --before")
    shutil.copytree(before, output)
    means = {
        name: torch.lerp(t.float(), tuned[name].float(), share).to(t.dtype)
        for name, t in tensors.items()
    }
    save_file(means, output / UNET, metadata=metadata)
    write_checksums(output)


if __name__ == "__main__":
    main()
