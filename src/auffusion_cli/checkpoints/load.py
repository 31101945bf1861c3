"""Checkpoint folders <-> `Model`, in both published layouts.

`download` turns a name into a folder, `weights` reads the tensor files. Everything in a folder is
untrusted: sizes and names are checked before they are used.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from auffusion_cli.checkpoints.download import Confirm, Report, resolve
from auffusion_cli.checkpoints.layout import (
    CREDITS_NAME,
    Condition,
    choose_vocoder,
    is_adapter_layout,
    read_conditions,
    read_credits,
    read_identity,
    read_json,
)
from auffusion_cli.checkpoints.weights import (
    find_weights,
    load_weights,
    read_tensors,
    save_weights,
)
from auffusion_cli.codec.autoencoder import load_autoencoder
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.vocoder import GriffinLim, HiFiGAN, fold_weight_norm, load_vocoder
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.device import DTYPES, choose_device, choose_dtype
from auffusion_cli.diffusion.text import ConditionAdapter, TextConditioner, TextEncoder
from auffusion_cli.errors import (
    AuffusionWarning,
    CheckpointError,
    OutputExistsError,
    UsageError,
)
from auffusion_cli.files import folder_of
from auffusion_cli.model import Model

if TYPE_CHECKING:
    from diffusers import ModelMixin, UNet2DConditionModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Vocoder = Literal["auto", "hifigan", "griffin-lim"]


def load_model(
    name_or_path: str | Path = "embedded",
    *,
    device: str = "auto",
    dtype: str = "auto",
    vocoder: Vocoder = "auto",
    confirm: Confirm | None = None,
    on_progress: Report | None = None,
) -> Model:
    """A checkpoint, ready to generate, by known name, Hub id (`org/name[@revision]`) or folder.

    `dtype` is fp32, fp16, bf16 or auto: fp16 on a CUDA device, fp32 elsewhere. `vocoder="auto"` is
    the checkpoint's own choice. `confirm` and `on_progress` are for downloads: see `resolve`.

    Raises:
        UsageError: the device, the precision or the vocoder is not one.
        CheckpointError: there is no such checkpoint, or it is incomplete, damaged, unsafe or
            inconsistent; the file and where possible the tensor are named.
        DownloadError: it could not be fetched.
    """
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    checkpoint = resolve(name_or_path, confirm=confirm, on_progress=on_progress)
    folder = checkpoint.folder
    identity = read_identity(folder)
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    # The UNet comes last: by then what the smaller parts needed for a moment is free again.
    text = load_text(folder, torch_dtype).to(torch_device)
    codec = load_codec(folder, torch_dtype, vocoder, identity.defaults).to(torch_device)
    unet = load_unet(folder, torch_dtype, torch_device)
    _check_fit(folder, text, codec, unet)
    return Model(
        name=checkpoint.name,
        revision=checkpoint.revision,
        licence=identity.licence or checkpoint.licence,
        codec=codec,
        text=text,
        unet=unet,
        scheduler_config=scheduler_config,
        defaults=identity.defaults,
        device=torch_device,
        dtype=torch_dtype,
        credits=read_credits(folder),
    )


def _check_fit(
    folder: Path, text: TextConditioner, codec: Codec, unet: UNet2DConditionModel
) -> None:
    """The parts must agree on the sizes they share; each alone may be whole."""
    n_channels = codec.autoencoder.latent_channels
    if unet.config.in_channels != n_channels or unet.config.out_channels != n_channels:
        raise CheckpointError(
            f"{folder}: the autoencoder's latents have {n_channels} channels, but the UNet takes "
            f"{unet.config.in_channels} and gives {unet.config.out_channels}"
        )
    for i, encoder in enumerate(text.encoders):
        width = encoder.encoder.config.hidden_size
        takes = unet.config.cross_attention_dim
        if text.adapters is not None:
            takes = text.adapters[i].proj.in_features
        if width != takes:
            taker = "UNet" if text.adapters is None else f"adapter {i}"
            raise CheckpointError(
                f"{folder}: text encoder {i} gives {width} channels, but the {taker} takes {takes}"
            )
        if text.adapters is not None:
            gives = text.adapters[i].proj.out_features
            if gives != unet.config.cross_attention_dim:
                raise CheckpointError(
                    f"{folder}: adapter {i} gives {gives} channels, but the UNet's cross-attention "
                    f"takes {unet.config.cross_attention_dim}"
                )


# --- Writing


def save_model(
    model: Model,
    folder: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `model` as a folder that `load_model` takes, in the layout it came in.

    Weights are safetensors, in `dtype` (fp32, fp16, bf16; None: as they are). The folder is written
    beside and renamed, so that it is whole or not there.

    Raises:
        OutputExistsError: `folder` exists and `overwrite` is not set.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} exists", hint="--overwrite replaces it.")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is not known; valid: {', '.join(DTYPES)}")
    torch_dtype = DTYPES[dtype] if dtype else model.dtype
    with (
        folder_of(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary,
    ):
        beside = Path(temporary) / "new"
        beside.mkdir()
        _write_model(model, beside, torch_dtype)
        if folder.exists():
            os.rename(folder, Path(temporary) / "old")  # deleted with the temporary folder
        os.rename(beside, folder)
    return folder


def _write_model(model: Model, folder: Path, dtype: torch.dtype) -> None:
    _write_part(model.unet, folder / "unet", dtype)
    autoencoder = model.codec.autoencoder
    # KLAutoencoder wraps the diffusers model that is saved; PatchAutoencoder is one.
    _write_part(getattr(autoencoder, "vae", autoencoder), folder / "vae", dtype)
    _write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler_config))
    defaults = model.defaults
    if isinstance(model.codec.vocoder, HiFiGAN):
        vocoder = model.codec.vocoder
        _write_json(folder / "vocoder" / "config.json", asdict(vocoder.config))
        path = folder / "vocoder" / "vocoder.safetensors"
        save_weights(fold_weight_norm(vocoder.state_dict(), path), path, dtype)
    else:
        defaults = replace(defaults, vocoder="griffin-lim")
    _write_text(model.text, folder, dtype)
    identity = {"name": Path(model.name).name, "licence": model.licence}
    _write_json(
        folder / "auffusion.json",
        {"format_version": 1}
        | {name: value for name, value in identity.items() if value}
        | {"generation": asdict(defaults)},
    )
    if model.credits is not None:
        (folder / CREDITS_NAME).write_text(model.credits, "utf-8")


def _write_text(text: TextConditioner, folder: Path, dtype: torch.dtype) -> None:
    if text.adapters is None:
        (encoder,) = text.encoders
        _write_text_encoder(encoder, folder / "text_encoder", folder / "tokenizer", dtype)
        classes = {
            "text_encoder": ["transformers", type(encoder.encoder).__name__],
            "tokenizer": ["transformers", type(encoder.tokenizer).__name__],
        }
        for part in ("unet", "vae", "scheduler"):
            config = folder / part / ("scheduler_config" if part == "scheduler" else "config")
            class_name = read_json(config.with_suffix(".json"))["_class_name"]
            classes[part] = ["diffusers", class_name]
        unused = ("feature_extractor", "safety_checker", "image_encoder")
        index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        index |= classes | {part: [None, None] for part in unused}
        _write_json(folder / "model_index.json", index)
        return

    conditions = []
    for i, (encoder, adapter) in enumerate(zip(text.encoders, text.adapters, strict=True)):
        condition = Condition(
            text_encoder_name=f"text_encoder_{i}",
            condition_adapter_name=f"condition_adapter_{i}",
            condition_dim=adapter.proj.in_features,
            cross_attention_dim=adapter.proj.out_features,
            condition_max_length=encoder.max_length,
            condition_type=f"{encoder.encoder.config.model_type}_text",
            pretrained_model_name_or_path=encoder.source,
        )
        encoder_folder = folder / condition.text_encoder_name
        _write_text_encoder(encoder, encoder_folder, encoder_folder, dtype)
        adapter_folder = folder / condition.condition_adapter_name
        sizes = ("condition_dim", "cross_attention_dim")
        names = ("text_encoder_name", "condition_adapter_name")
        entry = asdict(condition)
        _write_json(adapter_folder / "config.json", {key: entry[key] for key in names + sizes})
        path = adapter_folder / "condition_adapter.safetensors"
        save_weights(adapter.state_dict(), path, dtype)
        conditions.append(entry)
    _write_json(folder / "condition_config.json", conditions)


def _write_text_encoder(
    encoder: TextEncoder, model_folder: Path, tokenizer_folder: Path, dtype: torch.dtype
) -> None:
    model = encoder.encoder
    if model.dtype != dtype:
        model = copy.deepcopy(model).to(dtype)
    with _quiet_transformers():
        model.save_pretrained(model_folder)
        encoder.tokenizer.save_pretrained(tokenizer_folder)


def _write_part(module: ModelMixin, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    module.save_config(folder)
    save_weights(module.state_dict(), folder / "diffusion_pytorch_model.safetensors", dtype)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


# --- Parts


def load_text(folder: Path, dtype: torch.dtype, *, weights: bool = True) -> TextConditioner:
    """The text encoders of either layout, with their adapters.

    Without `weights` it cannot encode, but tells what of a prompt will be cut, in no time.
    """
    load_encoder = load_text_encoder if weights else _empty_text_encoder
    if not is_adapter_layout(folder):
        encoder = load_encoder(folder / "text_encoder", dtype)
        tokenizer = load_tokenizer(folder / "tokenizer")
        positions = getattr(encoder.config, "max_position_embeddings", None)
        if positions is None:
            raise CheckpointError(
                f"{folder / 'text_encoder'}: states no number of positions; Stable Diffusion's "
                "layout is read with a CLIP text encoder only"
            )
        # A tokenizer that states no length has 10 ** 30.
        max_length = min(tokenizer.model_max_length, positions)
        return TextConditioner(
            [TextEncoder(tokenizer, encoder, max_length, pads_tokens=True)], adapters=None
        ).eval()

    encoders, adapters = [], []
    for condition in read_conditions(folder):
        encoder_folder = folder / condition.text_encoder_name
        # Before the tokenizer, whose loader may look into the encoder's config, too.
        model = load_encoder(encoder_folder, dtype)
        encoder = TextEncoder(
            load_tokenizer(encoder_folder),
            model,
            condition.condition_max_length,
            source=condition.pretrained_model_name_or_path,
        )
        with torch.device("meta"):
            adapter = ConditionAdapter(condition.condition_dim, condition.cross_attention_dim)
        if weights:
            adapter_folder = folder / condition.condition_adapter_name
            load_weights(adapter, find_weights(adapter_folder, "condition_adapter"), dtype)
        encoders.append(encoder)
        adapters.append(adapter)
    return TextConditioner(encoders, adapters).eval()


def load_text_encoder(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The language model of `folder`, its class by `architectures` in its config."""
    architecture, config, model_class, options = _read_text_config(folder)
    files = find_weights(folder, "model", "pytorch_model", dtype=dtype)
    tensors = {name: tensor for _, name, tensor in read_tensors(files)}
    try:
        with _quiet_transformers():
            encoder, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{files[0]}: cannot be loaded as {architecture}: {error}") from error
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise CheckpointError(
            f"{files[0]}: tensor {name!r} is {tuple(found)}, "
            f"but its config asks for {tuple(wanted)}"
        )
    # Nothing here looks at pooled outputs, and some checkpoints are saved without a pooler.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise CheckpointError(f"{files[0]}: lacks {len(missing)} tensors, such as {missing[0]!r}")
    return encoder


