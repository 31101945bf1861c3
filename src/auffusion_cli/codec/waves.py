"""waveform <-> latent, for systems whose autoencoder works on waveforms; for one window.

There is no log-mel on the way: what the autoencoder sees of a sound, its view, are its samples. A
log-mel is computed for pictures alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import LogMel

if TYPE_CHECKING:
    from auffusion_cli.engines.wave_networks import WaveNetworks


class WaveCodec:
    """An autoencoder of waveforms; see `codec.Codec`, beside which it stands.

    Latents (B, c, 1, w) have no frequencies: h is 1.
    """

    vocoder_name = "autoencoder"
    griffin_lim = None

    def __init__(self, networks: WaveNetworks, spectrogram_config: SpectrogramConfig) -> None:
        """The autoencoder's hop is a multiple of the spectrogram's, which is for pictures."""
        self.networks = networks
        self.spectrogram_config = spectrogram_config
        self.spectrogram = LogMel(spectrogram_config)

    @property
    def view_multiple(self) -> int:
        """Samples of a column of the latent."""
        return self.networks.sizes.downsample

    @property
    def width_multiple(self) -> int:
        """Columns of the spectrogram in one of the latent."""
        return self.view_multiple // self.spectrogram_config.hop_length_samples

    def latent_shape(self, duration_s: float) -> tuple[int, int, int]:
        """(c, 1, w) of the latent of a sound that lasts `duration_s`."""
        n_columns = self.spectrogram_config.seconds_to_frames(duration_s)
        multiple = self.networks.column_multiple
        width = -(-n_columns // (self.width_multiple * multiple)) * multiple
        return self.networks.sizes.latent_channels, 1, width

    def hear(self, channels: np.ndarray) -> np.ndarray:
        """(C, N) samples of a recording -> as many channels as the autoencoder takes.

        Where their number is another, all are the recording's mean.
        """
        n_channels = self.networks.n_channels
        if len(channels) == n_channels:
            return channels
        return np.repeat(channels.mean(axis=0, keepdims=True), n_channels, axis=0)

    def view(self, heard: np.ndarray) -> np.ndarray:
        """(C, N) samples -> their view, which are they themselves: (1, C, N)."""
        return heard[None]

    def encode_view(self, view: np.ndarray) -> np.ndarray:
        """(B, C, N) samples -> (B, c, 1, w) latents; silence fills the last column."""
        missing = -view.shape[-1] % self.view_multiple
        return self.networks.encode_waveform(np.pad(view, ((0, 0), (0, 0), (0, missing))))

    def decode_view(self, latents: np.ndarray) -> np.ndarray:
        """(B, c, 1, w) latents -> (B, C, w * view_multiple) samples."""
        return self.networks.decode_waveform(latents)

    def silence(self, n_columns: int) -> np.ndarray:
        """(1, C, N): the view of silence, `n_columns` of the latent long."""
        shape = (1, self.networks.n_channels, n_columns * self.view_multiple)
        return np.zeros(shape, np.float32)

    def sound(
        self, views: np.ndarray, gains_db: np.ndarray, noise: Noise
    ) -> tuple[np.ndarray, np.ndarray]:
        """(L, C, N) samples of L layers, with gains (L,) or (1,) -> the sound (C, N), its log-mel.

        Nothing is drawn from `noise`: the autoencoder makes all of the sound.
        """
        gains = 10 ** (gains_db / 20)
        waveform = (views * gains[:, None, None].astype(np.float32)).sum(axis=0)
        return waveform, self.spectrogram(waveform.mean(axis=0, keepdims=True))[0]
