"""How many samples a second `auffusion train` learns from, against diffusers' own training loop.

    python benchmarks/training_step.py --size published --device cuda

Both sides train the same UNet by batches of the same captioned sounds. The one is what diffusers'
examples/text_to_image/train_text_to_image.py does with spectrograms as pictures: at each step files
are read, captions are tokenised, frozen networks encode both, and the error of the noise
is minimised by AdamW, clipped, through accelerate. The other is `training.run` as `auffusion train`
calls it, moving average included, on latents and texts that were encoded once; how long that takes
is shown apart. Each side runs in processes of its own, in turns with the other, and leaves before
anything is saved. The published size takes about 18 GB of memory: 16 bytes a weight, 2 GB that the
backward pass needs, and the frozen networks; it is trained without a moving average, as diffusers
does by default, which would take 3 GB more. Ends with an error where the bar is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LEARNING_RATE = 1e-5
MAX_GRAD_NORM = 1.0
MIN_RATIO = 1.3
BATCH_SIZES = {"embedded": 8, "published": 1}
N_SOUNDS = {"embedded": 64, "published": 8}
WINDOW_S = {"embedded": 5.12, "published": 10.24}
SIDES = ("diffusers", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(BATCH_SIZES), default="embedded")
    parser.add_argument("--batch-size", type=int, help="by default 8, of the published size 1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=8, help="in a process (default 8)")
    parser.add_argument("--runs", type=int, default=3, help="processes of each side (default 3)")
    parser.add_argument("--side", choices=("prepare", *SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.batch_size = options.batch_size or BATCH_SIZES[options.size]
    if options.side:
        {"prepare": prepare, "diffusers": by_diffusers, "ours": by_us}[options.side](options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    from importlib.metadata import version

    with tempfile.TemporaryDirectory(prefix="auffusion-training-step-") as folder:
        if options.size == "published":
            from load_memory import WRITE

            subprocess.run([sys.executable, "-c", WRITE, folder, "float16"], check=True)
        encoding_s = in_a_process(options, "prepare", folder)["seconds_a_sound"]
        found = {side: [] for side in SIDES}
        for _ in range(options.runs):
            for side in SIDES:
                found[side] += in_a_process(options, side, folder)["steps_s"]

    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))
    print(f"Python {platform.python_version()}, {libraries}; {os.cpu_count()} cores")
    print(f"{options.size} size on {options.device}, batches of {options.batch_size}")
    print(f"{'':<12}{'samples/s':>10}{'s a step':>10}{'fastest':>10}")
    rates = {}
    for side, steps_s in found.items():
        step_s = statistics.median(steps_s)
        rates[side] = options.batch_size / step_s
        print(f"{side:<12}{rates[side]:>10.2f}{step_s:>10.3f}{min(steps_s):>10.3f}")
    ratio = rates["ours"] / rates["diffusers"]
    print(f"{'ratio':<12}{ratio:>10.2f}; encoding, once: {encoding_s:.3f} s a sound")
    if ratio < MIN_RATIO:
        sys.exit(f"less than {MIN_RATIO} times as many samples a second")


def in_a_process(options: argparse.Namespace, side: str, folder: str) -> dict:
    """What the last line of its output says."""
    command = [sys.executable, __file__, "--side", side, "--folder", folder]
    for name in ("size", "batch_size", "device", "steps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def start_of(options: argparse.Namespace) -> str:
    return "embedded" if options.size == "embedded" else str(options.folder / "sd")


def config_of(options: argparse.Namespace):
    from auffusion_cli.training.config_file import parse_config

    loop = {
        "batch_size": options.batch_size,
        "max_steps": options.steps,
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": MAX_GRAD_NORM,
    }
    if options.size == "published":
        loop["ema_decay"] = None
    diffusion = {"init_from": start_of(options)}
    scenes = {"duration_s": WINDOW_S[options.size]}
    return parse_config({"diffusion": diffusion, "scenes": scenes, "loop": loop}, {})


def prepare(options: argparse.Namespace) -> None:
    """Sounds with captions, their spectrograms as pictures, and their latents."""
    import soundfile
    from PIL import Image

    from auffusion_cli.checkpoints.load import load_model
    from auffusion_cli.codec.image import log_mel_to_image
    from auffusion_cli.training.data import load_clips
    from auffusion_cli.training.run import precompute

    data, pictures = options.folder / "data", options.folder / "pictures"
    data.mkdir()
    pictures.mkdir()
    codec = load_model(start_of(options), engine="torch", device="cpu", dtype="fp32").codec
    sample_rate_hz = codec.spectrogram_config.sample_rate_hz
    n_samples = round(WINDOW_S[options.size] * sample_rate_hz)
    n_sounds = N_SOUNDS[options.size]
    rows = [(f"{i:03}", f"a dog barks {i} times in the rain") for i in range(n_sounds)]
    for i, (name, _) in enumerate(rows):
        sound = np.random.default_rng(i).normal(0, 0.1, n_samples).astype(np.float32)
        soundfile.write(data / f"{name}.wav", sound, sample_rate_hz)
        image = log_mel_to_image(codec.analyze(sound[None]), codec.image_config)[0, 0]
        Image.fromarray(np.uint8(image * 255)).convert("RGB").save(pictures / f"{name}.png")
    with open(data / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *((f"{n}.wav", c) for n, c in rows)])

    clips = load_clips(data).clips
    started_s = time.perf_counter()
    precompute(config_of(options), clips, options.folder / "latents", device=options.device)
    print(json.dumps({"seconds_a_sound": (time.perf_counter() - started_s) / n_sounds}))


def by_us(options: argparse.Namespace) -> None:
    from auffusion_cli.training.run import run
    from auffusion_cli.training.sources import find_latents

    times_s = [time.perf_counter()]

    def on_step(report) -> None:
        times_s.append(time.perf_counter())
        if report.step == report.max_steps:
            leave_with(times_s)

    latents = find_latents(options.folder / "latents", "train")
    output = options.folder / f"run-{os.getpid()}"
    run(config_of(options), latents, output, device=options.device, resume=False, on_step=on_step)


def by_diffusers(options: argparse.Namespace) -> None:
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from torch.utils.data import DataLoader

    from auffusion_cli.checkpoints.load import load_model

    accelerator = Accelerator(cpu=options.device == "cpu")
    device = accelerator.device
    model = load_model(start_of(options), engine="torch", device="cpu", dtype="fp32")
    networks = model.networks.to(device)
    text_encoder, autoencoder = networks.text_encoders[0], networks.autoencoder
    trained = torch.nn.ModuleList([networks.unet, *(networks.adapters or ())])
    trained.requires_grad_(True).train()
    noise_scheduler = DDPMScheduler.from_config(model.scheduler_config)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    loader = DataLoader(_pictures(options, model), options.batch_size, shuffle=True, drop_last=True)
    rate = get_scheduler("constant", optimizer)
    trained, optimizer, loader, rate = accelerator.prepare(trained, optimizer, loader, rate)
    unet, *adapters = accelerator.unwrap_model(trained)

    times_s = [time.perf_counter()]
    while True:
        for pixels, token_ids in loader:
            with accelerator.accumulate(trained):
                with torch.no_grad():
                    latents = autoencoder.encode(pixels)
                    text = text_encoder(token_ids).last_hidden_state
                noise = torch.randn_like(latents)
                n_timesteps = noise_scheduler.config.num_train_timesteps
                timesteps = torch.randint(n_timesteps, (len(latents),), device=device)
                noisy = noise_scheduler.add_noise(latents, noise, timesteps)
                for adapter in adapters:
                    text = adapter(text)
                output = unet(noisy, timesteps, encoder_hidden_states=text).sample
                loss = F.mse_loss(output.float(), noise.float())
                accelerator.gather(loss.repeat(options.batch_size)).mean().item()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(trained.parameters(), MAX_GRAD_NORM)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            loss.detach().item()
            times_s.append(time.perf_counter())
            if len(times_s) > options.steps:
                leave_with(times_s)


def _pictures(options: argparse.Namespace, model):
    """Pixels (3, H, W) and token ids (T,) of each picture, read anew at every epoch."""
    import torch
    from PIL import Image
    from torch.utils.data import Dataset

    encoder = model.text.encoders[0]

    class Pictures(Dataset):
        paths = sorted((options.folder / "pictures").glob("*.png"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int):
            picture = Image.open(self.paths[index]).convert("RGB")
            pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255
            ids = encoder.ids(f"a dog barks {index} times in the rain")
            padded = ids + [encoder.tokenizer.pad_id] * (encoder.max_length - len(ids))
            return pixels.contiguous(), torch.tensor(padded)

    return Pictures()


def leave_with(times_s: list[float]) -> None:
    """Print the seconds of each step but the first two, and end: nothing is saved."""
    print(json.dumps({"steps_s": np.diff(times_s)[2:].tolist()}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
