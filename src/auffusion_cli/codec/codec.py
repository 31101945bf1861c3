"""waveform <-> latent: the composition of the signal path, for one window.

waveform --LogMel--> log-mel --image--> image --autoencoder--> latent
latent --autoencoder--> image --image--> log-mel --texture, vocoder--> waveform

What an autoencoder sees of a sound is called its view. Here it is the log-mel; in `waves.WaveCodec`
it is the waveform. Tasks that say nothing of log-mels work with both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.codec.image import image_to_log_mel, log_mel_to_image, pad_image
from auffusion_cli.config import ImageConfig, SpectrogramConfig
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.overlap import OVERLAP_S, sound_in_windows
from auffusion_cli.signal.spectrogram import DB_PER_NEPER, LogMel, analyze, mix_log_mels

if TYPE_CHECKING:
    from auffusion_cli.engines.networks import Networks

VOCODER_WINDOW_S = 60.0
"""A vocoder works on this much at a time, so that its memory does not grow with the sound."""
DECODING_STREAM = 0x6465_636F_6465
"""Mixed into a sound's seed for its decoding, which must not draw the latent's noise again."""


class Codec:
    """Spectrogram, autoencoder and vocoder; the sound is made by Griffin-Lim without the last."""

    def __init__(
        self,
        networks: Networks,
        griffin_lim: GriffinLim | None = None,
        spectrogram_config: SpectrogramConfig | None = None,
        image_config: ImageConfig | None = None,
    ) -> None:
        """`griffin_lim` goes before a vocoder of `networks`."""
        self.networks = networks
        self.spectrogram_config = spectrogram_config or SpectrogramConfig()
        self.image_config = image_config or ImageConfig()
        self.spectrogram = LogMel(self.spectrogram_config)
        if griffin_lim is None and not networks.sizes.has_vocoder:
            griffin_lim = GriffinLim(self.spectrogram_config)
        self.griffin_lim = griffin_lim
        """None where the networks have a vocoder."""

    @property
    def vocoder_name(self) -> str:
        """hifigan or griffin-lim"""
        return "hifigan" if self.griffin_lim is None else self.griffin_lim.name

    @property
    def width_multiple(self) -> int:
        """An image's width in columns is a multiple of this."""
        return self.networks.sizes.downsample

    @property
    def view_multiple(self) -> int:
        """Columns of the log-mel in one of the latent."""
        return self.width_multiple

    def latent_shape(self, duration_s: float) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a sound that lasts `duration_s`."""
        n_columns = self.spectrogram_config.seconds_to_frames(duration_s)
        n_rows, f = self.spectrogram_config.n_mels, self.width_multiple
        return self.networks.sizes.latent_channels, n_rows // f, -(-n_columns // f)

    def analyze(self, waveform: np.ndarray) -> np.ndarray:
        """(B, N) samples -> (B, n_mels, T) log-mel of the peak-normalised sound.

        Zeros complete the last hop, so that no sample is lost: T = ceil(N / hop).
        """
        return analyze(self.spectrogram, waveform)

    def encode_log_mel(self, log_mel: np.ndarray) -> np.ndarray:
        """(B, n_mels, T) log-mel -> (B, C, h, w) latent; silence fills the last column."""
        image = log_mel_to_image(log_mel, self.image_config)
        return self.networks.encode_image(pad_image(image, self._whole_width(image.shape[-1])))

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """(B, N) samples -> (B, C, h, w) latent; each row is peak-normalised first."""
        return self.encode_log_mel(self.analyze(waveform))

    def decode_log_mel(self, latent: np.ndarray) -> np.ndarray:
        """(B, C, h, w) latent -> (B, n_mels, w * downsample) log-mel."""
        return image_to_log_mel(self.networks.decode_latents(latent), self.image_config)

    encode_view, decode_view = encode_log_mel, decode_log_mel

    def hear(self, channels: np.ndarray) -> np.ndarray:
        """(C, N) samples of a recording -> (1, N): their mean."""
        return channels.mean(axis=0, keepdims=True)

    def view(self, heard: np.ndarray) -> np.ndarray:
        """(1, N) samples -> their view (1, n_mels, T); zeros complete the last hop."""
        missing = -heard.shape[-1] % self.spectrogram_config.hop_length_samples
        return self.spectrogram(np.pad(heard, ((0, 0), (0, missing))))

    def silence(self, n_columns: int) -> np.ndarray:
        """(1, n_mels, T): the view of silence, `n_columns` of the latent long."""
        shape = (1, self.spectrogram_config.n_mels, n_columns * self.width_multiple)
        return np.full(shape, self.image_config.log_mel_min, np.float32)

    def sound(
        self, views: np.ndarray, gains_db: np.ndarray, noise: Noise
    ) -> tuple[np.ndarray, np.ndarray]:
        """(L, n_mels, T) log-mels of L layers, with gains (L,) or (1,) -> the sound (N,), and its
        log-mel.

        `noise` draws its texture and first phases; see `decoding_noise`.
        """
        layers = views + gains_db.astype(np.float32)[:, None, None] / DB_PER_NEPER
        log_mel = self.add_texture(mix_log_mels(layers)[None], noise)
        return self.vocode(log_mel, noise)[0], log_mel[0]

    def add_texture(self, log_mel: np.ndarray, noise: Noise | None = None) -> np.ndarray:
        """(B, n_mels, T) decoded log-mel -> the same with the texture that its latent lacks.

        `noise` draws it, the same for all rows; see `decoding_noise`. An autoencoder that predicts
        no texture gets none.
        """
        if not self.networks.sizes.has_texture:
            return log_mel
        noise = noise or decoding_noise(0)
        block = self.spectrogram_config.seconds_to_frames(VOCODER_WINDOW_S)
        block -= block % self.width_multiple
        starts = range(0, log_mel.shape[-1], block)
        parts = [self._textured(log_mel[..., start : start + block], noise) for start in starts]
        return np.concatenate(parts, axis=-1)

    def _textured(self, log_mel: np.ndarray, noise: Noise) -> np.ndarray:
        n_frames = log_mel.shape[-1]
        n_samples = n_frames * self.spectrogram_config.hop_length_samples
        texture = white_noise_texture(self.spectrogram, noise.normal((1, n_samples)))
        width = self._whole_width(n_frames)
        added = self.networks.texture(
            pad_image(log_mel_to_image(log_mel, self.image_config), width),
            pad_image(np.ascontiguousarray(texture[:, None, ::-1]), width),
        )
        textured = log_mel + added[:, 0, ::-1, :n_frames]
        return np.maximum(textured, self.image_config.log_mel_min)

    def vocode(self, log_mel: np.ndarray, noise: Noise | None = None) -> np.ndarray:
        """(B, n_mels, T) log-mel -> (B, T * hop) samples, float32; any length, window by window.

        `noise` draws Griffin-Lim's first phases; see `decoding_noise`.
        """
        config = self.spectrogram_config
        noise = noise or decoding_noise(0)

        def vocode_part(part: np.ndarray) -> np.ndarray:
            if self.griffin_lim is not None:
                return self.griffin_lim(part, noise)
            if part.shape[-1] == 0:
                return np.zeros((len(part), 0), np.float32)
            return self.networks.vocode(np.ascontiguousarray(part))

        return sound_in_windows(
            vocode_part,
            log_mel,
            config.seconds_to_frames(VOCODER_WINDOW_S),
            config.seconds_to_frames(OVERLAP_S),
        )

    def decode(
        self, latent: np.ndarray, n_samples: int | None = None, noise: Noise | None = None
    ) -> np.ndarray:
        """(B, C, h, w) latent -> (B, N) samples, cut to the first `n_samples`."""
        noise = noise or decoding_noise(0)
        log_mel = self.add_texture(self.decode_log_mel(latent), noise)
        return self.vocode(log_mel, noise)[:, :n_samples]

    def _whole_width(self, n_frames: int) -> int:
        return n_frames + -n_frames % self.width_multiple


def white_noise_texture(spectrogram: LogMel, noise: np.ndarray) -> np.ndarray:
    """(1, N) samples of white noise -> (1, n_mels, N // hop) log-mel without each band's mean."""
    texture = spectrogram(noise)
    return texture - texture.mean(axis=-1, keepdims=True)


def decoding_noise(seed: int) -> Noise:
    """The random numbers of decoding a sound of `seed`: its texture, then its first phases."""
    return Noise(seed ^ DECODING_STREAM)
