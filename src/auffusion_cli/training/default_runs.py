"""The settings of `auffusion train` without a file, where they are not the defaults of the keys."""

from __future__ import annotations

from typing import Any

DEFAULT_RUN: dict[str, Any] = {
    "loop": {
        "batch_size": 16,
        "max_steps": 2_000,
        "warmup_steps": 100,
        "checkpoint_every_steps": 200,
        "log_every_steps": 10,
    },
}
"""Without --config: fine-tuning of the embedded model, in steps that a laptop can take."""
LORA_RUN: dict[str, Any] = {
    "scenes": {"n_cached": 200},
    "loop": {
        "batch_size": 8,
        "max_steps": 400,
        "learning_rate": 1e-3,
        "warmup_steps": 20,
        "decay_steps": 200,
        "ema_decay": 0.99,
        "checkpoint_every_steps": 100,
        "log_every_steps": 10,
    },
}
"""Without --config, with --lora: a few clips, in minutes. The scenes are other crops of them."""
DISTILL_RUN: dict[str, Any] = {
    "scenes": {"n_cached": 1_000},
    "loop": {
        "batch_size": 8,
        "max_steps": 2_000,
        "warmup_steps": 50,
        "decay_steps": 500,
        "ema_decay": 0.99,
        "checkpoint_every_steps": 100,
        "log_every_steps": 10,
    },
}
"""Without --config, on stage distill: a student of the embedded model."""
IMAGE_MODEL_RUN: dict[str, Any] = {
    "diffusion": {"vocoder": "auffusion", "gradient_checkpointing": True},
    "loop": {
        "batch_size": 20,
        "gradient_accumulation": 5,
        "max_steps": 100_000,
        "learning_rate": 3e-5,
        "mixed_precision": "bf16",
        "ema_decay": 0.9999,
    },
}
"""Without --config, from an image model: recipes/auffusion/diffusion.yaml."""
