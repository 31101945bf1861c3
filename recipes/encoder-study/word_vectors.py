"""Word vectors as a text encoder: the package wordllama's, in a folder that transformers reads.

    pip install wordllama
    python recipes/encoder-study/word_vectors.py -o runs/wordllama

WordLlama (Lee Miller 2024, MIT licence) is a table of 256 numbers for each of Llama 2's 32,000
tokens, trained from the token embeddings of language models so that their mean tells sentences
apart. A token's vector is the same in every sentence. As T5 without layers it is looked up, and
scaled to a mean square of 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from transformers import T5Config, T5EncoderModel

from auffusion_cli.files import atomic_folder

WEIGHTS = "weights/l2_supercat_256.safetensors"
RULES = "tokenizers/l2_supercat_tokenizer_config.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the encoder")
    output = parser.parse_args().output
    package = importlib.util.find_spec("wordllama")
    if package is None:
        parser.error("the package is missing: pip install wordllama")
    with atomic_folder(output) as folder:
        convert(Path(package.origin).parent, folder)
    print(output)


def convert(package: Path, folder: Path) -> None:
    """Write the vectors and tokenizer of the package's folder as a text encoder."""
    vectors = load_file(package / WEIGHTS)["embedding.weight"].float()
    n_tokens, width = vectors.shape
    config = T5Config(vocab_size=n_tokens, d_model=width, num_layers=0, pad_token_id=0)
    encoder = T5EncoderModel(config)
    encoder.shared.weight.data.copy_(vectors)
    encoder.save_pretrained(folder)
    shutil.copy(package / RULES, folder / "tokenizer.json")
    tokens = {"model_max_length": 512, "pad_token": "<unk>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
