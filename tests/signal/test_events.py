import numpy as np

from auffusion_cli.signal.events import find_events


def test_what_lies_between_pauses_is_an_event():
    rate_hz = 16_000
    waveform = np.zeros((2, 3 * rate_hz))
    spans = [(0.5, 0.8), (1.5, 1.6), (1.7, 1.9), (2.5, 3.0)]  # 0.1 s is no pause
    for start, end in spans:
        waveform[0, round(start * rate_hz) : round(end * rate_hz)] = 0.5
    waveform[1] = 1e-4  # what is far below is silence
    waveform[0, round(1.2 * rate_hz) : round(1.2 * rate_hz) + 50] = 0.1  # a click is none
    events = [
        (first / rate_hz, (first + n) / rate_hz) for first, n in find_events(waveform, rate_hz)
    ]
    expected = [(0.48, 0.9), (1.48, 2.0), (2.48, 3.0)]
    assert np.allclose(events, expected, atol=0.011)


def test_silence_has_none_and_a_steady_sound_is_one():
    assert find_events(np.zeros((1, 1000)), 16_000) == []
    assert find_events(np.ones((1, 16_000)), 16_000) == [(0, 16_000)]
