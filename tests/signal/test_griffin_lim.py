import numpy as np
import scipy.ndimage
import scipy.signal
import torch

from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.mel import mel_filterbank
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import LogMel, mel_error_db, normalize_peak


def sweep(n_samples: int) -> np.ndarray:
    """(1, n_samples): a tone that rises from 200 Hz, and a little noise."""
    t = np.arange(n_samples) / 16_000
    noise = np.random.default_rng(0).standard_normal(n_samples)
    return (np.sin(2 * np.pi * (200 + 400 * t) * t) + 0.01 * noise)[None].astype(np.float32)


def by_scipy(mel: np.ndarray) -> np.ndarray:
    """Richardson-Lucy deconvolution of each band's power (n_mels, T) by the squared window."""
    power = mel**2
    spread = scipy.signal.get_window("hann", 1024)[[32, 192, 352, 512, 672, 832, 992]] ** 2
    spread = spread / spread.sum()
    sharp = power
    for _ in range(20):
        seen = scipy.ndimage.convolve1d(sharp, spread, mode="nearest")
        sharp = sharp * scipy.ndimage.convolve1d(power / seen, spread, mode="nearest")
    return np.sqrt(sharp)


def by_torch(log_mel: np.ndarray, seed: int, griffin_lim: GriffinLim) -> np.ndarray:
    """Griffin-Lim of one log-mel (n_mels, T), by torch's transforms in float64."""
    n_margin, hop, n_iterations = 7, 160, griffin_lim.n_iterations
    filterbank = mel_filterbank(griffin_lim.config).astype(np.float64)
    inverse = np.linalg.solve(filterbank.T @ filterbank, filterbank.T).T
    mel = np.pad(np.exp(log_mel.astype(np.float64)), ((0, 0), (n_margin, n_margin)), mode="edge")
    n_samples = (mel.shape[-1] - 1) * hop
    sizes = {"n_fft": 1024, "hop_length": hop}

    def projected(sound: torch.Tensor, mel: np.ndarray, n_window: int) -> torch.Tensor:
        magnitude = torch.from_numpy(np.maximum(inverse @ mel, 0)[::2])[None]
        window = {"win_length": n_window, "window": torch.hann_window(n_window).double()}
        spectrum = torch.stft(sound, **sizes, **window, return_complex=True)
        spectrum = magnitude * torch.sgn(spectrum)
        return torch.istft(spectrum, **sizes, **window, length=n_samples)

    white = torch.randn(1, n_samples, generator=torch.Generator().manual_seed(seed)).double()
    sound = projected(white, by_scipy(mel), 480)
    for _ in range(1 + n_iterations):
        sound = projected(sound, mel, 1024)
    begin = n_margin * hop - hop // 2
    return sound[0, begin : begin + log_mel.shape[-1] * hop].numpy()


def test_it_is_griffin_lim():
    """Iterations amplify how phases round where a spectrum is nearly empty."""
    log_mel, griffin_lim = LogMel()(normalize_peak(sweep(24_000))), GriffinLim(n_iterations=8)
    expected = by_torch(log_mel[0], 5, griffin_lim)
    np.testing.assert_allclose(griffin_lim(log_mel, Noise(5))[0], expected, atol=1e-3)


def test_it_returns_what_was_analysed():
    reference = LogMel()(normalize_peak(sweep(16_000)))
    waveform = GriffinLim()(reference)
    assert waveform.shape == (1, 16_000) and waveform.dtype == np.float32
    assert mel_error_db(reference, LogMel()(waveform)) < 3.0


def test_it_is_deterministic_and_ignores_the_batch_and_the_number_of_threads(monkeypatch):
    log_mel = LogMel()(normalize_peak(sweep(16_000)))
    griffin_lim = GriffinLim(n_iterations=4)
    alone = griffin_lim(log_mel)
    np.testing.assert_array_equal(griffin_lim(log_mel), alone)
    batch = griffin_lim(np.concatenate([np.zeros_like(log_mel), log_mel]))
    np.testing.assert_array_equal(batch[1:], alone)
    for n_threads in ("1", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
        np.testing.assert_array_equal(griffin_lim(log_mel), alone)


def test_it_finds_other_phases_with_other_noise():
    log_mel = LogMel()(normalize_peak(sweep(4_800)))
    griffin_lim = GriffinLim(n_iterations=4)
    first, again, other = (griffin_lim(log_mel, Noise(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(other - first).max() > 0.01


def test_clicks_stay_apart():
    """Four fifths of their power lie within 10 ms; from steady noise it would be two thirds."""
    rng, clicks, near = (
        np.random.default_rng(0),
        np.zeros((1, 16_000), np.float32),
        np.zeros(16_000),
    )
    for at in range(1_000, 15_000, 800):
        clicks[0, at : at + 32] = rng.standard_normal(32)
        near[at - 64 : at + 96] = 1
    power = GriffinLim()(LogMel()(normalize_peak(clicks)))[0] ** 2
    assert (power * near).sum() > 0.76 * power.sum()


def test_noise_does_not_pulse():
    """The autocorrelation at one to six hops; with phases from zero it is 0.27 at three."""
    # As smooth as latents leave it: without the texture that would hint at the phases.
    log_mel = LogMel()(normalize_peak(Noise(3).normal((1, 32_000))))
    smooth = np.repeat(log_mel.mean(axis=-1, keepdims=True), 200, axis=-1)
    sound = GriffinLim()(smooth)[0, 3_200:-3_200]
    for lag in range(160, 1_120, 160):
        correlation = (sound[lag:] * sound[:-lag]).mean() / np.square(sound).mean()
        assert abs(correlation) < 0.1


def test_silence_and_nothing():
    silence = np.full((1, 256, 5), np.log(1e-5), np.float32)
    assert np.abs(GriffinLim(n_iterations=2)(silence)).max() < 1e-3
    assert GriffinLim()(np.zeros((2, 256, 0))).shape == (2, 0)
