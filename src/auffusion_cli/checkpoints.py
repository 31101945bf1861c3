"""Finds and loads checkpoints: known names, Hub ids and folders, in both published layouts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from auffusion_cli.autoencoder import load_autoencoder
from auffusion_cli.codec import Codec
from auffusion_cli.config import GenerationDefaults, ImageConfig, SpectrogramConfig
from auffusion_cli.errors import AuffusionWarning, CheckpointError, UsageError
from auffusion_cli.model import Model
from auffusion_cli.samplers import SCHEDULERS
from auffusion_cli.text import ConditionAdapter, TextConditioner, TextEncoder
from auffusion_cli.vocoder import GriffinLim, load_vocoder
from auffusion_cli.weights import find_weights, load_weights, read_json, read_tensors

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import PreTrainedModel

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VOCODERS = ("hifigan", "griffin-lim")
Vocoder = Literal["auto", "hifigan", "griffin-lim"]


def load_model(
    name_or_path: str | Path = "embedded",
    *,
    device: str = "auto",
    dtype: str = "auto",
    vocoder: Vocoder = "auto",
) -> Model:
    """A checkpoint, ready to generate.

    `dtype` is fp32, fp16, bf16 or auto: fp16 on a CUDA device, fp32 elsewhere. `vocoder="auto"` is
    the checkpoint's own choice. Raises CheckpointError where the folder is incomplete, damaged,
    unsafe or inconsistent.
    """
    torch_device, torch_dtype = choose_device(device), None
    torch_dtype = choose_dtype(dtype, torch_device)
    folder = Path(name_or_path)
    identity = read_identity(folder)
    # The UNet comes last: by then what the smaller parts needed for a moment is free again.
    text = load_text(folder, torch_dtype).to(torch_device)
    codec = load_codec(folder, torch_dtype, vocoder, identity.defaults).to(torch_device)
    unet = load_unet(folder, torch_dtype, torch_device)
    return Model(
        name=str(name_or_path),
        revision=None,
        licence=identity.licence,
        codec=codec,
        text=text,
        unet=unet,
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        defaults=identity.defaults,
        device=torch_device,
        dtype=torch_dtype,
    )


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is not a device; try auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no CUDA device here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: torch sees no MPS device here")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is fp16 on CUDA and fp32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"--dtype {name!r} is not known; valid: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


# --- What a checkpoint says about itself


@dataclass(frozen=True)
class Identity:
    """The contents of `auffusion.json`, or what stands for it in a checkpoint that has none."""

    name: str | None = None
    licence: str | None = None
    defaults: GenerationDefaults = GenerationDefaults()


def read_identity(folder: Path) -> Identity:
    """`auffusion.json` of `folder`, every field checked; the paper's defaults where there is none."""
    path = folder / "auffusion.json"
    if not path.exists():
        return Identity()
    content = read_json(path)
    if content.get("format_version") != 1:
        raise CheckpointError(
            f"{path}: format_version is {content.get('format_version')!r}; this program reads 1"
        )
    _check_fields(
        path, content, {"format_version": int, "name": str, "licence": str} | {"generation": dict}
    )
    generation = content.get("generation", {})
    types = {field.name: type(field.default) for field in fields(GenerationDefaults)}
    _check_fields(path, generation, types)
    defaults = GenerationDefaults(**generation)
    if not 0 < defaults.duration_s <= defaults.max_duration_s:
        raise CheckpointError(
            f"{path}: duration_s is {defaults.duration_s} s and max_duration_s "
            f"{defaults.max_duration_s} s; 0 < duration_s <= max_duration_s must hold"
        )
    if not 1 <= defaults.steps <= 1000:
        raise CheckpointError(f"{path}: steps is {defaults.steps}; it must be 1 to 1000")
    if not 0 <= defaults.guidance_rescale <= 1:
        raise CheckpointError(
            f"{path}: guidance_rescale is {defaults.guidance_rescale}; it must be 0 to 1"
        )
    for field, valid in (("scheduler", tuple(SCHEDULERS)), ("vocoder", VOCODERS)):
        value = getattr(defaults, field)
        if value not in valid:
            raise CheckpointError(f"{path}: {field} is {value!r}; valid: {', '.join(valid)}")
    return Identity(content.get("name"), content.get("licence"), defaults)


def _check_fields(path: Path, content: dict[str, Any], types: dict[str, type]) -> None:
    for name, value in content.items():
        if name not in types:
            raise CheckpointError(f"{path}: unknown field {name!r}; known: {', '.join(types)}")
        accepted = (int, float) if types[name] is float else types[name]
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise CheckpointError(
                f"{path}: {name} is {value!r}; it must be of type {types[name].__name__}"
            )


