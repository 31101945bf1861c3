"""A training run from its configuration: data, stage, loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.training.config import TrainingConfig
from auffusion_cli.training.data import Clip
from auffusion_cli.training.loop import Progress, Stage, train
from auffusion_cli.training.scenes import ClipStore

CACHE_NAME = "cache"


def run(
    config: TrainingConfig,
    clips: tuple[Clip, ...],
    output: Path,
    *,
    device: str = "auto",
    resume: bool,
    on_prepare: Callable[[str, int, int], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> int:
    """Train `config.stage` on `clips`; returns the number of steps done.

    `output` receives checkpoints, logs and caches, and at the end the trained part: a whole
    checkpoint folder (diffusion), `vae/` (autoencoder) or `vocoder/` (vocoder).
    """
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=config.loop.mixed_precision,
    )
    # Before the stage is built: fresh weights are drawn there.
    set_seed(config.seed)
    # The main process fills the caches; the others find them full.
    with accelerator.main_process_first():
        quiet = None if not accelerator.is_main_process else on_prepare
        stage = build_stage(config, clips, output, accelerator.device, quiet, resume=resume)
    return train(
        stage,
        config,
        accelerator,
        output,
        resume=resume,
        on_step=on_step,
        stop_requested=stop_requested,
    )


def build_stage(
    config: TrainingConfig,
    clips: tuple[Clip, ...],
    output: Path,
    device: torch.device,
    on_prepare: Callable[[str, int, int], None] | None,
    *,
    resume: bool,
) -> Stage:
    """The stage that `config` describes, its frozen inputs computed and cached."""
    store = ClipStore(_of_kinds(clips, config.scenes.kinds), SpectrogramConfig().sample_rate_hz)
    if config.stage == "diffusion":
        from auffusion_cli.training.diffusion import DiffusionStage, build_model
        from auffusion_cli.training.latents import prepare

        model = build_model(config.diffusion, device, config.scenes.duration_s)
        window_s = model.defaults.max_duration_s
        if config.diffusion.init_from is not None and config.scenes.duration_s > window_s:
            raise UsageError(
                f"scenes.duration_s: {config.scenes.duration_s:g} s is more than the window of "
                f"{config.diffusion.init_from}, {window_s:g} s"
            )
        cache = prepare(
            output / CACHE_NAME,
            model.codec,
            model.text,
            store,
            config.scenes,
            config.seed,
            on_prepare,
        )
        return DiffusionStage(model, cache, config.diffusion)
    if config.stage == "vocoder":
        from auffusion_cli.training.vocoder import VocoderStage

        return VocoderStage(config, store, device)
    if config.autoencoder.kind == "patch":
        from auffusion_cli.training.patch_autoencoder import PatchAutoencoderStage

        return PatchAutoencoderStage(config, store, device, on_prepare)
    from auffusion_cli.training.autoencoder import AutoencoderStage

    return AutoencoderStage(config, store, device)


def _of_kinds(clips: tuple[Clip, ...], kinds: tuple[str, ...]) -> tuple[Clip, ...]:
    """The clips of the named kinds; all where none is named."""
    if absent := sorted(set(kinds) - {clip.kind for clip in clips}):
        raise DataError(f"scenes.kinds: the data has no clips of kind {', '.join(absent)}")
    return tuple(clip for clip in clips if not kinds or clip.kind in kinds)
