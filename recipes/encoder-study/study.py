"""Compare text encoders: train with each, generate the same prompts, measure, and write a page.

    python recipes/encoder-study/study.py recipes/encoder-study/embedded.yaml -o runs/encoder-study

A *cell* is one encoder, or several whose outputs are concatenated. All cells have the same start,
seed and training samples, which are encoded once. Stopped at any moment, the same command
continues; a cell that is finished is not made again, and one that is added to the file is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import AuffusionError, AuffusionWarning, UsageError
from auffusion_cli.evaluation.result import Evaluation, System
from auffusion_cli.files import atomic_folder
from auffusion_cli.parsing import decode, read_yaml
from auffusion_cli.requests.prompts import read_prompts_file
from auffusion_cli.training.config import TrainingConfig
from auffusion_cli.training.config_file import load_config
from auffusion_cli.training.run_folder import CACHE_NAME, CLIP_CHECK_NAME, CONFIG_NAME

MODELS_IN_A_PICTURE = 4
"""As many as `auffusion attention` draws side by side."""
TIMED_STEPS = 2


@dataclass(frozen=True)
class Encoder:
    """A text encoder of the study; see `diffusion.text_encoders` in docs/training-keys.md."""

    path: str
    name: str = ""
    max_length: int = 77
    pretrained: bool = True
    """False: the same network with fresh weights, and the same tokenizer."""


@dataclass(frozen=True)
class Judge:
    """What `auffusion evaluate` measures with."""

    backbone: str
    weights: str | None = None
    """Folder of its weights, where it needs one."""


@dataclass(frozen=True)
class Study:
    """The file of a study. Paths are relative to the current folder."""

    training: str
    """Settings that all cells share, as `auffusion train --config` takes them."""
    data: str
    prompts: str
    """List of prompts for `auffusion generate --prompts`."""
    reference: str
    """Folder of the prompts' real sounds."""
    encoders: dict[str, Encoder]
    cells: dict[str, tuple[str, ...]]
    """Name -> encoders, in the order of their tokens."""
    judges: tuple[Judge, ...] = (Judge("embedded"),)
    attention: tuple[str, ...] = ()
    """Prompts whose attention maps are drawn."""
    names: str = "{name}"
    """Name of a sound, of the columns of the list of prompts."""
    seed: int = 1

    @classmethod
    def read(cls, path: Path) -> Study:
        """Raises a UsageError where the file is not a study."""
        try:
            study = decode(cls, read_yaml(path, raising=UsageError))
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
        for cell, encoders in study.cells.items():
            if unknown := [name for name in encoders if name not in study.encoders]:
                raise UsageError(f"{path}: cells: {cell}: no encoder is called {unknown[0]!r}")
        return study


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="file that names encoders and cells")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda …")
    parser.add_argument(
        "--dry-run", action="store_true", help="time a few steps and say how long it would take"
    )
    options = parser.parse_args(arguments)
    try:
        study = Study.read(options.study)
        if options.dry_run:
            show_hours(study, options.device)
            return
        folder = options.output
        for cell in study.cells:
            train(study, folder, cell, options.device)
            generate(study, folder, cell, options.device)
        draw_attention(study, folder, options.device)
        evaluate(study, folder, options.device)
        print(write_page(study, folder))
    except AuffusionError as error:
        sys.exit(f"error: {error.message}")


def auffusion(*arguments: object) -> None:
    """Run a command of the package; where it fails the study ends with its exit code."""
    texts = list(map(str, arguments))
    if code := build_app()(texts, prog_name="auffusion", standalone_mode=False):
        sys.exit(code)


# The steps of a cell -----------------------------------------------------------------------------


def cell_folder(folder: Path, cell: str) -> Path:
    return folder / "cells" / cell


def train(study: Study, folder: Path, cell: str, device: str) -> None:
    """Train the cell, or the rest of it; Ctrl-C ends the study with a checkpoint."""
    run = cell_folder(folder, cell)
    last = f"step-{load_config(Path(study.training), {}).loop.max_steps:08}"
    if (run / "checkpoints" / last).is_dir():
        return
    encoders = [as_setting(study, folder, name) for name in study.cells[cell]]
    settings = {"diffusion.name": cell, "diffusion.text_encoders": encoders}
    share_preparations(folder, run)
    auffusion(
        *("train", "--config", study.training, "--data", study.data, "-o", run),
        *("--device", device, "--skip-bad", "--yes"),
        *(f"--set={key}={json.dumps(value)}" for key, value in settings.items()),
        *(["--resume"] if (run / CONFIG_NAME).is_file() else []),
    )
    if not (run / "checkpoints" / last).is_dir():
        sys.exit(f"{cell} is not finished; the same command continues")


