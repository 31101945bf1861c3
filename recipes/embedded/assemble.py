"""Put the trained parts together as the checkpoint that ships with the package.

    python recipes/embedded/assemble.py --diffusion runs/diffusion --autoencoder runs/autoencoder \
        --sounds data/embedded-sounds -o weights/embedded

Everything becomes fp16 safetensors in the adapter layout; `CREDITS.md` comes with the sounds, and
`SHA256SUMS` lets `auffusion doctor` see that the files are whole. The model card, `README.md`, is
kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from checksums import write_checksums  # a recipe's scripts import their neighbours
from describe_kinds import write_kinds

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.load_torch import load_autoencoder, load_vocoder
from auffusion_cli.checkpoints.onnx_export import write_graphs
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.config import GenerationDefaults

MAX_BYTES = 100_000_000
CONFIG = Path(__file__).with_name("diffusion.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--diffusion", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--vocoder", type=Path, help="without it the model uses Griffin-Lim")
    parser.add_argument("--sounds", type=Path, required=True, help="what build_sounds.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    model = load_model(str(arguments.diffusion), engine="torch", device="cpu", dtype="fp32")
    networks = model.networks
    networks.autoencoder = _same_latents(
        load_autoencoder(arguments.autoencoder / "vae", torch.float32), networks.autoencoder
    )
    if arguments.vocoder is not None:
        networks.vocoder = load_vocoder(arguments.vocoder / "vocoder")
    # How to sample may be settled after the training: the recipe's file has the last word.
    settings = yaml.safe_load(CONFIG.read_text("utf-8"))["diffusion"]
    defaults = GenerationDefaults(**settings["generation"])
    model = replace(model, name="embedded", licence=settings["licence"], defaults=defaults)

    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as temporary:
        built = save_model(model, Path(temporary) / "embedded", dtype="fp16")
        shutil.copy(arguments.sounds / "CREDITS.md", built)
        write_kinds(arguments.sounds, built)
        write_graphs(built)
        write_checksums(built)
        if (arguments.output / "README.md").exists():
            shutil.copy(arguments.output / "README.md", built)
        shutil.rmtree(arguments.output)
        built.rename(arguments.output)

    sizes = {
        path.relative_to(arguments.output).as_posix(): path.stat().st_size
        for path in sorted(arguments.output.rglob("*"))
        if path.is_file()
    }
    print(json.dumps(sizes, indent=2))
    total = sum(sizes.values())
    print(f"{total / 1e6:.1f} MB in all")
    if total > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES / 1e6:.0f} MB")


def _same_latents(refined: torch.nn.Module, trained_on: torch.nn.Module) -> torch.nn.Module:
    """The refined autoencoder, if the diffusion stage has seen its latents."""
    for name in ("patch_mean", "components", "coefficient_scale"):
        if not torch.equal(getattr(refined, name), getattr(trained_on, name)):
            raise SystemExit(
                f"--autoencoder: its {name} is not what the diffusion stage trained on"
            )
    return refined


if __name__ == "__main__":
    main()
