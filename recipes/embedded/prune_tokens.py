"""Make a BERT-like text encoder smaller: drop tokens and positions that the model has no use for.

    python recipes/embedded/prune_tokens.py runs/minilm

Works in place on a folder with `tokenizer.json`, `config.json` and `model.safetensors`. Two sorts
of tokens go: those that no text gives, such as `[unused7]` or a punctuation mark inside a word, and
those of other scripts than the Latin one, in which the model was taught no words. Text of these
becomes `[UNK]`, of which `auffusion generate` warns; all other tokens keep their meaning, and so
the encoder's output for Latin text does not change by a bit. Of positions the first 128 are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from auffusion_cli.files import atomic_file, write_text

N_POSITIONS = 128
"""Four times what the model reads of a prompt."""
INSIDE = "##"
"""The beginning of tokens that continue a word."""
SCRIPTS = {
    *("ARABIC", "ARMENIAN", "BENGALI", "CJK", "CYRILLIC", "DEVANAGARI", "FULLWIDTH", "GEORGIAN"),
    *("GREEK", "HANGUL", "HEBREW", "HIRAGANA", "IDEOGRAPHIC", "KANGXI", "KANNADA", "KATAKANA"),
    *("MYANMAR", "SINHALA", "TAMIL", "THAI", "TIBETAN"),
}
"""First words of the Unicode names of characters that are not kept."""


def is_given(rules: Tokenizer, token: str) -> bool:
    """Whether some text gives `token`: it is a word, or a part of one, that is left whole."""
    word = f"a{token.removeprefix(INSIDE)}" if token.startswith(INSIDE) else token
    parts = rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(word))
    return [part for part, _ in parts] == [word]


def is_of_other_script(token: str) -> bool:
    """Whether a character of `token` belongs to one of `SCRIPTS`."""
    return any(re.split("[ -]", unicodedata.name(c, ""))[0] in SCRIPTS for c in token)


def kept_tokens(rules: Tokenizer, special: set[str]) -> list[int]:
    """The numbers of the tokens that stay, in order."""
    return [
        number
        for token, number in sorted(rules.get_vocab().items(), key=lambda item: item[1])
        if token in special or (is_given(rules, token) and not is_of_other_script(token))
    ]


def renumbered(rules: Mapping[str, Any], kept: list[int]) -> dict[str, Any]:
    """The content of tokenizer.json with the tokens `kept` alone, numbered anew."""
    new = {old: number for number, old in enumerate(kept)}
    content = json.loads(json.dumps(rules))
    words = {token: old for token, old in content["model"]["vocab"].items() if old in new}
    in_order = sorted(words, key=words.__getitem__)
    content["model"]["vocab"] = {token: new[words[token]] for token in in_order}
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    for token in content["post_processor"]["special_tokens"].values():
        token["ids"] = [new[number] for number in token["ids"]]
    if content["padding"]:
        content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
    return content


def prune(folder: Path) -> tuple[int, int]:
    """Prune the text encoder of `folder`; the numbers of tokens before and after."""
    rules_path, config_path = folder / "tokenizer.json", folder / "config.json"
    content = json.loads(rules_path.read_text("utf-8"))
    rules = Tokenizer.from_file(str(rules_path))
    kept = kept_tokens(rules, {token["content"] for token in content["added_tokens"]})
    config = json.loads(config_path.read_text("utf-8"))
    n_positions = min(N_POSITIONS, config["max_position_embeddings"])

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("embeddings.position_ids", None)  # counts 0, 1, 2 …; older files have it
    words, positions = (f"embeddings.{of}_embeddings.weight" for of in ("word", "position"))
    tensors[words] = tensors[words][kept]
    tensors[positions] = np.ascontiguousarray(tensors[positions][:n_positions])
    with atomic_file(folder / "model.safetensors") as path:
        save_file(tensors, path, metadata={"format": "pt"})

    pruned = renumbered(content, kept)
    as_text = json.dumps(pruned, ensure_ascii=False, separators=(",", ":"))
    write_text(rules_path, as_text + "\n")
    pad_id = pruned["model"]["vocab"]["[PAD]"]
    config |= {"vocab_size": len(kept), "max_position_embeddings": n_positions}
    write_text(config_path, json.dumps(config | {"pad_token_id": pad_id}, indent=2) + "\n")
    if (settings_path := folder / "tokenizer_config.json").is_file():
        settings = json.loads(settings_path.read_text("utf-8")) | {"model_max_length": n_positions}
        write_text(settings_path, json.dumps(settings, indent=2) + "\n")
    (folder / "vocab.txt").unlink(missing_ok=True)  # an older form of what tokenizer.json says
    return rules.get_vocab_size(), len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the text encoder")
    before, after = prune(parser.parse_args().folder)
    print(f"{after:,} of {before:,} tokens are kept")


if __name__ == "__main__":
    main()
