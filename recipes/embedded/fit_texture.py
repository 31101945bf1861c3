"""Teach a patch autoencoder how much texture its decoded images lack.

    python recipes/embedded/fit_texture.py --vae runs/autoencoder/vae --data DATA -o runs/vae

The codec's residual on a patch of rain varies as much as what the codec loses of white noise; on a
steady tone it hardly varies, though it may be large. So a small network learns the variance of the
part of the residual that is neither a line in time nor one in frequency, relative to that of white
noise in the same row, by the likelihood of a normal distribution. Everything else stays as it is,
and so do the latents. It takes two minutes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from auffusion_cli.codec.codec import white_noise_texture
from auffusion_cli.codec.log_mel import LogMelModule, normalize_peak
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.codec.tensor_image import log_mel_to_image, pad_image
from auffusion_cli.config import ImageConfig
from auffusion_cli.errors import AuffusionError
from auffusion_cli.signal.spectrogram import LogMel
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.data import load_clips
from auffusion_cli.training.scenes import compose

SCENES = SceneConfig(duration_s=5.12, mix_probability=0.3, kind_balance=0.5, max_repeats=4)
WHITE_NOISE_S = 120
MIN_VARIANCE = 0.01
"""Of the residual, relative to white noise's. Less is not heard, and that of silence is 0."""
BATCH = 8


def with_texture(model: PatchAutoencoder, channels: int) -> PatchAutoencoder:
    """The same autoencoder in float32, with a new part that predicts texture."""
    sizes = {name: value for name, value in model.config.items() if not name.startswith("_")}
    extended = PatchAutoencoder(**sizes | {"texture_channels": channels})
    kept = {n: t.float() for n, t in model.state_dict().items() if not n.startswith("texture.")}
    extended.load_state_dict(kept, strict=False)
    return extended


def decoded_images(
    model: PatchAutoencoder, log_mel: LogMelModule, store: ClipStore, n_scenes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W) images of composed scenes, and what the model decodes of their latents."""
    images, decoded = [], []
    for index in range(n_scenes):
        waveform = compose(store, SCENES, seed + index).waveform
        image = log_mel_to_image(log_mel(normalize_peak(waveform[None])))[:, :1]
        image = pad_image(image, image.shape[-1] + -image.shape[-1] % model.downsample)
        images.append(image)
        decoded.append(model.decode(model.encode(image))[:, :1])
        print(f"\rscenes: {index + 1} of {n_scenes}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return torch.cat(images), torch.cat(decoded)


def white_noise_variance(model: PatchAutoencoder, log_mel: LogMelModule) -> Tensor:
    """(1, 1, h, 1): `patch_variance` of what the components lose of white noise, by row."""
    n_samples = WHITE_NOISE_S * log_mel.config.sample_rate_hz
    noise = torch.randn(1, n_samples, generator=torch.Generator().manual_seed(0))
    texture = white_noise_texture(LogMel(log_mel.config), noise.numpy())
    texture = torch.from_numpy(texture).flip(-2)[:, None]
    texture = texture[..., : texture.shape[-1] // model.downsample * model.downsample]
    lost = model.lost(texture)
    return patch_variance(lost, model.config.patch_size).mean(dim=(0, 3), keepdim=True)


def patch_variance(image: Tensor, patch_size: int) -> Tensor:
    """(B, 1, H, W) -> (B, 1, h, w): variance in each patch but for its lines.

    Differences over half a patch, along time and along frequency, take away what is constant along
    either; of independent values they have four times the variance.
    """
    half = patch_size // 2
    patches = image.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    along_time = patches[..., half:] - patches[..., :half]
    along_both = along_time[..., half:, :] - along_time[..., :half, :]
    return along_both.square().mean(dim=(-1, -2)) / 4


def negative_log_likelihood(log_variance: Tensor, variance: Tensor) -> Tensor:
    """Of a normal residual with this variance in each patch, but for constants."""
    return (log_variance + variance * torch.exp(-log_variance)).mean()


def fit(
    model: PatchAutoencoder, decoded: Tensor, variance: Tensor, n_steps: int, seed: int
) -> tuple[float, float]:
    """Train `model.texture`; the loss on an eighth of the scenes, held out, before and after."""
    n_held_out = len(decoded) // 8
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.texture.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.005, n_steps)

    @torch.no_grad()
    def held_out_loss() -> float:
        predicted = model.texture_log_variance(decoded[:n_held_out])
        return negative_log_likelihood(predicted, variance[:n_held_out]).item()

    before = held_out_loss()
    for _ in range(n_steps):
        rows = torch.randint(n_held_out, len(decoded), (BATCH,), generator=generator)
        loss = negative_log_likelihood(model.texture_log_variance(decoded[rows]), variance[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return before, held_out_loss()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", type=Path, required=True, help="folder of a PatchAutoencoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder, may be --vae")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        store = ClipStore(
            load_clips(args.data, "train").clips, LogMelModule().config.sample_rate_hz
        )
    except AuffusionError as error:
        sys.exit(f"error: {error}")
    torch.manual_seed(args.seed)
    model = with_texture(PatchAutoencoder.from_pretrained(args.vae), args.channels)
    log_mel, image_config = LogMelModule(), ImageConfig()
    neper = image_config.log_mel_max - image_config.log_mel_min
    with torch.no_grad():
        images, decoded = decoded_images(model, log_mel, store, args.scenes, args.seed)
        variance = patch_variance((images - decoded) * neper, model.config.patch_size)
        variance = variance / white_noise_variance(model, log_mel)
    before, after = fit(model, decoded, variance.clamp(min=MIN_VARIANCE), args.steps, args.seed)
    print(f"held-out loss: {before:.3f} before, {after:.3f} after")
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