def as_setting(study: Study, folder: Path, name: str) -> dict[str, Any]:
    """An entry of `diffusion.text_encoders`; a network without pretraining is made first."""
    encoder = study.encoders[name]
    path = encoder.path
    if not encoder.pretrained:
        path = str(folder / "encoders" / name)
        if not Path(path).is_dir():
            forget(encoder.path, Path(path), study.seed)
    return {"path": path, "name": encoder.name or name, "max_length": encoder.max_length}


def forget(encoder: str, into: Path, seed: int) -> None:
    """Write the text encoder with fresh weights: what the network is without pretraining."""
    import torch

    from auffusion_cli.checkpoints.text import load_tokenizer, save_tokenizer
    from auffusion_cli.checkpoints.text_encoders import load_text_encoder, quiet_transformers
    from auffusion_cli.training.parts import text_encoder_folders

    network_folder, tokenizer_folder = text_encoder_folders(encoder, "encoders")
    network = load_text_encoder(network_folder, torch.float32)
    torch.manual_seed(seed)
    into.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(into) as beside, quiet_transformers():
        type(network)(network.config).save_pretrained(beside)
        save_tokenizer(load_tokenizer(tokenizer_folder), beside)


def share_preparations(folder: Path, run: Path) -> None:
    """Let a new run find what other cells prepared: the check of the clips, and their latents."""
    if run.exists():
        return
    made = sorted((folder / "cells").glob(f"*/{CLIP_CHECK_NAME}"))
    run.mkdir(parents=True)
    if made:
        (run / CLIP_CHECK_NAME).write_bytes(made[0].read_bytes())
    cache = folder / CACHE_NAME
    cache.mkdir(exist_ok=True)
    (run / CACHE_NAME).symlink_to(os.path.relpath(cache, run), target_is_directory=True)


def generate(study: Study, folder: Path, cell: str, device: str) -> None:
    """Generate the prompts, except for the sounds that are there."""
    auffusion(
        *("generate", "--prompts", study.prompts, "--seed", study.seed, "--device", device),
        # As the papers measure; and another seed for a sound with a fault would make cells unequal.
        *("--no-trim", "--no-guards"),
        *("--model", cell_folder(folder, cell), "-o", sounds(folder, cell) / f"{study.names}.flac"),
    )


def sounds(folder: Path, cell: str) -> Path:
    return folder / "sounds" / cell


# All cells side by side --------------------------------------------------------------------------


def draw_attention(study: Study, folder: Path, device: str) -> None:
    """Draw the attention maps of the prompts, the cells side by side."""
    for prompt, path, cells in attention_pictures(study, folder):
        if not path.exists():
            models = [f"--model={cell_folder(folder, cell)}" for cell in cells]
            common = ("--seed", study.seed, "--device", device, "-o", path)
            auffusion("attention", prompt, *common, *models)


