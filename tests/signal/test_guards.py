"""What is wrong with a sound, found in made-up ones."""

import numpy as np
import pytest

from auffusion_cli.signal.guards import find_fault, rumbles

RATE_HZ = 16_000
TIME_S = np.arange(2 * RATE_HZ) / RATE_HZ
NOISE = np.random.default_rng(0).normal(size=len(TIME_S))


def tone(frequency_hz=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency_hz * TIME_S)


def pulses():
    """Noise that comes and goes, as most sounds do."""
    return 0.2 * NOISE * (0.1 + np.sin(2 * np.pi * 2 * TIME_S) ** 2)


@pytest.mark.parametrize(
    ("waveform", "fault"),
    [
        (np.zeros(RATE_HZ), "silent"),
        (1e-4 * NOISE, "silent"),
        (np.clip(5 * tone() + 2 * NOISE, -1, 1), "clipped"),
        (tone(), "a plain tone"),
        (tone(3000), "a plain tone"),
        (0.1 * NOISE, "plain noise"),
        (pulses(), None),
        (tone() * np.exp(-5 * TIME_S), None),  # a bell, a drum
        (np.convolve(0.1 * NOISE, np.ones(30) / 30, "same"), None),  # a rumble
        (pulses()[:500], None),  # too short to tell
        (np.zeros(0), "silent"),
    ],
)
def test_faults(waveform, fault):
    assert find_fault(waveform.astype(np.float32), "a dog barking") == fault


def test_what_is_asked_for_is_no_fault():
    assert find_fault(tone(), "an electric hum") is None
    assert find_fault(tone(), "Beeps of a computer") is None
    assert find_fault(0.1 * NOISE, "heavy rain on a tin roof") is None
    assert find_fault(0.1 * NOISE, "an electric hum") == "plain noise"
    assert find_fault(np.zeros(RATE_HZ), "silence in the rain") == "silent"


def test_what_is_mostly_rumble_is_called_that():
    time_s = np.arange(16_000) / 16_000
    crunch = 0.1 * np.random.default_rng(0).normal(size=16_000)
    for level, expected in ((0.05, False), (0.5, True)):
        sound = crunch + level * np.sin(2 * np.pi * 12 * time_s)
        assert rumbles(sound, 16_000) is expected
    assert not rumbles(np.zeros((2, 1_000)), 16_000)
