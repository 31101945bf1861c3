"""Small checkpoints in the other layouts that are published."""

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)


def as_stable_diffusion(checkpoint: Path) -> Path:
    """The golden checkpoint's weights in Stable Diffusion's layout, in place."""
    (checkpoint / "text_encoder_0").rename(checkpoint / "text_encoder")
    (checkpoint / "tokenizer").mkdir()
    for path in (checkpoint / "text_encoder").iterdir():
        if path.name not in ("config.json", "pytorch_model.bin"):
            path.rename(checkpoint / "tokenizer" / path.name)
    shutil.rmtree(checkpoint / "condition_adapter_0")
    shutil.rmtree(checkpoint / "feature_extractor")
    (checkpoint / "condition_config.json").unlink()
    index = {
        "_class_name": "StableDiffusionPipeline",
        "requires_safety_checker": False,
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (checkpoint / "model_index.json").write_text(json.dumps(index))
    return checkpoint


def write_encoder(folder: Path, kind: str, tokenizer_of: Path) -> Path:
    """A random CLAP or T5 text encoder as their repositories are laid out, with a tokenizer."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "t5":
        config = T5Config(vocab_size=526, d_model=20, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        encoder = T5EncoderModel(config)
    else:
        config = ClapTextConfig(vocab_size=526, hidden_size=24, pad_token_id=1, **sizes)
        encoder = ClapTextModelWithProjection(config)
    encoder.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json"):
        shutil.copy(tokenizer_of / name, folder / name)
    return folder
