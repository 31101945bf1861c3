"""What is made above 8 kHz: nothing below, as loud as the network says, as sudden as the sound."""

import numpy as np
import pytest

from auffusion_cli.codec import upper_band
from auffusion_cli.codec.upper_band import (
    HIGH_EDGES,
    LOW_EDGES,
    SAMPLE_RATE_HZ,
    UpperBand,
    band_powers,
    levels_db,
    spectra,
)
from auffusion_cli.signal.audio import resample

RATE_HZ = 16_000
WIDTH = 8


def network(scale=0.0, level=0.0, seed=0) -> UpperBand:
    """One that tells `level`, or with a `scale` what is random."""
    rng = np.random.default_rng(seed)
    n_in, n_out = len(LOW_EDGES), len(HIGH_EDGES) - 1
    sizes = {"first": (WIDTH, n_in, 3), "last": (n_out, WIDTH, 1)}
    sizes |= {f"blocks.{i}": (WIDTH, WIDTH, 3) for i in range(len(upper_band.DILATIONS))}
    tensors = {}
    for name, size in sizes.items():
        tensors[f"{name}.weight"] = (scale * rng.normal(size=size)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(size[0], np.float32)
    tensors["last.bias"][:] = level
    return UpperBand(tensors)


def white(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def extend(made_by, waveform, rate_hz=RATE_HZ, seed=1):
    n = -(-waveform.shape[-1] * SAMPLE_RATE_HZ // rate_hz)
    return made_by(waveform, rate_hz, white(n, seed))


def spectrum_of(waveform):
    """Of the first channel, under a window: its ends are cut off wherever they are."""
    return np.abs(np.fft.rfft(np.hanning(waveform.shape[-1]) * waveform[0]))


def level_db(waveform):
    return 20 * np.log10(np.sqrt(np.mean(np.square(waveform))) + 1e-12)


def test_below_the_sound_is_that_of_plain_resampling():
    sound = 0.1 * white(2 * RATE_HZ)[None]
    plain = resample(sound, RATE_HZ, SAMPLE_RATE_HZ)
    made = extend(network(level=0.5), sound)
    assert made.shape == plain.shape
    assert level_db(made) > level_db(plain) - 10
    hz = np.fft.rfftfreq(plain.shape[-1], 1 / SAMPLE_RATE_HZ)
    spectrum, loudest = spectrum_of(made), spectrum_of(plain).max()
    assert spectrum[hz < 7_000].max() < 1e-4 * loudest
    # Half of the power is above 12 kHz, so it is no edge of the crossover that is measured.
    assert spectrum[(hz > 12_000) & (hz < 19_000)].mean() > 0.1 * spectrum.max()


@pytest.mark.parametrize("rate_hz", [22_050, 32_000])
def test_it_begins_where_the_sound_ends(rate_hz):
    sound = 0.1 * white(rate_hz)[None]
    spectrum = spectrum_of(extend(network(), sound, rate_hz)[:, :SAMPLE_RATE_HZ])
    assert spectrum[: int(0.88 * rate_hz / 2)].max() < 1e-3 * spectrum.max()
    assert spectrum[int(rate_hz / 2) + 200 : 19_000].min() > 0


def test_a_sound_that_has_all_gets_nothing():
    assert level_db(extend(network(), 0.1 * white(44_100)[None], 44_100)) < -70


def test_bands_are_as_loud_as_the_network_says():
    sound = 0.1 * white(4 * RATE_HZ)[None]
    for level in (0.0, -2.0):
        made = extend(network(level=level), sound)
        whole = resample(sound, RATE_HZ, SAMPLE_RATE_HZ) + made
        spectrum = spectra(whole[0])[10:-10]
        low, high = (levels_db(band_powers(spectrum, e)) for e in (LOW_EDGES, HIGH_EDGES))
        told = np.median(low[:, -5:].mean(axis=1)) + 10 * level
        assert np.median(high[:, 3:-1], axis=0) == pytest.approx(told, abs=1.5)


def test_a_sound_turned_up_is_the_same_louder():
    sound = 0.01 * white(RATE_HZ)[None]
    one, other = (extend(network(0.3), gain * sound) for gain in (1, 4))
    assert np.allclose(other, 4 * one, atol=1e-6, rtol=1e-3)


def test_what_begins_suddenly_does_so_above():
    sound = np.zeros((1, RATE_HZ))
    sound[0, 8_000:12_000] = 0.1 * white(4_000)
    made = extend(network(), sound)[0]
    onset, ms = 24_000, SAMPLE_RATE_HZ // 1000
    assert level_db(made[: onset - 11 * ms]) < -75
    assert level_db(made[onset + ms : onset + 10 * ms]) > -40


def test_silence_gets_nothing_and_equal_channels_stay_equal():
    assert not np.any(extend(network(), np.zeros((2, 4_000))))
    sound = 0.1 * white(RATE_HZ)
    both = extend(network(0.3), np.stack([sound, sound]))
    assert np.array_equal(both[0], both[1])


def test_blocks_are_not_heard(monkeypatch):
    sound = 0.1 * white(RATE_HZ)[None]
    whole = extend(network(0.3), sound)
    monkeypatch.setattr(upper_band, "BLOCK_FRAMES", 17)
    assert np.allclose(extend(network(0.3), sound), whole, atol=1e-12)


def test_a_short_sound_has_an_upper_band():
    for n in (1, 5, 300):
        assert np.isfinite(extend(network(0.3), 0.1 * white(n)[None])).all()
