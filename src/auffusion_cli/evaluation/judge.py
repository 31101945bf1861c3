"""Judges of whether a sound is what its prompt says, for choosing among candidates.

`KindJudge` is a classifier of the kinds of sound of the embedded model, of the architecture of
`tagger`, computed by NumPy so that nothing heavy is loaded for a few milliseconds of work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from auffusion_cli.checkpoints.kinds import Kind, kinds_of_prompt, read_kinds
from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.audio import resample
from auffusion_cli.signal.spectrogram import DB_PER_NEPER, LogMel

if TYPE_CHECKING:
    from auffusion_cli.evaluation.embedders import TextEmbedder

SPECTROGRAM = SpectrogramConfig(
    n_fft_samples=1024, win_length_samples=1024, hop_length_samples=640, n_mels=64
)
"""Of this judge and of the tagger: 64 bands at 16 kHz, and a frame is 40 ms."""
RANGE_DB = 80.0
"""Levels further below the loudest cell of a window count as silence."""
WINDOW_SAMPLES = 128 * SPECTROGRAM.hop_length_samples
"""5.12 s: the length of a training example, and of an input."""
CONVOLUTIONS = ((0, 4, 3), (3, 2, 1), (6, 2, 1), (9, 1, 0))
"""Name of the layer in the weights, stride and padding."""
NORM_EPSILON = 1e-5
SPEAKERS = ("man_speaking", "woman_speaking", "child_speaking", "radio_voice")
VOICE_KINDS = frozenset(SPEAKERS) | {
    *("people_talking", "children_playing", "crowd_cheering", "laughing", "screaming"),
    *("man_screaming", "man_grunting", "goblin_voice", "baby_crying", "beatbox", "choir"),
}
"""Kinds in which people are heard."""
VOICE_WORDS = (
    *("announc", "boy", "broadcast", "call", "child", "conversation", "crowd", "girl", "human"),
    *("kid", "lady", "man", "men", "narrat", "people", "person", "radio", "said", "say", "shout"),
    *("sing", "someone", "song", "speak", "speech", "talk", "tv", "vocal", "voice", "whisper"),
    *("woman", "women", "word", "yell"),
)
"""Beginnings of words that let one expect people."""
SPEECH = 0.5
"""Probability of all speakers together from which a sound is taken for speech."""


class Judge(Protocol):
    """Scores sounds by the words that they should be of."""

    name: str

    def score(self, waveform: np.ndarray, words: str) -> float | None:
        """Of (N,) samples at 16 kHz; higher is better, None where the words say nothing to it."""


@dataclass(frozen=True)
class KindJudge:
    """The mean log-probability of the kinds that the words mean."""

    tensors: dict[str, np.ndarray]
    """Of `tagger.Tagger`, in float32."""
    kinds: tuple[str, ...]
    name: str = "kinds"

    def score(self, waveform: np.ndarray, words: str) -> float | None:
        """See `Judge`."""
        meant = kinds_meant(words)
        indices = [i for i, kind in enumerate(self.kinds) if kind in meant]
        if not indices:
            return None
        return float(self.log_probabilities(waveform)[indices].mean())

    def hears_speech(self, waveform: np.ndarray) -> bool:
        """Whether (N,) samples at 16 kHz sound like somebody who speaks."""
        probabilities = np.exp(self.log_probabilities(waveform))
        voices = [p for p, kind in zip(probabilities, self.kinds, strict=True) if kind in SPEAKERS]
        return float(sum(voices)) > SPEECH

    def log_probabilities(self, waveform: np.ndarray) -> np.ndarray:
        """(N,) samples at 16 kHz -> (n_kinds,), the mean over windows of 5.12 s."""
        n = max(1, (len(waveform) + WINDOW_SAMPLES // 2) // WINDOW_SAMPLES)
        whole = np.zeros(n * WINDOW_SAMPLES, np.float32)
        whole[: len(waveform)] = waveform[: len(whole)]
        features = features_of(whole.reshape(n, -1))
        return np.mean([_log_softmax(self._logits(window)) for window in features], axis=0)

    def _logits(self, features: np.ndarray) -> np.ndarray:
        """(64, T) -> (n_kinds,); see `tagger.Tagger`."""
        x = features[None]
        for layer, stride, padding in CONVOLUTIONS:
            x = _convolve(x, self.tensors[f"layers.{layer}.weight"], stride, padding)
            x = np.maximum(self._normalize(x, f"layers.{layer + 1}", (-1, 1, 1)), 0)
        changes = np.abs(np.diff(features))
        x = np.concatenate(
            [
                *(x[:, 0].mean(1), x[:, 0].max(1)),
                *(features.mean(1), features.std(1, ddof=1), features.max(1), changes.mean(1)),
            ]
        )
        x = self._linear(self._normalize(x, "embedding.0", (-1,)), "embedding.2")
        x = np.maximum(self._normalize(x, "embedding.3", (-1,)), 0)
        return self._linear(x, "head.1")

    def _normalize(self, x: np.ndarray, name: str, shape: Sequence[int]) -> np.ndarray:
        mean, variance, weight, bias = (
            self.tensors[f"{name}.{part}"].reshape(shape)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + NORM_EPSILON) * weight + bias

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.tensors[f"{name}.weight"] @ x + self.tensors[f"{name}.bias"]


def kinds_meant(words: str) -> set[str]:
    """Names of the embedded model's kinds that `words` mean, as the classifier has them."""
    known = kinds_of_prompt(_kinds(), words)
    return {kind.name.replace(" ", "_") for kind in known}


