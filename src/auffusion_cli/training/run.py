"""A training run: device, stage and loop, as its settings say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.device import choose_device
from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.requests.shards import Shard as Part
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig, TrainingConfig
from auffusion_cli.training.data import Clip
from auffusion_cli.training.effects import check_effects
from auffusion_cli.training.loading import choose_workers
from auffusion_cli.training.loop import StepReport, train
from auffusion_cli.training.preparation import Preparation
from auffusion_cli.training.records import RecordSet
from auffusion_cli.training.run_folder import CACHE_NAME
from auffusion_cli.training.sharding import Sharding
from auffusion_cli.training.stage import OnPrepare, Stage

if TYPE_CHECKING:
    from auffusion_cli.diffusion.text import TextReader
    from auffusion_cli.model import Model
    from auffusion_cli.training.latents import ExampleSource, LatentCache

Sounds = tuple[Clip, ...] | RecordSet | Path
"""Clips that were checked; sounds that are read one after the other; a folder of latents."""
PREPARATION_LIMIT = timedelta(days=2)
"""Time limit of the other processes while the main one checks clips or fills caches, for which
torch's default of some minutes is too short."""


def join_processes(device: str) -> PartialState:
    """This process among those of `accelerate launch`; alone without it.

    Raises:
        UsageError: the device does not exist.
    """
    # Without a GPU accelerate joins processes only with `cpu`.
    on_cpu = choose_device(device).type == "cpu"
    return PartialState(cpu=on_cpu, timeout=PREPARATION_LIMIT)


