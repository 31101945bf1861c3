"""What the stages of whole models write: the checkpoint, and preview sounds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.errors import UsageError
from auffusion_cli.files import replace_folder
from auffusion_cli.model import Model
from auffusion_cli.pictures.spectrogram import save_spectrogram
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.tasks.generate import generate
from auffusion_cli.training.diffusion_config import DiffusionConfig
from auffusion_cli.training.run_folder import RESULT_NAME

MAX_PREVIEW_STEPS = 25
"""Of previews without `diffusion.preview.steps`."""


def export_model(model: Model, folder: Path) -> None:
    """Write the checkpoint's parts into `folder`, beside its other contents."""
    unet = model.networks.unet
    unet.eval()
    unfinished = folder / RESULT_NAME
    for part in save_model(model, unfinished, overwrite=True).iterdir():
        if part.is_dir():
            replace_folder(part, folder / part.name)
        else:
            part.replace(folder / part.name)
    unfinished.rmdir()
    unet.train()


class Previews:
    """The preview prompts' sounds and spectrograms, always from the same noise."""

    def __init__(self, model: Model, config: DiffusionConfig) -> None:
        """Impossible prompts or settings are UsageErrors."""
        self._model = model
        self._requests = [GenerateRequest(p, seed=0) for p in config.preview_prompts]
        few_steps = min(model.defaults.steps, MAX_PREVIEW_STEPS)
        asked = {name: value for name, value in asdict(config.preview).items() if value is not None}
        try:
            self.settings = GenerateSettings.from_defaults(
                model.defaults, **{"steps": few_steps} | asked
            )
        except UsageError as error:
            raise UsageError(f"diffusion.preview: {error.message}", hint=error.hint) from error

    def write(self, folder: Path, step: int) -> None:
        """One .wav and .png for each prompt, named after `step`."""
        unet = self._model.networks.unet
        unet.eval()
        folder.mkdir(parents=True, exist_ok=True)
        results = generate(self._model, self._requests, self.settings)
        for index, result in enumerate(results):
            path = folder / f"step-{step:08d}-{index}.wav"
            write_audio(path, result.waveform, result.sample_rate_hz)
            save_spectrogram(
                result.log_mel, path.with_suffix(".png"), self._model.codec.spectrogram_config
            )
        unet.train()
