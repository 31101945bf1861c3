"""Protocols of evaluation: networks and their input, fixed under a name. No torch.

A score is only worth comparing with another where network, weights, sample rate, resampler,
channel, padding and crop are the same: the Fréchet distance moves by tens with the resampler alone.
So a protocol fixes all of them, and a result carries its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resampler = Literal["sinc_hann", "kaiser_best"]
"""sinc_hann: torchaudio's default. kaiser_best: torchaudio with the window of resampy's filter of
that name, which it follows closely but not bit for bit."""


@dataclass(frozen=True)
class AudioInput:
    """Preparation of a clip for a network, in the order of the fields."""

    channel: Literal["first", "mean"]
    """The first of several channels, or their mean."""
    subtract_mean: bool
    """True: subtract the clip's mean (its direct current), at the file's own rate."""
    sample_rate_hz: int
    resampler: Resampler = "sinc_hann"
    peak_normalize: bool = False
    """True: scale the largest sample to 1. Silence stays silence."""
    max_samples: int | None = None
    """Longer clips are cut to their beginning; None keeps all."""
    min_samples: int = 0
    """Shorter clips are padded with zeros at their end."""


@dataclass(frozen=True)
class Backbone:
    """A network and the preparation of its input."""

    name: Literal["cnn14", "vggish", "clap", "tagger", "yamnet"]
    weights: str
    """A name in `published.WEIGHTS`, a Hub id, or the folder that comes with this package."""
    audio_input: AudioInput


@dataclass(frozen=True)
class Protocol:
    """A named way to evaluate. A number is None where the protocol has no network for it."""

    name: str
    description: str
    classifier: Backbone
    """FD, KL, IS: one embedding and one vector of logits a clip."""
    frames: Backbone | None
    """FAD: an embedding for each frame, those of all clips pooled."""
    text: Backbone | None
    """CLAP score."""
    has_several_classes: bool
    """True: the classifier was trained on sounds of several classes at once, so that a sigmoid of
    its logits means something."""
    comparable_with_papers: bool
    """False: numbers carry the classifier's name, so that nobody takes them for the papers'."""

    @property
    def backbones(self) -> list[Backbone]:
        """All its networks."""
        return [each for each in (self.classifier, self.frames, self.text) if each is not None]


# audioldm_eval, commit 70fc9cd and before: datasets/load_mel.py (WaveDataset).
WAVE_DATASET = AudioInput(
    channel="first", subtract_mean=True, sample_rate_hz=16_000, min_samples=32_000
)
# audioldm_eval 0.0.3 (June 2023): metrics/fad.py reads by itself, without padding.
FAD_2023 = AudioInput(
    channel="mean", subtract_mean=False, sample_rate_hz=16_000, resampler="kaiser_best"
)
# The processor of laion/clap-htsat-unfused crops clips of more than 10 s at random. Here it is
# always the beginning, so that a score can be made again.
CLAP_INPUT = AudioInput(
    channel="mean",
    subtract_mean=False,
    sample_rate_hz=48_000,
    peak_normalize=True,
    max_samples=480_000,
)

# YAMNet's scores change with the level of a sound, which is not to be judged.
YAMNET_INPUT = AudioInput(
    channel="mean", subtract_mean=False, sample_rate_hz=16_000, peak_normalize=True
)

CNN14 = Backbone("cnn14", "cnn14", WAVE_DATASET)
CLAP = Backbone(
    "clap", "laion/clap-htsat-unfused@8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a", CLAP_INPUT
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="auffusion-2024",
            description="as Auffusion's paper: audioldm_eval with Cnn14 at 16 kHz, VGGish, CLAP",
            classifier=CNN14,
            frames=Backbone("vggish", "vggish", WAVE_DATASET),
            text=CLAP,
            has_several_classes=True,
            comparable_with_papers=True,
        ),
        Protocol(
            name="tango",
            description="as Tango's paper: the same, with the FAD of audioldm_eval in 2023, which "
            "mixes the channels, resamples as resampy does and pads nothing",
            classifier=CNN14,
            frames=Backbone("vggish", "vggish", FAD_2023),
            text=CLAP,
            has_several_classes=True,
            comparable_with_papers=True,
        ),
        Protocol(
            name="embedded",
            description="the small tagger that comes with this package: works offline; its numbers "
            "can be compared with each other, not with a paper's",
            classifier=Backbone("tagger", "tagger", WAVE_DATASET),
            frames=None,
            text=None,
            has_several_classes=False,
            comparable_with_papers=False,
        ),
        Protocol(
            name="yamnet",
            description="YAMNet, trained on AudioSet by others: works offline, independent of the "
            "embedded model; its numbers can be compared with each other, not with a paper's",
            classifier=Backbone("yamnet", "yamnet", YAMNET_INPUT),
            frames=None,
            text=None,
            has_several_classes=True,
            comparable_with_papers=False,
        ),
    )
}
