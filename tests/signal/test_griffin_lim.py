import numpy as np
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


def by_torch(log_mel: np.ndarray, seed: int, griffin_lim: GriffinLim) -> np.ndarray:
    """Griffin-Lim of one log-mel (n_mels, T), by torch's transforms in float64."""
    n_margin, hop, n_iterations = 7, 160, griffin_lim.n_iterations
    filterbank = mel_filterbank(griffin_lim.config).astype(np.float64)
    inverse = np.linalg.solve(filterbank.T @ filterbank, filterbank.T).T
    magnitude = torch.from_numpy(np.maximum(inverse @ np.exp(log_mel.astype(np.float64)), 0))
    magnitude = torch.nn.functional.pad(magnitude[None], (n_margin, n_margin), mode="replicate")
    n_samples = (magnitude.shape[-1] - 1) * hop
    sizes = {"n_fft": 2048, "hop_length": hop, "win_length": 1024}
    sizes["window"] = torch.hann_window(1024, dtype=torch.float64)
    white = torch.randn(1, n_samples, generator=torch.Generator().manual_seed(seed)).double()
    phases = torch.sgn(torch.stft(white, **sizes, return_complex=True))
    for _ in range(n_iterations):
        sound = torch.istft(magnitude * phases, **sizes, length=n_samples)
        consistent = torch.stft(sound, **sizes, return_complex=True)
        phases = torch.sgn(consistent)
    sound = torch.istft(magnitude * phases, **sizes, length=n_samples)[0]
    begin = n_margin * hop - hop // 2
    return sound[begin : begin + log_mel.shape[-1] * hop].numpy()


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
