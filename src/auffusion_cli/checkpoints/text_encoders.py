"""Folders of text encoders -> language models and adapters, as torch modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from auffusion_cli.checkpoints.layout import (
    Condition,
    is_adapter_layout,
    read_conditions,
    read_json,
)
from auffusion_cli.checkpoints.meta import build, check_sizes, check_total
from auffusion_cli.checkpoints.weights import (
    TensorInfo,
    find_weights,
    load_weights,
    read_header,
    read_tensors,
)
from auffusion_cli.diffusion.adapter import ConditionAdapter
from auffusion_cli.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BERT_LIKE = ("bert", "roberta", "distilbert", "mpnet", "electra", "albert")
WITH_POOLER = ("bert", "roberta", "mpnet", "albert")
TEXT_AND_MORE = {"clip": "CLIPTextModel", "clap": "ClapTextModelWithProjection"}
"""Model types of which the text part is taken, and its class."""
DROPPED_FIELDS = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "_experts_implementation",
    "experts_implementation",
    "auto_map",
    "dtype",
    "torch_dtype",
)
"""Of a text encoder's config. An attention may be named that transformers would fetch from the Hub
and run, offline or not; the precision is the caller's."""


def load_text_networks(
    folder: Path, dtype: torch.dtype
) -> tuple[list[PreTrainedModel], list[ConditionAdapter] | None]:
    """The text encoders of either layout, and their adapters; None in Stable Diffusion's."""
    if not is_adapter_layout(folder):
        return [load_text_encoder(folder / "text_encoder", dtype)], None
    encoders, adapters = [], []
    for condition in read_conditions(folder):
        encoders.append(load_text_encoder(folder / condition.text_encoder_name, dtype))
        adapters.append(load_adapter(folder, condition, dtype))
    return encoders, adapters


def load_adapter(folder: Path, condition: Condition, dtype: torch.dtype) -> ConditionAdapter:
    """The adapter of one text encoder of the checkpoint in `folder`."""
    with torch.device("meta"):
        adapter = ConditionAdapter(
            condition.condition_dim, condition.cross_attention_dim, condition.adapter_layers
        )
    adapter_folder = folder / condition.condition_adapter_name
    load_weights(adapter, find_weights(adapter_folder, "condition_adapter"), dtype)
    return adapter.eval()


@dataclass(frozen=True)
class _TextModel:
    """The network that a text encoder's config.json stands for."""

    config_path: Path
    architecture: str
    config: Any
    network_class: type[PreTrainedModel]
    options: dict[str, Any]

    def make(self) -> PreTrainedModel:
        return self.network_class(self.config, **self.options)


def load_text_encoder(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The frozen language model of `folder`; of a CLIP or CLAP its text part."""
    model, files = _checked(folder, dtype)
    tensors = {name: tensor for _, name, tensor in read_tensors(files)}
    try:
        with quiet_transformers():
            encoder, report = model.network_class.from_pretrained(
                None,
                config=model.config,
                state_dict=tensors,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **model.options,
            )
    except Exception as error:  # transformers raises many kinds for a damaged or foreign file
        raise CheckpointError(
            f"{files[0]}: cannot be loaded as {model.architecture}: {first_line(error)}"
        ) from error
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise CheckpointError(
            f"{files[0]}: tensor {name!r} is {tuple(found)}, "
            f"but its config asks for {tuple(wanted)}"
        )
    # Pooled outputs are not used, and some checkpoints are saved without a pooler.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise CheckpointError(f"{files[0]}: lacks {len(missing)} tensors, such as {missing[0]!r}")
    return encoder.eval().requires_grad_(False)


def _checked(folder: Path, dtype: torch.dtype) -> tuple[_TextModel, list[Path]]:
    """(class and config of the network, its weight files), which fit together."""
    config_path = folder / "config.json"
    content = read_json(config_path)
    files = find_weights(folder, "model", "pytorch_model", dtype=dtype)
    header = read_header(files)
    check_sizes(content, header, config_path)
    _check_numbers(header)
    model = _read_text_model(content, config_path)
    network = build(model.make, len(header), config_path)
    check_total(network, header, config_path)
    return model, files


def _check_numbers(header: Mapping[str, TensorInfo]) -> None:
    for name, info in header.items():
        # Whole numbers are right for positions and counters, of which CLAP has several.
        if not info.is_floating and name.endswith("weight"):
            raise CheckpointError(
                f"{info.path}: tensor {name!r} is of type {info.dtype}, not floating-point numbers",
                hint="Quantised weights cannot be read: use the same checkpoint in fp16 or fp32.",
            )


def _read_text_model(content: dict[str, Any], config_path: Path) -> _TextModel:
    from transformers import CONFIG_MAPPING

    architectures = content.get("architectures") or ["none"]
    model_type = content.get("model_type")
    try:
        architecture = str(architectures[0])[:60]
        if content.get("quantization_config") is not None:
            raise ValueError("its weights are quantised; use the same model in fp16 or fp32")
        if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
            raise ValueError(f"architecture {architecture!r} of model_type {model_type!r:.60}")
        config = CONFIG_MAPPING[model_type].from_dict(without_dropped(content))
        if model_type in TEXT_AND_MORE:
            config = config.text_config
        if model_type == "t5gemma":
            config.is_encoder_decoder = False
        network_class, options = _text_class(architecture, model_type, config)
    except Exception as error:  # transformers raises whatever a wrong field leads to
        raise CheckpointError(f"{config_path}: not a text encoder: {first_line(error)}") from error
    return _TextModel(config_path, architecture, config, network_class, options)


def without_dropped(content: Any) -> Any:
    """A config of transformers without `DROPPED_FIELDS`, however deep."""
    if not isinstance(content, dict):
        return content
    return {k: without_dropped(v) for k, v in content.items() if k not in DROPPED_FIELDS}


def _text_class(
    architecture: str, model_type: str, config: Any
) -> tuple[type[PreTrainedModel], dict[str, Any]]:
    """The class whose `last_hidden_state` the original takes, and options to make it."""
    import transformers

    if model_type in TEXT_AND_MORE:
        return getattr(transformers, TEXT_AND_MORE[model_type]), {}
    if model_type in ("t5", "mt5"):
        return transformers.T5EncoderModel, {}
    if model_type == "t5gemma":
        return transformers.T5GemmaEncoderModel, {}
    if model_type in ("clip_text_model", "clap_text_model"):
        name = "CLIPTextModel" if model_type == "clip_text_model" else "ClapTextModel"
        has_projection = architecture == f"{name}WithProjection"
        return getattr(transformers, architecture if has_projection else name), {}
    if model_type not in BERT_LIKE:
        raise ValueError(
            f"architecture {architecture!r} ({model_type}); it can be CLIPTextModel, CLIPModel, "
            "ClapTextModel, ClapModel, T5EncoderModel, T5GemmaEncoderModel or a BERT-like model"
        )
    network_class = transformers.AutoModel._model_mapping[type(config)]
    return network_class, {"add_pooling_layer": False} if model_type in WITH_POOLER else {}


@contextmanager
def quiet_transformers() -> Iterator[None]:
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