def run(
    config: TrainingConfig,
    clips: Sounds,
    output: Path,
    *,
    device: str = "auto",
    resume: bool,
    held_out: Sounds = (),
    sharding: Sharding | None = None,
    on_prepare: OnPrepare | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> int:
    """Train `config.stage` on `clips`; returns the number of steps done. `held_out` are for
    `loop.validate_every_steps`. With `sharding` networks are split over the processes.

    `output` receives checkpoints, logs and caches, and at the end the trained part: a whole
    checkpoint folder (diffusion, distill), `vae/` (autoencoder) or `vocoder/` (vocoder).

    Raises:
        UsageError: a setting is impossible, alone or on this device.
        DataError: there are no clips of `scenes.kinds`.
        CheckpointError: the checkpoint or parts to start from cannot be loaded.
    """
    started_s = time.monotonic()
    check_effects(config)
    processes = join_processes(device)
    precision = config.loop.mixed_precision
    if precision == "fp16" and processes.device.type == "cpu":
        raise UsageError("loop.mixed_precision: fp16 needs a GPU", hint="Valid on a CPU: no, bf16.")
    try:
        accelerator = Accelerator(cpu=processes.device.type == "cpu", mixed_precision=precision)
    except ValueError as error:
        raise UsageError(
            f"loop.mixed_precision: {precision!r} is not possible here: {error}"
        ) from error
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the steps have few different shapes
    # Before the stage is built: fresh weights are drawn there.
    set_seed(config.seed)
    told = on_prepare if accelerator.is_main_process else None
    # Latents and trajectories are computed by all processes together. Other caches are filled by
    # the main process, and read by the others.
    together = config.stage == "distill" or (
        config.stage == "diffusion" and config.scenes.n_cached != 0
    )
    with nullcontext() if together else accelerator.main_process_first():
        preparation = Preparation(processes, on_progress=told)
        stage = build_stage(config, clips, output, accelerator.device, preparation, held_out)
    return train(
        stage,
        config,
        accelerator,
        output,
        resume=resume,
        sharding=sharding,
        started_s=started_s,
        on_step=on_step,
        stop_requested=stop_requested,
    )


def build_stage(
    config: TrainingConfig,
    clips: Sounds,
    output: Path,
    device: torch.device,
    preparation: Preparation,
    held_out: Sounds = (),
) -> Stage:
    """The stage that `config` describes, its frozen inputs computed and cached."""
    listed = clips if isinstance(clips, tuple) else ()
    store = ClipStore(_of_kinds(listed, config.scenes), SpectrogramConfig().sample_rate_hz)
    n_workers = choose_workers(config.loop.workers, device)

    def read_clips() -> None:
        """Called before the workers start, which share the memory of that moment."""
        if n_workers:
            store.preload(partial(preparation.tell, "reading sounds"))

    if config.stage == "distill":
        return _build_distillation(config, store, output, device, preparation)
    if config.stage == "diffusion":
        from auffusion_cli.training.latents import FreshScenes
        from auffusion_cli.training.start import build_model

        model = build_model(config.diffusion, device, config.scenes.duration_s)
        if preparation.is_main:
            warn_of_long_captions(model.text, store.clips)
        if config.scenes.n_cached == 0:
            read_clips()
            source = FreshScenes(model.codec, model.text, store, config.scenes)
            preparation = replace(preparation, processes=None)  # the others wait for this one
        else:
            root = output / CACHE_NAME
            source = _latents(config, clips, model, root, preparation, store, read_clips)
        return _build_diffusion(config, model, source, held_out, output, preparation)
    read_clips()
    if config.stage == "vocoder":
        from auffusion_cli.training.vocoder import VocoderStage

        return VocoderStage(config, store, device)
    if config.autoencoder.kind == "patch":
        from auffusion_cli.training.patch_autoencoder import PatchAutoencoderStage

        return PatchAutoencoderStage(config, store, device, preparation.on_progress)
    from auffusion_cli.training.autoencoder import AutoencoderStage

    return AutoencoderStage(config, store, device)


def _build_diffusion(
    config: TrainingConfig,
    model: Model,
    source: ExampleSource,
    held_out: Sounds,
    output: Path,
    preparation: Preparation,
) -> Stage:
    """The stage on latents of `source`, with a LoRA's prior and the latents held out."""
    from auffusion_cli.training.diffusion import DiffusionStage
    from auffusion_cli.training.prior import prepare_prior
    from auffusion_cli.training.start import vocabulary_of_start

    cache = output / CACHE_NAME
    lora, prior, unseen = config.diffusion.lora, None, None
    if lora.rank is not None and lora.prior_weight:
        vocabulary = vocabulary_of_start(config.diffusion)
        known = () if vocabulary is None else vocabulary.kinds
        prior = prepare_prior(model, lora, known, cache, config.seed, preparation.on_progress)
    if config.loop.validate_every_steps is not None:
        if isinstance(held_out, tuple):
            held_out = _of_kinds(held_out, SceneConfig(kinds=config.scenes.kinds))
        as_they_are = replace(config, scenes=SceneConfig(duration_s=config.scenes.duration_s))
        unseen = _latents(as_they_are, held_out, model, cache, preparation)
    return DiffusionStage(model, source, config.diffusion, prior, unseen)


def _build_distillation(
    config: TrainingConfig,
    store: ClipStore,
    output: Path,
    device: torch.device,
    preparation: Preparation,
) -> Stage:
    """The teacher's trajectories, and the student, which begins as the teacher."""
    from auffusion_cli.training.distill import DistillStage
    from auffusion_cli.training.start import build_model, vocabulary_of_start
    from auffusion_cli.training.trajectories import (
        draw_captions,
        prepare_trajectories,
        student_of,
    )

    teacher = build_model(config.diffusion, device, config.scenes.duration_s)
    # Of the text nothing changes, so that the wordings that the teacher knows are its own.
    teacher = replace(teacher, vocabulary=vocabulary_of_start(config.diffusion))
    trajectories = prepare_trajectories(
        teacher,
        draw_captions(store, config.scenes, config.seed),
        config.distill,
        output / CACHE_NAME,
        config.seed,
        preparation,
    )
    student = student_of(teacher, config.distill.steps)
    return DistillStage(student, trajectories, config.diffusion)


def warn_of_long_captions(text: TextReader, clips: Iterable[Clip]) -> None:
    """Warn once of captions of which the text encoders see only a part."""
    from auffusion_cli.training.encoding import CaptionCount

    count = CaptionCount(text)
    count.add(dict.fromkeys(caption for clip in clips for caption in clip.captions))
    count.warn()


def precompute(
    config: TrainingConfig,
    sounds: Sounds,
    output: Path,
    *,
    device: str = "auto",
    held_out: Sounds | None = None,
    part: Part | None = None,
    on_prepare: OnPrepare | None = None,
) -> dict[str, int]:
    """Encode what the diffusion stage needs of `sounds` into `output`; returns how many by split.

    A folder of it is the `Sounds` of a later run, of the same text encoders and autoencoder. With a
    `part` only this one of the shards is made; once all are, a run without it makes it whole.
    Raises as `run` does.
    """
    from auffusion_cli.training.start import build_model

    processes = join_processes(device)
    set_seed(config.seed)
    told = on_prepare if processes.is_main_process else None
    preparation = Preparation(processes, part, told)
    model = build_model(config.diffusion, processes.device, config.scenes.duration_s)
    counts = {}
    for split, of_split in (("train", sounds), ("val", held_out)):
        if of_split is not None:
            if isinstance(of_split, tuple) and processes.is_main_process:
                warn_of_long_captions(model.text, of_split)
            root = output / split
            source = _latents(config, of_split, model, root, preparation)
            if source is not None:
                counts[split] = len(source)
    return counts


def _latents(
    config: TrainingConfig,
    sounds: Sounds,
    model: Model,
    root: Path,
    preparation: Preparation,
    store: ClipStore | None = None,
    before_composing: Callable[[], None] = lambda: None,
) -> LatentCache | None:
    """The latents of `sounds`, which are made under `root` where they are missing; None for only a
    part of them."""
    from auffusion_cli.training.latents import open_latents, prepare

    scenes, seed = config.scenes, config.seed
    if isinstance(sounds, Path):
        return open_latents(sounds, model.codec, model.text, scenes)
    if isinstance(sounds, RecordSet):
        from auffusion_cli.training.streams import prepare_records

        return prepare_records(root, model, sounds, scenes, seed, config.skip_bad, preparation)
    if store is None:
        store = ClipStore(_of_kinds(sounds, scenes), SpectrogramConfig().sample_rate_hz)
    n_workers = choose_workers(config.loop.workers, model.networks.torch_device)
    return prepare(
        root,
        model.codec,
        model.text,
        store,
        scenes,
        seed,
        preparation,
        n_workers,
        before_composing,
    )


def _of_kinds(clips: tuple[Clip, ...], scenes: SceneConfig) -> tuple[Clip, ...]:
    """The clips of the kinds that `scenes` names; of all, if it names none."""
    for key, named in (("kinds", scenes.kinds), ("kind_weights", scenes.kind_weights)):
        if absent := sorted(set(named) - {clip.kind for clip in clips}):
            raise DataError(f"scenes.{key}: the data has no clips of kind {', '.join(absent)}")
    return tuple(clip for clip in clips if not scenes.kinds or clip.kind in scenes.kinds)