def _empty_text_encoder(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The language model of `folder` without its weights, for its sizes."""
    _, config, model_class, options = _read_text_config(folder)
    with torch.device("meta"):
        return model_class(config, **options).to(dtype)


def _read_text_config(folder: Path) -> tuple[str, Any, type[PreTrainedModel], dict]:
    """(architecture, config, class, options to make it) of the language model of `folder`."""
    from transformers import AutoConfig

    config_json = read_json(folder / "config.json")
    try:
        architecture = str((config_json.get("architectures") or ["none"])[0])
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return architecture, config, *_text_model_class(architecture, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not a text encoder: {error}") from error


def _text_model_class(architecture: str, config: Any) -> tuple[type[PreTrainedModel], dict]:
    """The class whose `last_hidden_state` the original takes, and options to make it."""
    import transformers

    if "T5" in architecture:
        return transformers.T5EncoderModel, {}
    if architecture.startswith(("CLIPText", "ClapText")):
        return getattr(transformers, architecture), {}
    if config.model_type not in ("bert", "roberta", "distilbert", "mpnet", "electra", "albert"):
        raise ValueError(
            f"architecture {architecture!r} ({config.model_type}); it can be CLIPTextModel, "
            "T5EncoderModel, ClapTextModel or a BERT-like model"
        )
    model_class = transformers.AutoModel._model_mapping[type(config)]
    takes_pooler = config.model_type in ("bert", "roberta", "mpnet", "albert")
    return model_class, {"add_pooling_layer": False} if takes_pooler else {}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder`, from its files alone."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{folder}: cannot load the tokenizer: {error}") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no report from transformers: the caller checks and reports."""
    from transformers.utils import logging

    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()


def load_codec(
    folder: Path,
    dtype: torch.dtype,
    vocoder: Vocoder = "auto",
    defaults: GenerationDefaults = GenerationDefaults(),  # noqa: B008
) -> Codec:
    """Autoencoder in `dtype`, vocoder in float32."""
    chosen = choose_vocoder(folder, vocoder, defaults)
    if vocoder == "auto" and chosen != defaults.vocoder:
        warnings.warn(
            f"{folder} has no vocoder: the sound is made with Griffin-Lim",
            AuffusionWarning,
            stacklevel=3,
        )
    return Codec(
        load_autoencoder(folder / "vae", dtype),
        load_vocoder(folder / "vocoder") if chosen == "hifigan" else GriffinLim(),
    ).eval()


def load_unet(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> UNet2DConditionModel:
    """The UNet, created without memory and filled a tensor at a time."""
    unet = empty_unet(folder)
    files = find_weights(folder / "unet", "diffusion_pytorch_model", dtype=dtype)
    load_weights(unet, files, dtype, device)
    return unet.eval()


def empty_unet(folder: Path) -> UNet2DConditionModel:
    """The UNet without its weights, for the names and sizes of its layers."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = read_json(folder / "unet" / "config.json")
    try:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'unet' / 'config.json'}: {error}") from error