@cache
def _kinds() -> tuple[Kind, ...]:
    return tuple(read_kinds(embedded_folder()) or ())


def asks_for_voices(words: str) -> bool:
    """Whether people may be heard in a sound of `words`."""
    found = re.findall(r"\w+", words.lower())
    return any(w.startswith(VOICE_WORDS) for w in found) or bool(kinds_meant(words) & VOICE_KINDS)


def features_of(windows: np.ndarray) -> np.ndarray:
    """(n, N) samples at 16 kHz -> (n, 64, N // 640) in 0..1; see `tagger.TaggerFeatures`."""
    log_mel = LogMel(SPECTROGRAM)(windows)
    below_loudest_db = (log_mel.max((1, 2), keepdims=True) - log_mel) * DB_PER_NEPER
    return np.maximum(1 - below_loudest_db / RANGE_DB, 0)


def _convolve(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """(C, H, W) * (O, C, h, w) -> (O, H', W')"""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    patches = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(weight, patches, axes=([1, 2, 3], [0, 3, 4]))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits)


def judge_folder() -> Path:
    """The classifier that comes with the package."""
    return embedded_folder().parent / "judge"


def load_kind_judge(folder: Path | None = None) -> KindJudge:
    """The judge of kinds, by default the one that comes with the package."""
    from safetensors.numpy import load_file

    folder = folder or judge_folder()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "tagger.safetensors")
    tensors = {name: tensor.astype(np.float32) for name, tensor in stored.items()}
    return KindJudge(tensors, tuple(config["kinds"]))


class ClapJudge:
    """The cosine of a sound and its words in CLAP's space."""

    name = "clap"

    def __init__(self, embedder: TextEmbedder) -> None:
        self.embedder = embedder

    def score(self, waveform: np.ndarray, words: str) -> float:
        """See `Judge`."""
        import torch

        taken = self.embedder.audio_input
        resampled = resample(waveform, SPECTROGRAM.sample_rate_hz, taken.sample_rate_hz)
        (sound,) = self.embedder.embed([torch.from_numpy(resampled[: taken.max_samples])])
        (text,) = self.embedder.embed_texts([words.strip()])
        return float(sound.embeddings[0] @ text)


def load_judge() -> Judge:
    """CLAP where its checkpoint is on this machine, or else the classifier of the package."""
    from auffusion_cli.evaluation.published import published_network

    if not published_network("clap").here:
        return load_kind_judge()
    from auffusion_cli.evaluation.protocols import CLAP
    from auffusion_cli.evaluation.weights import load_embedder

    return ClapJudge(load_embedder(CLAP)[0])
