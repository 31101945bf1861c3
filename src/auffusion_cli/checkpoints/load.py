"""Checkpoint folder -> `Model`, in both published layouts, with the networks of either engine.

Only the engine that is asked for is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from auffusion_cli.checkpoints.download import Confirm, Report, resolve
from auffusion_cli.checkpoints.families import Family, find_family
from auffusion_cli.checkpoints.layout import (
    choose_vocoder,
    part_folders,
    read_credits,
    read_identity,
)
from auffusion_cli.checkpoints.lora_file import check_loras
from auffusion_cli.checkpoints.schedule import read_scheduler_config
from auffusion_cli.checkpoints.text import load_text
from auffusion_cli.checkpoints.vocabulary import load_vocabulary
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.waves import WaveCodec
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.diffusion.text import TextConditioner, TextEncoder, TextReader
from auffusion_cli.diffusion.vocabulary import Vocabulary
from auffusion_cli.diffusion.whole_prompts import TimedPrompts, WholePrompts
from auffusion_cli.engines.choose import Choice, choose_engine
from auffusion_cli.errors import AuffusionWarning, CheckpointError
from auffusion_cli.model import Model
from auffusion_cli.requests.loras import LoraChoice

if TYPE_CHECKING:
    from auffusion_cli.engines.networks import Networks, NetworkSizes

Vocoder = Literal["auto", "hifigan", "griffin-lim"]
Engine = Literal["auto", "torch", "onnx"]


class EngineLoader(Protocol):
    """How an engine loads networks, on a device and in a precision that it has."""

    def text(self, folder: Path, *, is_brief: bool = False, n_rows: int = 0) -> Networks:
        """Those of the text encoders, with their adapters, alone; `is_brief` where they are to be
        called a few times only. The UNet may be made ready where it will be called after them, with
        `n_rows` rows."""
        ...

    def whole(self, folder: Path, text: Networks | None, *, vocoder: bool) -> Networks:
        """All of them, with those of `text` where these are loaded; the vocoder if wanted."""
        ...


class TextPart:
    """What of a checkpoint is about words; it can be had before the rest, and is loaded once."""

    def __init__(
        self, folder: Path, engine: str = "torch", device: str = "auto", dtype: str = "auto"
    ) -> None:
        self.folder = folder
        self._place = engine, device, dtype
        self.is_brief = False
        """Whether the conditioner is wanted for a few prompts, and nothing after them."""
        self.networks: Networks | None = None
        """Of the text encoders, once they have begun to load."""

    def begin(self, *, n_rows: int = 0) -> Networks:
        """Load the networks of the text encoders, by ONNX Runtime in a thread with the UNet where
        that will be called with `n_rows` rows."""
        if self.networks is None:
            loader = choose_loader(*self._place)
            self.networks = loader.text(self.folder, is_brief=self.is_brief, n_rows=n_rows)
        return self.networks

    @cached_property
    def reader(self) -> TextReader:
        """What of a prompt the text encoders read; takes no network."""
        return load_text(self.folder)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        return load_vocabulary(self.folder)

    @cached_property
    def conditioner(self) -> TextConditioner:
        """The text encoders with their networks."""
        return TextConditioner(self.reader.encoders, self.begin())

    def check_vocabulary(self, sizes: NetworkSizes) -> None:
        """Raise a CheckpointError where it is of another text encoder."""
        if self.vocabulary is None:
            return
        width, n_channels = sizes.text_widths[0], self.vocabulary.sentences.shape[1]
        if n_channels != width:
            raise CheckpointError(
                f"{self.folder}: text encoder 0 gives {width} channels, but the vocabulary's "
                f"sentences have {n_channels}"
            )


def load_model(
    name_or_path: str | Path = "embedded",
    *,
    device: str = "auto",
    dtype: str = "auto",
    vocoder: Vocoder = "auto",
    engine: Engine = "auto",
    loras: Sequence[LoraChoice] = (),
    confirm: Confirm | None = None,
    on_progress: Report | None = None,
    text: TextPart | None = None,
) -> Model:
    """A checkpoint, ready to generate, by known name, Hub id (`org/name[@revision]`) or folder.

    `dtype` is fp32, fp16, bf16 or auto: fp16 on a CUDA device, fp32 elsewhere. `vocoder="auto"` is
    the checkpoint's own choice. `engine="auto"` is onnx where the checkpoint has graphs and there
    is no GPU, else torch. `loras` are merged into the UNet, for which auto is torch. `confirm` and
    `on_progress` are for downloads: see `resolve`. `text` is what may have been loaded of this
    checkpoint before, by the same engine.

    Raises:
        UsageError: the device, the precision, the vocoder or the engine is not one.
        CheckpointError: there is no such checkpoint, or it is incomplete, damaged, unsafe or
            inconsistent; the file and where possible the tensor are named.
        DownloadError: it could not be fetched.
    """
    if engine != "auto":
        choose_loader(engine, device, dtype)  # refuses before anything is downloaded
    check_loras(loras)
    checkpoint = resolve(name_or_path, confirm=confirm, on_progress=on_progress)
    folder = checkpoint.folder
    if loras and (family := find_family(folder)):
        raise family.refuse("a LoRA")
    needs_torch = "a LoRA" if loras else None
    chosen = choose_engine_of(folder, engine, device, dtype, needs_torch=needs_torch)
    loader = choose_loader(chosen.engine, device, dtype)
    text = text or TextPart(folder)
    identity, family = read_identity(folder), find_family(folder)
    scheduler_config = read_scheduler_config(folder)
    encoders = text.reader.encoders
    has_vocoder = _has_vocoder(folder, vocoder, identity.defaults)
    networks = loader.whole(folder, text.networks, vocoder=has_vocoder)
    text.check_vocabulary(networks.sizes)
    if loras:
        from auffusion_cli.checkpoints.lora import apply_loras

        apply_loras(networks.unet, loras)
    return Model(
        name=checkpoint.name,
        revision=checkpoint.revision,
        licence=identity.licence or checkpoint.licence,
        networks=networks,
        codec=_codec(networks, family),
        text=_conditioner(encoders, networks, family),
        scheduler_config=scheduler_config,
        defaults=identity.defaults,
        credits=read_credits(folder),
        vocabulary=text.vocabulary,
        loras=tuple(lora.record() for lora in loras),
        fills_window=family is None or family.fills_window,
    )


def load_codec(
    folder: Path,
    vocoder: Vocoder = "auto",
    defaults: GenerationDefaults = GenerationDefaults(),  # noqa: B008
    *,
    device: str = "auto",
) -> Codec:
    """The codec of a checkpoint's folder alone, in fp32, by torch."""
    import torch

    from auffusion_cli.checkpoints.load_torch import load_codec_networks
    from auffusion_cli.device import choose_device

    has_vocoder = _has_vocoder(folder, vocoder, defaults)
    torch_device = choose_device(device)
    if family := find_family(folder):
        if family.codes_waveforms:
            raise family.refuse_waveforms("codec")
        from auffusion_cli.checkpoints.load_families import load_family_codec

        networks = load_family_codec(folder, torch_device, torch.float32, vocoder=has_vocoder)
        return Codec(networks, spectrogram_config=family.spectrogram)
    return Codec(load_codec_networks(folder, torch_device, torch.float32, vocoder=has_vocoder))