def is_adapter_layout(folder: Path) -> bool:
    """True for Auffusion's layout, False for Stable Diffusion's; CheckpointError for neither."""
    if (folder / "condition_config.json").is_file():
        return True
    if (folder / "model_index.json").is_file():
        return False
    raise CheckpointError(
        f"{folder}: not a checkpoint: it has neither condition_config.json (Auffusion's layout) "
        "nor model_index.json (Stable Diffusion's)"
    )


# --- Parts


def load_text(folder: Path, dtype: torch.dtype) -> TextConditioner:
    """The text encoders of either layout, with their adapters."""
    if not is_adapter_layout(folder):
        tokenizer = _load_tokenizer(folder / "tokenizer")
        encoder = load_text_encoder(folder / "text_encoder", dtype)
        max_length = tokenizer.model_max_length
        return TextConditioner(
            [TextEncoder(tokenizer, encoder, max_length, pads_tokens=True)], adapters=None
        ).eval()

    config_path = folder / "condition_config.json"
    encoders, adapters = [], []
    for entry in read_json(config_path, list):
        condition = Condition.from_json(entry, config_path)
        encoder_folder = folder / condition.text_encoder_name
        encoder = TextEncoder(
            _load_tokenizer(encoder_folder),
            load_text_encoder(encoder_folder, dtype),
            condition.condition_max_length,
            source=condition.pretrained_model_name_or_path,
        )
        with torch.device("meta"):
            adapter = ConditionAdapter(condition.condition_dim, condition.cross_attention_dim)
        adapter_folder = folder / condition.condition_adapter_name
        load_weights(adapter, find_weights(adapter_folder, "condition_adapter"), dtype)
        encoders.append(encoder)
        adapters.append(adapter)
    if not encoders:
        raise CheckpointError(f"{config_path}: names no text encoder")
    return TextConditioner(encoders, adapters).eval()


@dataclass(frozen=True)
class Condition:
    """One entry of `condition_config.json`."""

    text_encoder_name: str
    condition_adapter_name: str
    condition_dim: int
    cross_attention_dim: int
    condition_max_length: int = 77
    condition_type: str = ""
    pretrained_model_name_or_path: str = ""

    @classmethod
    def from_json(cls, entry: Any, path: Path) -> Condition:
        known = {field.name for field in fields(cls)}
        try:
            condition = cls(**{name: entry[name] for name in known & entry.keys()})
        except (TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a list of conditions: {error}") from error
        for name in (condition.text_encoder_name, condition.condition_adapter_name):
            if not isinstance(name, str) or name != Path(name).name:
                raise CheckpointError(f"{path}: {name!r} is not the name of a folder beside it")
        for name in ("condition_dim", "cross_attention_dim", "condition_max_length"):
            size = getattr(condition, name)
            if not isinstance(size, int) or not 1 <= size <= 65536:
                raise CheckpointError(f"{path}: {name} is {size!r}; it must be 1 to 65536")
        return condition


def load_text_encoder(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The language model of `folder`, its class by `architectures` in its config."""
    from transformers import AutoConfig

    config_json = read_json(folder / "config.json")
    architecture = (config_json.get("architectures") or ["none"])[0]
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model_class, options = _text_model_class(architecture, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not a text encoder: {error}") from error

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


def _load_tokenizer(folder: Path):
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
    if vocoder not in ("auto", *VOCODERS):
        raise UsageError(f"--vocoder {vocoder!r} is not known; valid: auto, {', '.join(VOCODERS)}")
    chosen = defaults.vocoder if vocoder == "auto" else vocoder
    if chosen == "hifigan" and not (folder / "vocoder").is_dir():
        if vocoder == "hifigan":
            raise CheckpointError(f"{folder}: has no vocoder", hint="Try --vocoder griffin-lim.")
        warnings.warn(
            f"{folder} has no vocoder: the sound is made with Griffin-Lim",
            AuffusionWarning,
            stacklevel=3,
        )
        chosen = "griffin-lim"
    spectrogram_config, image_config = SpectrogramConfig(), ImageConfig()
    return Codec(
        load_autoencoder(folder / "vae", dtype),
        load_vocoder(folder / "vocoder") if chosen == "hifigan" else GriffinLim(spectrogram_config),
        spectrogram_config,
        image_config,
    ).eval()


def load_unet(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> UNet2DConditionModel:
    """The UNet, created without memory and filled a tensor at a time."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = read_json(folder / "unet" / "config.json")
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'unet' / 'config.json'}: {error}") from error
    files = find_weights(folder / "unet", "diffusion_pytorch_model", dtype=dtype)
    load_weights(unet, files, dtype, device)
    return unet.eval()
