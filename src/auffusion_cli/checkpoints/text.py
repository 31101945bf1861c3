"""Folders of text encoders and tokenizers -> what of a prompt they read. No torch.

A folder without tokenizer.json, as some published ones are, is read by transformers, which writes
what it understands in that form.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from auffusion_cli.checkpoints.families import TANGO, TextPart, check_text_files, find_family
from auffusion_cli.checkpoints.layout import is_adapter_layout, read_conditions, read_json
from auffusion_cli.diffusion.text import TextEncoder, TextReader, Tokenizer
from auffusion_cli.errors import CheckpointError, first_line
from auffusion_cli.files import read_bytes

RULES, CONFIG = "tokenizer.json", "tokenizer_config.json"
MAX_RULES_BYTES = 100_000_000
"""The largest that is published (mT5's) has 16 MB."""
MAX_POSITIONS = 1_000_000
RELATIVE_POSITIONS = ("t5", "mt5")
"""Model types without a largest number of tokens."""
FROM_BEHIND_PADDING = ("roberta", "mpnet", "clap_text_model")
"""Model types that count positions from behind the padding token's."""
PADDING_ID = 1
"""Of these, where a config does not state it; MPNet's is always that."""
N_POSITIONS = {"clip_text_model": 77, "clap_text_model": 514}
DEFAULT_N_POSITIONS = 512
"""Where a config leaves them out, transformers' default of that model type."""


def load_text(folder: Path) -> TextReader:
    """The text encoders of either layout, without their networks.

    Raises:
        CheckpointError: a config or a tokenizer is missing or damaged.
    """
    if family := find_family(folder):
        if family is TANGO:
            check_text_files(folder)
        return TextReader([_load_part(folder, part) for part in family.text])
    if is_adapter_layout(folder):
        return TextReader(
            [
                load_text_encoder(
                    folder / condition.text_encoder_name,
                    condition.condition_max_length,
                    condition.pretrained_model_name_or_path,
                )
                for condition in read_conditions(folder)
            ]
        )
    config = text_config(folder / "text_encoder")
    tokenizer = load_tokenizer(folder / "tokenizer")
    n_positions = count_positions(config, folder / "text_encoder")
    if n_positions is None:
        raise CheckpointError(
            f"{folder / 'text_encoder'}: states no number of positions; Stable Diffusion's "
            "layout is read with a CLIP text encoder only"
        )
    # A tokenizer that states no length has 10 ** 30.
    encoder = TextEncoder(
        tokenizer,
        min(tokenizer.max_length, n_positions),
        n_positions,
        pads_tokens=True,
        hides_padding=bool(config.get("use_attention_mask")),
    )
    return TextReader([encoder])


def load_text_encoder(folder: Path, max_length: int, source: str = "") -> TextEncoder:
    """The encoder of `folder` in the adapter layout; its output has `max_length` rows."""
    n_positions = count_positions(text_config(folder), folder)
    return TextEncoder(load_tokenizer(folder), max_length, n_positions, source=source)


def _load_part(folder: Path, part: TextPart) -> TextEncoder:
    """A text encoder of a family, which reads as many tokens as its tokenizer says."""
    n_positions = count_positions(text_config(folder / part.encoder), folder / part.encoder)
    tokenizer = load_tokenizer(folder / part.tokenizer)
    most = part.max_tokens or DEFAULT_N_POSITIONS
    n_tokens = min(tokenizer.max_length, n_positions or most, most)
    return TextEncoder(tokenizer, n_tokens, n_tokens)


def text_config(folder: Path) -> dict[str, Any]:
    """config.json of a text encoder; of a CLIP or CLAP the part about text."""
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if model_type in ("clip", "clap"):
        part = config.get("text_config")
        return {"model_type": f"{model_type}_text_model"} | (part if isinstance(part, dict) else {})
    return config


def count_positions(config: dict[str, Any], folder: Path) -> int | None:
    """The most tokens that an encoder of this config can see; None for any number."""
    model_type = config.get("model_type")
    if model_type in RELATIVE_POSITIONS:
        return None
    default = N_POSITIONS.get(str(model_type), DEFAULT_N_POSITIONS)
    n_positions = config.get("max_position_embeddings", default)
    padding_id = -1
    if model_type in FROM_BEHIND_PADDING:
        is_fixed = model_type == "mpnet"
        padding_id = PADDING_ID if is_fixed else config.get("pad_token_id", PADDING_ID)
    if isinstance(n_positions, int) and isinstance(padding_id, int):
        n_usable = n_positions - padding_id - 1
        if 1 <= n_usable <= MAX_POSITIONS:
            return n_usable
    raise CheckpointError(
        f"{folder / 'config.json'}: max_position_embeddings is {str(n_positions)[:20]!r} with "
        f"pad_token_id {str(config.get('pad_token_id'))[:20]!r}, which leaves no positions"
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of `folder`, from its files alone.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        if (folder / RULES).is_file():
            return _read_tokenizer(folder)
        with TemporaryDirectory() as converted:
            _convert(folder, Path(converted))
            return _read_tokenizer(Path(converted))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"{folder}: cannot load the tokenizer: {first_line(error)}"
        ) from error


def _read_tokenizer(folder: Path) -> Tokenizer:
    import tokenizers

    rules = tokenizers.Tokenizer.from_buffer(read_bytes(folder / RULES, MAX_RULES_BYTES))
    padding = rules.padding or {}
    rules.no_truncation()
    rules.no_padding()
    rules.encode("dog")  # some settings fail only where they are used
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    max_length = config.get("model_max_length", 10**30)
    if isinstance(max_length, bool) or not max_length >= 1:
        raise ValueError(f"model_max_length is {max_length!r}")
    pad_id = _id_of(rules, config.get("pad_token"))
    unknown_id = _id_of(rules, config.get("unk_token", getattr(rules.model, "unk_token", None)))
    return Tokenizer(
        rules,
        int(max_length),
        padding.get("pad_id", 0) if pad_id is None else pad_id,
        unknown_id,
        config,
    )


def _id_of(rules: Any, token: Any) -> int | None:
    """The number of a special token, which configs state by its text, or with its properties."""
    text = token.get("content") if isinstance(token, dict) else token
    return rules.token_to_id(text) if isinstance(text, str) else None


def _convert(folder: Path, into: Path) -> None:
    """Write the tokenizer of `folder`, in whatever form, as tokenizer.json."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    tokenizer.save_pretrained(into)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write it for `load_tokenizer`, and for transformers."""
    tokenizer.rules.save(str(folder / RULES), pretty=False)
    (folder / CONFIG).write_text(json.dumps(tokenizer.config, indent=2) + "\n", "utf-8")