def attention_pictures(study: Study, folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """(prompt, picture, its cells)"""
    cells = list(study.cells)
    for number, prompt in enumerate(study.attention, 1):
        for first in range(0, len(cells), MODELS_IN_A_PICTURE):
            some = cells[first : first + MODELS_IN_A_PICTURE]
            yield prompt, folder / "attention" / f"{number}-{'-'.join(some)}.png", some


def evaluate(study: Study, folder: Path, device: str) -> None:
    """Measure all cells with each judge; features that are known are not computed again."""
    for judge in study.judges:
        auffusion(
            *("evaluate", "--reference", study.reference, "--prompts", study.prompts),
            *("--backbone", judge.backbone, "--device", device, "--overwrite", "--yes"),
            *(["--weights", judge.weights] if judge.weights else []),
            *("-o", result_file(folder, judge)),
            *(f"--system={cell}={sounds(folder, cell)}" for cell in study.cells),
        )


def result_file(folder: Path, judge: Judge) -> Path:
    return folder / "results" / f"{judge.backbone}.json"


def write_page(study: Study, folder: Path) -> Path:
    """One page with the numbers of all judges, the attention maps and the sounds."""
    from auffusion_cli.evaluation.report import write_report

    path = folder / "report.html"
    results = [Evaluation.load(result_file(folder, judge)) for judge in study.judges]
    pictures = [(prompt, file) for prompt, file, _ in attention_pictures(study, folder)]
    write_report(merge(results), path, attention=pictures, overwrite=True)
    return path


def merge(results: Sequence[Evaluation]) -> Evaluation:
    """Results of the same sounds by several judges, whose metrics have different names, as one."""
    first = results[0]

    def merged(of_judges: Sequence[System]) -> System:
        rows = [
            replace(of_clip[0], scores={k: v for row in of_clip for k, v in row.scores.items()})
            for of_clip in zip(*(system.rows for system in of_judges), strict=True)
        ]
        metrics = tuple(metric for system in of_judges for metric in system.metrics)
        return replace(of_judges[0], metrics=metrics, rows=tuple(rows))

    return replace(
        first,
        protocol=", ".join(result.protocol for result in results),
        backbones={k: v for result in results for k, v in result.backbones.items()},
        systems=tuple(map(merged, zip(*(result.systems for result in results), strict=True))),
        notes=tuple(dict.fromkeys(note for result in results for note in result.notes)),
    )


# How long it takes -------------------------------------------------------------------------------


def show_hours(study: Study, device: str) -> None:
    """Time a few steps of a pretrained encoder's cell, with its parts loaded, and extrapolate."""
    known = [name for name, encoder in study.encoders.items() if encoder.pretrained]
    entry = [as_setting(study, Path(), known[0])]
    config = load_config(Path(study.training), {"diffusion.text_encoders": entry})
    n_prompts = len(read_prompts_file(Path(study.prompts)))
    total_s = 0.0
    print(f"{'CELL':24} {'TRAINING':>10} {'SOUNDS':>10}   tokens, encoders")
    for cell, encoders in study.cells.items():
        n_tokens = sum(study.encoders[name].max_length for name in encoders)
        step_s, sound_s = time_model(config, n_tokens, device)
        training_s, sounds_s = step_s * config.loop.max_steps, sound_s * n_prompts
        total_s += training_s + sounds_s
        print(
            f"{cell:24} {training_s / 3600:8.2f} h {sounds_s / 3600:8.2f} h   "
            f"{n_tokens}, {' + '.join(encoders)}"
        )
    print(f"{total_s / 3600:.1f} hours for {len(study.cells)} cells, and some minutes to measure")


def time_model(config: TrainingConfig, n_tokens: int, device_name: str) -> tuple[float, float]:
    """(seconds a training step, seconds a sound) with `n_tokens` of text."""
    import torch

    from auffusion_cli.device import choose_device
    from auffusion_cli.training.start import build_model

    device, loop = choose_device(device_name), config.loop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AuffusionWarning)  # `train` says them
        model = build_model(config.diffusion, device, config.scenes.duration_s)
    unet, defaults = model.networks.unet.train(), model.defaults
    n_samples = loop.batch_size // loop.gradient_accumulation
    latents = torch.randn(n_samples, *model.codec.latent_shape(config.scenes.duration_s))
    text = torch.randn(n_samples, n_tokens, unet.config.cross_attention_dim)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(loop.mixed_precision)

    def predict(n: int) -> torch.Tensor:
        inputs = latents[:n].to(device), torch.zeros(n, device=device)
        casting = nullcontext() if precision is None else torch.autocast(device.type, precision)
        with casting:
            return unet(*inputs, encoder_hidden_states=text[:n].to(device)).sample

    def train_step() -> None:
        for _ in range(loop.gradient_accumulation):
            predict(n_samples).float().square().mean().backward()

    @torch.no_grad()
    def pass_of_one() -> None:
        predict(1)

    n_passes = defaults.steps * (1 if defaults.guidance_scale == 1 else 2)
    return seconds(train_step), seconds(pass_of_one) * n_passes


def seconds(work: Callable[[], object]) -> float:
    """Seconds that `work()` takes, after one that warms up."""
    import torch

    for number in range(TIMED_STEPS + 1):
        if number == 1:
            started_s = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return (time.perf_counter() - started_s) / TIMED_STEPS


if __name__ == "__main__":
    main()
