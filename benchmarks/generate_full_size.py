"""Seconds a sound of a model of the published size, against diffusers' own pipeline.

    python benchmarks/generate_full_size.py --device cuda

Both sides have the same random weights (860 M parameters in the UNet), the same precision, PNDM,
guidance of 7.5, and make sounds of 10 s through the same HiFi-GAN. The one side is what the
original's scripts do: a prompt after the other through `StableDiffusionPipeline`. The other is
`tasks.generate`, one at a time and in batches; on a CPU by ONNX Runtime, too, after `auffusion
models convert --to onnx`. Loading and a first sound of one step are not counted. Also shown on a
GPU, or with --embedded: how many sounds a second the embedded model makes on the same device. On a
CPU one sound of two steps is enough to compare, and takes minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from generate import AUFFUSION
from load_memory import WRITE
from transformers import CLIPTokenizer

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.device import choose_dtype
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import default_batch_size, generate

DURATION_S = 10.0
GUIDANCE_SCALE = 7.5
N_EMBEDDED = {"cpu": 4, "cuda": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto", help="fp32, fp16, bf16; fp16 on a GPU")
    parser.add_argument("--sounds", type=int, help="by default 8 on a GPU, 1 on a CPU")
    parser.add_argument("--steps", type=int, help="by default 100 on a GPU, 2 on a CPU")
    parser.add_argument("--embedded", action="store_true", help="only the embedded model")
    options = parser.parse_args()
    device = torch.device(options.device)
    options.sounds = options.sounds or (8 if device.type == "cuda" else 1)
    options.steps = options.steps or (100 if device.type == "cuda" else 2)
    dtype = choose_dtype(options.dtype, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {dtype}, sounds of {DURATION_S:g} s")
    if not options.embedded:
        measure_full_size(options)
    if options.embedded or device.type == "cuda":
        measure_embedded(options)


def measure_full_size(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="auffusion-full-size-") as temporary:
        subprocess.run([sys.executable, "-c", WRITE, temporary, "float16"], check=True)
        theirs_s = measure_torch(options, Path(temporary, "sd"))
        if options.device == "cpu":
            measure_onnx(options, Path(temporary, "sd"), theirs_s)


def measure_torch(options: argparse.Namespace, folder: Path) -> float:
    """Show both sides by torch; the seconds a sound of diffusers' pipeline."""
    model = load_model(folder, engine="torch", device=options.device, dtype=options.dtype)
    pipeline = as_pipeline(model, CLIPTokenizer.from_pretrained(folder / "tokenizer"))
    prompts, settings = asked(options)
    print(f"\npublished size, {options.steps} steps    seconds a sound   ratio")
    theirs_s = seconds(partial(by_pipeline, model, pipeline), prompts, settings, 1)
    show("diffusers, one at a time", theirs_s, theirs_s)
    for batch_size in dict.fromkeys((1, default_batch_size(model.device))):
        ours_s = seconds(partial(by_us, model), prompts, settings, batch_size)
        show(f"ours, {batch_size} at once", ours_s, theirs_s)
    if model.device == "cuda":
        print(f"peak of the GPU's memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    return theirs_s


def measure_onnx(options: argparse.Namespace, folder: Path, theirs_s: float) -> None:
    with_graphs = folder.with_name("onnx")
    convert = [AUFFUSION, "models", "convert", str(folder), "-o", str(with_graphs)]
    subprocess.run([*convert, "--to", "onnx"], check=True, stdout=subprocess.DEVNULL)
    model = load_model(with_graphs, engine="onnx", device="cpu")
    prompts, settings = asked(options)
    ours_s = seconds(partial(by_us, model), prompts, settings, 1)
    show("ours, by ONNX Runtime", ours_s, theirs_s)


def asked(options: argparse.Namespace) -> tuple[list[str], GenerateSettings]:
    prompts = [f"dog barking in rain, number {i}" for i in range(options.sounds)]
    return prompts, GenerateSettings(
        duration_s=DURATION_S,
        steps=options.steps,
        guidance_scale=GUIDANCE_SCALE,
        guidance_rescale=0.0,
        scheduler="pndm",
    )


def show(side: str, sound_s: float, theirs_s: float) -> None:
    print(f"{side:<25}{sound_s:19.2f}{sound_s / theirs_s:10.2f}", flush=True)


def measure_embedded(options: argparse.Namespace) -> None:
    model = load_model("embedded", engine="torch", device=options.device, dtype=options.dtype)
    settings = GenerateSettings.from_defaults(model.defaults)
    n_sounds = N_EMBEDDED[model.device]
    prompts = ["dog barking in rain"] * n_sounds
    print(f"\nembedded, {settings.steps} steps, sounds of {settings.duration_s:g} s")
    for batch_size in dict.fromkeys((1, default_batch_size(model.device), n_sounds)):
        ours_s = seconds(partial(by_us, model), prompts, settings, batch_size)
        print(f"{batch_size:2} at once: {1 / ours_s:6.1f} sounds a second", flush=True)


def as_pipeline(model: Model, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    networks = model.networks
    pipeline = StableDiffusionPipeline(
        vae=networks.autoencoder.vae,
        text_encoder=networks.text_encoders[0],
        tokenizer=tokenizer,
        unet=networks.unet,
        scheduler=PNDMScheduler.from_config(
            {**model.scheduler_config, "skip_prk_steps": True, "steps_offset": 1}
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def by_pipeline(
    model: Model, pipeline, prompts: list[str], settings: GenerateSettings, batch_size: int
) -> None:
    """One by one, whatever `batch_size` is."""
    n_mels = model.codec.spectrogram_config.n_mels
    n_columns = model.window * model.codec.width_multiple
    for seed, prompt in enumerate(prompts):
        image = pipeline(
            prompt,
            height=n_mels,
            width=n_columns,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
        config = model.codec.image_config
        log_mel = image[:, 0].flip(1) * (config.log_mel_max - config.log_mel_min)
        model.codec.vocode((log_mel.float() + config.log_mel_min).cpu().numpy())


def by_us(model: Model, prompts: list[str], settings: GenerateSettings, batch_size: int) -> None:
    requests = [GenerateRequest(prompt, seed) for seed, prompt in enumerate(prompts)]
    for _ in generate(model, requests, settings, batch_size=batch_size):
        pass


def seconds(
    side: Callable[[list[str], GenerateSettings, int], None],
    prompts: list[str],
    settings: GenerateSettings,
    batch_size: int,
) -> float:
    """A sound's, after a batch has been made in one step."""
    side(prompts[:batch_size], replace(settings, steps=1), batch_size)
    started = time.perf_counter()
    side(prompts, settings, batch_size)
    return (time.perf_counter() - started) / len(prompts)


if __name__ == "__main__":
    main()
