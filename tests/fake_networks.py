"""Networks for tests of what is made of features: spectra instead of learned embeddings."""

import hashlib

import numpy as np
import torch

from auffusion_cli.evaluation.embedders import ClipFeatures
from auffusion_cli.evaluation.protocols import CLAP_INPUT, WAVE_DATASET

DIM = 8
N_CLASSES = 5


class FakeClassifier:
    """One embedding a clip: mean log-energies of bands; logits are a fixed projection of them."""

    name = "tagger"
    weights_sha256 = "0" * 64
    audio_input = WAVE_DATASET
    embedding_dim = DIM
    n_classes = N_CLASSES
    class_names = ("dog", "cat", "rain", "wind", "bell")
    device = torch.device("cpu")

    def embed(self, waveforms):
        projection = np.random.default_rng(1).normal(size=(DIM, N_CLASSES))
        features = []
        for waveform in waveforms:
            bands = band_energies(waveform.numpy())
            features.append(ClipFeatures(bands[None], (bands @ projection).astype(np.float32)))
        return features


class FakeFrames:
    """An embedding for each half second."""

    name = "vggish"
    weights_sha256 = "1" * 64
    audio_input = WAVE_DATASET
    embedding_dim = DIM
    n_classes = None
    class_names = None
    device = torch.device("cpu")

    def embed(self, waveforms):
        return [
            ClipFeatures(np.stack([band_energies(part) for part in _halves(waveform.numpy())]))
            for waveform in waveforms
        ]


class FakeText:
    """A text's place is given by its hash."""

    name = "clap"
    weights_sha256 = "2" * 64
    audio_input = CLAP_INPUT
    embedding_dim = DIM
    n_classes = None
    class_names = None
    device = torch.device("cpu")

    def embed(self, waveforms):
        return [ClipFeatures(band_energies(waveform.numpy())[None]) for waveform in waveforms]

    def embed_texts(self, texts):
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=DIM) for seed in seeds])


def band_energies(waveform):
    power = np.abs(np.fft.rfft(waveform)) ** 2
    bands = np.array([band.mean() for band in np.array_split(power, DIM)])
    return np.log(bands + 1e-6).astype(np.float32)


def _halves(waveform):
    return [waveform[start : start + 8000] for start in range(0, len(waveform) - 7999, 8000)]
