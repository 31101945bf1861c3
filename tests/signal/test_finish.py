"""A finished sound: fades, channels, rate and level."""

import numpy as np
import pytest

from auffusion_cli.requests.finish import Finish
from auffusion_cli.signal.filters import BLOCK_SAMPLES, apply_filter
from auffusion_cli.signal.finish import finish
from auffusion_cli.signal.meters import loudness_lufs, to_db, true_peak

RATE_HZ = 16_000


def noise(n=3 * RATE_HZ, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=(1, n))


def test_loudness_and_peak_are_what_was_asked_for():
    made = finish(noise(), RATE_HZ, Finish(loudness_lufs=-23.0))
    assert loudness_lufs(made.waveform, RATE_HZ) == pytest.approx(-23, abs=0.05)
    made = finish(noise(), RATE_HZ, Finish(peak_db=-3.0))
    assert to_db(true_peak(made.waveform)) == pytest.approx(-3, abs=0.01)
    assert made.missed_lufs is None


def test_the_peak_comes_before_the_loudness_and_that_is_told():
    click = np.zeros((1, RATE_HZ))
    click[0, 100:110] = 0.5
    made = finish(click, RATE_HZ, Finish(loudness_lufs=-16.0))
    assert to_db(true_peak(made.waveform)) == pytest.approx(-1, abs=0.01)
    assert made.missed_lufs == pytest.approx(loudness_lufs(made.waveform, RATE_HZ), abs=0.01)
    assert made.missed_lufs < -16


def test_silence_stays_silence():
    asked = Finish(loudness_lufs=-16.0, channels=2, rate_hz=48_000, fade_in_s=1.0)
    assert not finish(np.zeros((1, 1000)), RATE_HZ, asked).waveform.any()


def test_a_low_cut_takes_away_what_is_below_and_no_more():
    for hz, gain_db, within in ((15, -24, 1.5), (30, -3, 0.5), (60, 0, 0.5), (1000, 0, 0.05)):
        tone = np.sin(2 * np.pi * hz * np.arange(4 * RATE_HZ) / RATE_HZ)[np.newaxis]
        made = finish(tone, RATE_HZ, Finish(low_cut_hz=30.0)).waveform
        steady = slice(RATE_HZ, 3 * RATE_HZ)
        assert to_db(made[:, steady].std() / tone[:, steady].std()) == pytest.approx(
            gain_db, abs=within
        )
    loop = np.sin(2 * np.pi * 20 * np.arange(RATE_HZ) / RATE_HZ)[np.newaxis] + noise(RATE_HZ)
    made = finish(loop, RATE_HZ, Finish(low_cut_hz=30.0), loop=True).waveform
    again = finish(np.tile(loop, 3), RATE_HZ, Finish(low_cut_hz=30.0)).waveform
    assert np.allclose(made, again[:, RATE_HZ : 2 * RATE_HZ], atol=1e-4)  # no seam
    assert not finish(noise(1000), 1000, Finish(low_cut_hz=600.0)).waveform.any()


def test_fades_begin_and_end_in_silence():
    made = finish(np.ones((2, 1000)), 1000, Finish(fade_in_s=0.1, fade_out_s=0.2)).waveform
    assert made[:, 0].tolist() == made[:, -1].tolist() == [0, 0]
    assert np.all(np.diff(made[:, :100]) > 0) and np.all(np.diff(made[:, 800:]) < 0)
    assert np.all(made[:, 100:800] == 1)
    # One longer than the sound takes all of it.
    assert finish(np.ones((1, 100)), 1000, Finish(fade_out_s=5.0)).waveform.shape == (1, 100)


def band(waveform, low_hz, high_hz, rate_hz=RATE_HZ):
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(waveform.shape[-1], 1 / rate_hz)
    spectrum[..., (frequencies < low_hz) | (frequencies > high_hz)] = 0
    return np.fft.irfft(spectrum, waveform.shape[-1])


def correlation(waveform):
    return float(np.corrcoef(waveform)[0, 1])