def choose_loader(engine: str, device: str, dtype: str) -> EngineLoader:
    """The loader of an engine; UsageError where it has no such device or precision."""
    if engine == "torch":
        from auffusion_cli.checkpoints.load_torch import TorchLoader

        return TorchLoader(device, dtype)
    from auffusion_cli.checkpoints.load_onnx import OnnxLoader

    return OnnxLoader(device, dtype)


def choose_engine_of(
    folder: Path,
    engine: str,
    device: str = "auto",
    dtype: str = "auto",
    *,
    needs_torch: str | None = None,
) -> Choice:
    """The engine for the checkpoint in `folder`; see `engines.choose.choose_engine`."""
    if family := find_family(folder):
        return choose_engine(engine, device=device, dtype=dtype, needs_torch=family.name)
    missing = None if engine == "torch" else part_folders(folder).missing()
    return choose_engine(
        engine, device=device, dtype=dtype, missing_graph=missing, needs_torch=needs_torch
    )


def _codec(networks: Networks, family: Family | None) -> Codec | WaveCodec:
    if family is None:
        return Codec(networks)
    if family.codes_waveforms:
        return WaveCodec(networks, family.spectrogram)
    return Codec(networks, spectrogram_config=family.spectrogram)


def _conditioner(
    encoders: Sequence[TextEncoder], networks: Networks, family: Family | None
) -> TextConditioner | WholePrompts | TimedPrompts:
    if family is None:
        return TextConditioner(encoders, networks)
    kind = TimedPrompts if family.codes_waveforms else WholePrompts
    return kind(encoders, networks.condition)


def _has_vocoder(folder: Path, vocoder: Vocoder, defaults: GenerationDefaults) -> bool:
    """Whether the checkpoint's own vocoder is used, with a warning where auto finds none."""
    chosen = choose_vocoder(folder, vocoder, defaults)
    if vocoder == "auto" and chosen == "griffin-lim" != defaults.vocoder:
        warnings.warn(
            f"{folder} has no vocoder: the sound is made with Griffin-Lim",
            AuffusionWarning,
            stacklevel=3,
        )
    return chosen == "hifigan"
