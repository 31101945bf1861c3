"""CLAP: text and sound in one space (Wu et al. 2023, arXiv 2211.06687), by transformers.

The CLAP score of a clip is the cosine between its embedding and that of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from auffusion_cli.errors import CheckpointError, first_line
from auffusion_cli.evaluation.embedders import ClipFeatures
from auffusion_cli.evaluation.protocols import AudioInput
from auffusion_cli.files import hash_file

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TEXTS_AT_ONCE = 64


class ClapEmbedder:
    """`TextEmbedder`: one row of unit length for a clip or a text.

    Clips of less than 10 s are repeated as often as they fit whole, then padded with zeros, as the
    published processor does; of longer ones it would take a part at random, so they must not come.
    """

    name = "clap"
    n_classes = None
    class_names = None

    def __init__(self, model, extractor, tokenizer, audio_input: AudioInput, weights_sha256: str):
        self.model = model.eval().requires_grad_(False)
        self.extractor = extractor
        self.tokenizer = tokenizer
        self.audio_input = audio_input
        self.weights_sha256 = weights_sha256
        self.embedding_dim = model.config.projection_dim
        self.device = model.device

    @torch.inference_mode()
    def embed(self, waveforms: Sequence[Tensor]) -> list[ClipFeatures]:
        """See `Embedder`."""
        for waveform in waveforms:
            assert len(waveform) <= self.extractor.nb_max_samples, "AudioInput.max_samples crops"
        inputs = self.extractor(
            [waveform.double().numpy() for waveform in waveforms],
            sampling_rate=self.audio_input.sample_rate_hz,
            return_tensors="pt",
        )
        audio = self.model.audio_model(
            input_features=inputs["input_features"].to(self.model.device, self.model.dtype),
            is_longer=inputs["is_longer"].to(self.model.device),
        )
        rows = _unit_rows(self.model.audio_projection(audio.pooler_output))
        return [ClipFeatures(row[None]) for row in rows]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32, rows of unit length; of long texts only the beginning counts."""
        rows = [np.zeros((0, self.embedding_dim), np.float32)]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            inputs = self.tokenizer(
                list(texts[start : start + TEXTS_AT_ONCE]),
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.model.device)
            text = self.model.text_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            )
            rows.append(_unit_rows(self.model.text_projection(text.pooler_output)))
        return np.concatenate(rows)


def _unit_rows(x: Tensor) -> np.ndarray:
    return normalize(x.float(), dim=-1).cpu().numpy()


def load_clap(folder: Path, audio_input: AudioInput, device: torch.device | str) -> ClapEmbedder:
    """CLAP from a folder in transformers' layout. Raises CheckpointError, naming what is wrong."""
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: no CLAP model: looked for {' or '.join(WEIGHT_FILES)}")
    try:
        model, report = ClapModel.from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=weights.suffix == ".safetensors",
        )
        extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever the damage leads to
        raise CheckpointError(
            f"{folder}: not a CLAP model that can be loaded: {first_line(error)}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{weights}: lacks {len(missing)} tensors, such as {missing[0]!r}")
    if extractor.sampling_rate != audio_input.sample_rate_hz:
        raise CheckpointError(
            f"{folder}: takes sounds at {extractor.sampling_rate:,} Hz, "
            f"but the protocol has {audio_input.sample_rate_hz:,} Hz"
        )
    return ClapEmbedder(model.to(device), extractor, tokenizer, audio_input, hash_file(weights))