def test_the_image_is_wide_above_200_hz_and_mono_below():
    mono = noise(10 * RATE_HZ)
    stereo = finish(mono, RATE_HZ, Finish(channels=2)).waveform
    assert correlation(band(stereo, 20, 60)) > 0.95
    for low_hz in (400, 1_000, 2_000, 4_000):
        assert abs(correlation(band(stereo, low_hz, 2 * low_hz)) - 0.34) < 0.2
    left, right = (stereo**2).mean(axis=1)
    assert left == pytest.approx(right, rel=0.1)
    assert (left + right) / 2 == pytest.approx((mono**2).mean(), rel=0.1)


def test_its_mono_sum_is_the_sound_itself():
    mono = noise()
    stereo = finish(mono, RATE_HZ, Finish(channels=2)).waveform
    gain = 1 / np.sqrt(1 + 0.7**2)
    assert np.allclose(stereo.mean(axis=0), gain * mono[0], atol=1e-12)
    assert finish(stereo, RATE_HZ, Finish(channels=2)).waveform is not stereo
    assert np.array_equal(finish(stereo, RATE_HZ, Finish(channels=2)).waveform, stereo)
    assert finish(stereo, RATE_HZ, Finish(channels=1)).waveform.shape == mono.shape


def test_the_rate_changes_and_the_pitch_does_not():
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)[None]
    made = finish(tone, RATE_HZ, Finish(rate_hz=48_000))
    assert made.rate_hz == 48_000 and made.waveform.shape == (1, 48_000)
    spectrum = np.abs(np.fft.rfft(made.waveform[0]))
    assert spectrum.argmax() == 440


def test_a_loop_stays_one():
    # Whole periods: played again and again, it is a sine for ever.
    tone = 0.5 * np.sin(2 * np.pi * 100 * np.arange(RATE_HZ) / RATE_HZ)[None]
    made = finish(tone, RATE_HZ, Finish(rate_hz=48_000, channels=2, fade_in_s=0.1), loop=True)
    assert made.waveform.shape == (2, 48_000)
    for channel in made.waveform:
        spectrum = np.abs(np.fft.rfft(channel))
        assert np.delete(spectrum, 100).max() < 1e-3 * spectrum[100]


def test_what_is_made_above_a_loop_has_no_seam():
    def ramp(waveform, rate_hz):
        """Something that does not repeat, as it is made of noise."""
        n = 3 * waveform.shape[-1]
        return np.repeat(np.linspace(0, 1, n)[None], len(waveform), axis=0), 3 * rate_hz

    silence, asked = np.zeros((2, RATE_HZ)), Finish(rate_hz=48_000)
    plain = finish(silence, RATE_HZ, asked, extend=ramp).waveform
    loop = finish(silence, RATE_HZ, asked, extend=ramp, loop=True).waveform
    assert plain.shape == loop.shape == (2, 48_000)
    assert plain[0, 0] == 0 and abs(loop[0, 0] - loop[0, -1]) < 0.01
    assert np.abs(np.diff(loop)).max() < 0.01


def test_a_filter_does_not_hear_the_borders_of_its_blocks():
    waveform = noise(BLOCK_SAMPLES + 5_000)
    delayed = apply_filter(waveform, lambda z1: 0.5 * z1**300, 301)
    assert np.allclose(delayed[:, 300:], 0.5 * waveform[:, :-300], atol=1e-12)
    assert np.allclose(delayed[:, :300], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("n_channels", "left_of_each"),
    [(3, [1, 0, 0.5**0.5]), (6, [1, 0, 0.5**0.5, 0, 0.5**0.5, 0]), (8, [1] * 8)],
)
def test_more_than_two_channels_are_folded_into_stereo(n_channels, left_of_each):
    each = np.eye(n_channels)  # a sample in each channel, one after the other
    stereo = finish(each, RATE_HZ, Finish(channels=2)).waveform
    assert stereo.shape == (2, n_channels)
    assert stereo[0] == pytest.approx(np.array(left_of_each) / sum(left_of_each))
    assert stereo[1].sum() == pytest.approx(1)  # nothing clips
