"""Sounds made by formula, for kinds that recordings leave thin or that are recorded badly.

    python recipes/embedded/synthesised.py --judge DIR -o recipes/embedded/synthesised.json

A kind is a function of a random generator, which draws what differs between two helicopters; what
makes them helicopters is written down (the models are of the sort that Farnell, Designing Sound,
MIT Press 2010, part V, describes). `synthesise` fills a folder with the variations whose seeds are
in `synthesised.json`. The command above chooses these: the ones that YAMNet (see
measure_independent.py) is surest of after the embedded codec, where one of the kind's classes is
among its first five, so that the latents learned from are those of sounds that are recognised; of
a kind of which none passes the codec, as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt

PACKAGE = "synthesised"  # the name these sounds go by among the packages
RATE_HZ = 32_000
DURATION_S = 6.0
N = int(RATE_HZ * DURATION_S)
TIME_S = np.arange(N) / RATE_HZ
FADE_S = 0.01
PEAK = 0.9
CODEC_RATE_HZ = 16_000
CHOSEN = Path(__file__).with_suffix(".json")
N_CHOSEN, N_TRIED, N_FIRST = 40, 100, 5

Random = np.random.Generator
Formants = Sequence[tuple[float, float, float]]
"""(frequency in Hz, bandwidth in Hz, gain)."""
AH: Formants = [(850, 150, 1), (1350, 180, 1), (2900, 300, 0.6)]
OH: Formants = [(450, 120, 1), (900, 150, 0.7), (2700, 250, 0.3)]
EE: Formants = [(400, 120, 1), (2100, 200, 1), (3000, 300, 0.6)]

# Building blocks ----------------------------------------------------------------------------------


def samples(duration_s: float) -> int:
    return int(duration_s * RATE_HZ)


def level(waveform: np.ndarray) -> np.ndarray:
    """The waveform with a root mean square of 1."""
    return waveform / (np.sqrt(np.mean(waveform**2)) + 1e-9)


def band(waveform: np.ndarray, low_hz: float, high_hz: float, order: int = 2) -> np.ndarray:
    """Butterworth band-pass."""
    edges = [low_hz, min(high_hz, 0.49 * RATE_HZ)]
    return sosfilt(butter(order, edges, "bandpass", fs=RATE_HZ, output="sos"), waveform)


def noise(rng: Random, low_hz: float, high_hz: float, order: int = 1, n: int = N) -> np.ndarray:
    """Band-passed noise with a root mean square of 1."""
    return level(band(rng.standard_normal(n), low_hz, high_hz, order))


def click(rng: Random, low_hz: float, high_hz: float, duration_s: float, t60_s: float):
    """Band-passed decaying noise."""
    n = samples(duration_s)
    return band(rng.standard_normal(n) * decay(n, t60_s), low_hz, high_hz)


def log_uniform(rng: Random, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def decay(n: int, t60_s: float) -> np.ndarray:
    return 10 ** (-3 * np.arange(n) / RATE_HZ / t60_s)


def control(rng: Random, rate_hz: float, low: float = 0.0, high: float = 1.0, n: int = N):
    """A slow random curve (n,) through `rate_hz` values a second."""
    n_knots = max(2, int(n / RATE_HZ * rate_hz) + 2)
    values = rng.uniform(low, high, n_knots + 1)
    at = np.linspace(0, n_knots - 1, n)
    index = at.astype(int)
    rise = (at - index) ** 2 * (3 - 2 * (at - index))
    return values[index] * (1 - rise) + values[index + 1] * rise


def phase(frequency_hz: np.ndarray) -> np.ndarray:
    return 2 * np.pi * np.cumsum(frequency_hz) / RATE_HZ


def add(track: np.ndarray, at_s: float, waveform: np.ndarray) -> None:
    """Add the waveform to the track from `at_s` on, cut at both ends of the track."""
    start = int(at_s * RATE_HZ)
    if start < 0:
        waveform, start = waveform[-start:], 0
    track[start : start + len(waveform)] += waveform[: max(0, len(track) - start)]


def poisson(rng: Random, rate_hz: float) -> np.ndarray:
    """Times in seconds of independent events."""
    times = np.cumsum(rng.exponential(1 / rate_hz, int(DURATION_S * rate_hz * 1.5) + 5))
    return times[times < DURATION_S]


def echo(rng: Random, waveform: np.ndarray, t60_s: float, gain: float) -> np.ndarray:
    """The waveform and its reverberation by decaying noise."""
    n = samples(t60_s)
    wet = fftconvolve(waveform, rng.standard_normal(n) * decay(n, t60_s))[: len(waveform)]
    return level(waveform) + gain * level(wet)


def resonate(waveform: np.ndarray, frequency_hz: np.ndarray, quality: float) -> np.ndarray:
    """Noise through a resonance that moves, in steps of 5 ms."""
    out, state, hop = np.zeros(len(waveform)), np.zeros(2), samples(0.005)
    for start in range(0, len(waveform), hop):
        angle = 2 * np.pi * frequency_hz[start] / RATE_HZ
        radius = 1 - angle / (2 * quality)
        poles = [1, -2 * radius * np.cos(angle), radius**2]
        block = slice(start, start + hop)
        out[block], state = lfilter([1 - radius], poles, waveform[block], zi=state)
    return level(out)


def voice(rng: Random, pitch_hz: np.ndarray, formants: Formants, size: float, breath: float):
    """Pulses and breath through the resonances of a throat `size` times as short as a man's."""
    n = len(pitch_hz)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / RATE_HZ), prepend=0)
    source = lfilter([1], [1, -0.9], pulses) + breath * rng.standard_normal(n)
    out = np.zeros(n)
    for frequency_hz, bandwidth_hz, gain in formants:
        radius = np.exp(-np.pi * bandwidth_hz / RATE_HZ)
        angle = 2 * np.pi * frequency_hz * size / RATE_HZ
        poles = [1, -2 * radius * np.cos(angle), radius**2]
        out += gain * lfilter([1 - radius], poles, source)
    return level(out)


# Weather, water and fire --------------------------------------------------------------------------


def rain(rng: Random) -> np.ndarray:
    """Drops, of which the near ones ring, over the hiss of the far ones."""
    drops = np.zeros(N)
    for at_s in poisson(rng, rng.uniform(150, 700)):
        n = samples(rng.uniform(0.002, 0.012))
        ring = np.cos(phase(np.full(n, np.exp(rng.uniform(7.1, 8.9)))) + rng.uniform(0, 6))
        size = min(0.5 * rng.pareto(2.5), 4)
        add(drops, at_s, size * rng.standard_normal(n) * decay(n, n / RATE_HZ) * ring)
    hiss = band(rng.standard_normal(N), rng.uniform(300, 900), rng.uniform(7000, 13000), 1)
    hiss *= rng.uniform(0.15, 0.65) * (1 + 0.15 * control(rng, 2, -1, 1))
    rumble = band(rng.standard_normal(N), 80, 400) * rng.uniform(0, 0.15)
    return hiss + rng.uniform(0.5, 1.2) * drops + rumble


def thunder(rng: Random) -> np.ndarray:
    """Claps one over another, each darker than the last; far thunder has lost what is high."""
    near = rng.uniform()
    since_s = TIME_S - rng.uniform(0, 0.4)
    claps = [(0.0, 1.0)]
    claps += [(rng.uniform(0.2, 2.5), rng.uniform(0.3, 1)) for _ in range(rng.integers(3, 8))]
    rolling = np.zeros(N)
    for at_s, gain in claps:
        age_s = np.maximum(since_s - at_s, 0)
        attack = np.minimum(1, age_s / (0.01 + 0.12 * (1 - near) * rng.random()))
        envelope = attack * np.exp(-age_s / rng.uniform(0.25, 0.9))
        brightness = near * (1 - at_s / 3)
        highest_hz = 250 * 10**brightness * rng.uniform(0.7, 1.3)
        clap = 1.1 * noise(rng, 28, 110, 2) + 0.8 * noise(rng, 60, max(highest_hz, 250))
        rolling += gain * clap * envelope
    rolling *= 1 + 0.5 * np.abs(control(rng, 30, -1, 1))
    fading = np.clip(since_s / 0.3, 0, 1) * np.exp(-np.maximum(since_s, 0) / 3)
    rolling += 0.35 * noise(rng, 28, 160, 2) * control(rng, 5) * fading
    wet = rng.uniform(0.02, 0.1) if rng.random() < 0.7 else 0.0
    return np.tanh(0.45 * (level(rolling) + wet * level(rain(rng))))


def wind(rng: Random) -> np.ndarray:
    """Gusts, and what they whistle through."""
    gusts = 0.2 + 0.8 * control(rng, rng.uniform(0.6, 1.6))
    body = noise(rng, 30, rng.uniform(150, 350)) * gusts * (1 + 0.3 * control(rng, 9, -1, 1))
    body += noise(rng, 150, 900) * gusts**2 * rng.uniform(0.2, 0.5)
    for _ in range(rng.integers(1, 4)):
        frequency_hz = rng.uniform(280, 900) * (1 + 0.5 * gusts + 0.1 * control(rng, 4, -1, 1))
        whistle = resonate(rng.standard_normal(N), frequency_hz, rng.uniform(4, 14))
        body += whistle * gusts**2 * rng.uniform(0.2, 0.8)
    return body


def fire(rng: Random) -> np.ndarray:
    """Crackles of all sizes, in flurries, over the flames' flutter, roar and hiss."""
    crackles, flurries = np.zeros(N), control(rng, 3, rng.uniform(0, 0.6), 1)
    rate_hz, longest_s, lowest_hz = (
        log_uniform(rng, 5, 40),
        log_uniform(rng, 0.008, 0.05),
        log_uniform(rng, 600, 1500),
    )
    for at_s in poisson(rng, rate_hz):
        if rng.random() < flurries[int(at_s * RATE_HZ)]:
            n, frequency_hz = (
                samples(rng.uniform(0.004, longest_s)),
                log_uniform(rng, lowest_hz, 6000),
            )
            burst = rng.standard_normal(n) * decay(n, n / RATE_HZ)
            size = min(0.4 * rng.pareto(rng.uniform(1.4, 2.5)), 6)
            add(crackles, at_s, size * band(burst, 0.5 * frequency_hz, 1.7 * frequency_hz))
    for at_s in poisson(rng, log_uniform(rng, 3, 16) * rate_hz):
        size = min(0.1 * rng.pareto(2), 1)
        add(crackles, at_s, size * rng.standard_normal(30) * decay(30, 0.002))
    flutter = noise(rng, 40, rng.uniform(150, 450)) * control(rng, rng.uniform(3, 14), 0.4, 1)
    roar = noise(rng, 150, 1200) * control(rng, 5, 0.4, 1)
    hiss = noise(rng, rng.uniform(800, 4000), 9000) * control(rng, 4, 0.2, 1)
    flames = log_uniform(rng, 0.2, 1) * flutter + log_uniform(rng, 0.01, 0.3) * roar
    return level(crackles) + flames + log_uniform(rng, 0.01, 0.3) * hiss


# Machines and things ------------------------------------------------------------------------------


def helicopter(rng: Random) -> np.ndarray:
    """Noise that the blades chop, with the tones of both rotors and of the turbine."""
    blades_hz = rng.uniform(10, 20)
    turns = phase(blades_hz * (1 + 0.01 * (control(rng, 1) - 0.5)))
    slap = np.exp(-0.5 * ((turns / (2 * np.pi) % 1 - 0.5) / rng.uniform(0.1, 0.2)) ** 2)
    body = noise(rng, 40, rng.uniform(180, 350), 2) * (0.35 + slap)
    body += noise(rng, 150, rng.uniform(800, 2200)) * (0.25 + 0.75 * slap) * rng.uniform(0.4, 0.9)
    body += noise(rng, 1000, 6000) * (0.6 + 0.4 * slap) * rng.uniform(0.05, 0.2)
    rotor = sum(np.sin(k * turns + rng.uniform(0, 6)) * np.exp(-k / 6) for k in range(2, 16))
    tail = turns * rng.uniform(2.2, 3)
    tail = sum(np.sin(k * tail) / k for k in range(1, 8))
    turbine = np.sin(phase(rng.uniform(800, 2500) * (1 + 0.003 * control(rng, 3, -1, 1))))
    body += rng.uniform(0.1, 0.5) * rotor + rng.uniform(0.05, 0.25) * tail
    body += rng.uniform(0, 0.05) * turbine
    if rng.random() < 0.5:  # it flies by
        passing_s = rng.uniform(0.3, 0.7) * DURATION_S
        body *= 0.15 + 0.85 / (1 + ((TIME_S - passing_s) / rng.uniform(1, 2)) ** 2)
    return body


def train(rng: Random) -> np.ndarray:
    """Wheels over joints, two axles at a time, the rumble between them, sometimes the horn."""
    turns = (TIME_S / rng.uniform(0.5, 0.9) + rng.random()) % 1

    def joint(at: float, width: float) -> np.ndarray:
        return np.exp(-0.5 * ((np.abs((turns - at + 0.5) % 1 - 0.5)) / width) ** 2)

    clack = joint(0.2, 0.02) + 0.8 * joint(0.34, 0.02)
    clack += 0.5 * joint(0.6, 0.03) + 0.5 * joint(0.75, 0.03)
    body = noise(rng, 40, rng.uniform(200, 350)) * (0.6 + 0.6 * clack) * control(rng, 6, 0.7, 1)
    middle = noise(rng, 200, rng.uniform(900, 1800)) * (0.35 + clack) * control(rng, 6, 0.7, 1)
    body += rng.uniform(0.5, 0.9) * middle
    body += rng.uniform(0.1, 0.3) * noise(rng, 1500, 7000) * (0.3 + 0.7 * clack)
    motor = phase(rng.uniform(35, 60) * (1 + 0.02 * control(rng, 3, -1, 1)))
    hum = sum(np.sin(k * motor + rng.uniform(0, 6)) / k**0.7 for k in range(1, 12))
    squeal = np.sin(phase(rng.uniform(2200, 4200) * (1 + 0.004 * control(rng, 20, -1, 1))))
    body += rng.uniform(0, 0.25) * hum
    body += rng.uniform(0, 0.15) * squeal * control(rng, 5, -1, 1).clip(0)
    if rng.random() < 0.5:
        n, root_hz = samples(rng.uniform(0.8, 2.2)), rng.uniform(280, 360)
        t = np.arange(n) / RATE_HZ
        chord = [(r, k) for r in (1, 1.26, 1.5, 1.68) for k in range(1, 10)]
        horn = sum(np.sin(2 * np.pi * root_hz * r * k * t + k) / k**0.6 for r, k in chord)
        horn *= np.minimum(1, np.minimum(t / 0.1, (n / RATE_HZ - t) / 0.2))
        add(body, rng.uniform(0, DURATION_S - n / RATE_HZ), 0.45 * horn)
    return body


def siren(rng: Random) -> np.ndarray:
    """A horn that wails, yelps, or alternates between two tones."""
    low_hz, high_hz, sort = rng.uniform(450, 700), rng.uniform(1100, 1600), rng.integers(3)
    if sort == 2:
        low_hz, high_hz = rng.uniform(420, 480), rng.uniform(560, 640)
        square = ((TIME_S / rng.uniform(0.9, 1.4)) % 1 < 0.5).astype(float)
        course = lfilter([0.002], [1, -0.998], square)
    else:
        period_s, peak = (rng.uniform(2, 4.5), 0.4) if sort == 0 else (rng.uniform(0.25, 0.5), 0.5)
        place = (TIME_S / period_s + rng.random()) % 1
        course = np.where(place < peak, place / peak, (1 - place) / (1 - peak))
    turns = phase(low_hz * (high_hz / low_hz) ** course)
    partials = ((1, 1), (2, 0.5), (3, 0.6), (4, 0.2), (5, 0.25))
    horn = band(sum(gain * np.sin(k * turns) for k, gain in partials), 400, 4000, 1)
    for gain in (0.3, 0.2, 0.1):  # from the houses
        lag = samples(rng.uniform(0.03, 0.1))
        horn[lag:] += gain * horn[:-lag]
    return horn + 0.05 * noise(rng, 50, 1000)


def church_bell(rng: Random) -> np.ndarray:
    """The partials of a bell (hum, prime, minor third, fifth, octave, ...), each a beating pair."""
    prime_hz = np.exp(rng.uniform(np.log(250), np.log(650)))
    partials = [(0.5, 0.5, 1), (1, 0.8, 0.7), (1.19, 1, 0.5), (1.5, 0.4, 0.4), (2, 1.4, 0.35)]
    partials += [(2.5, 0.5, 0.25), (2.67, 0.45, 0.22), (3, 0.8, 0.2), (4.02, 0.7, 0.15)]
    partials += [(5.2, 0.5, 0.1), (6.5, 0.4, 0.08), (7.9, 0.3, 0.06), (9.4, 0.2, 0.05)]
    detuned = [
        (r * (1 + rng.normal(0, 0.006)), g * rng.uniform(0.6, 1.3), d) for r, g, d in partials
    ]
    t60_s, gap_s, at_s, track = (
        rng.uniform(4, 10),
        rng.uniform(0.9, 2.4),
        rng.uniform(0, 0.6),
        np.zeros(N),
    )
    while at_s < DURATION_S:
        stroke = np.zeros(N)
        for ratio, gain, length in detuned:
            for beat_hz, part in ((0.0, 1.0), (rng.uniform(0.2, 1.2), 0.7)):
                angle = 2 * np.pi * (ratio * prime_hz + beat_hz) * TIME_S + rng.uniform(0, 6)
                stroke += part * gain * np.sin(angle) * decay(N, t60_s * length)
        clapper = click(rng, 2 * prime_hz, 12 * prime_hz, 0.05, 0.04)
        stroke[: len(clapper)] += 2.5 * clapper
        add(track, at_s, rng.uniform(0.7, 1) * stroke * np.minimum(1, TIME_S / 0.001))
        at_s += gap_s * rng.uniform(0.93, 1.07)
    return np.tanh(0.3 * level(track)) + rng.uniform(0.002, 0.01) * noise(rng, 100, 2000)


def keyboard(rng: Random) -> np.ndarray:
    """Keys that go down in two clicks and come up in softer ones, in the rhythm of a typist."""
    keys = [(rng.uniform(1800, 4500), rng.uniform(0.6, 1)) for _ in range(12)]
    case_hz, pace_s, at_s, track = (
        rng.uniform(600, 1100),
        rng.uniform(0.1, 0.3),
        rng.uniform(0, 0.3),
        np.zeros(N),
    )

    t60_s, body = rng.uniform(0.008, 0.05), rng.uniform(0.2, 1.0)

    def stroke(frequency_hz: float) -> np.ndarray:
        out = np.zeros(samples(0.06))
        for lag_s, gain in ((0, 0.5), (rng.uniform(0.004, 0.012), 1)):
            part = click(rng, 0.5 * frequency_hz, 1.8 * frequency_hz, 0.04, t60_s)
            part += 0.5 * click(rng, 3000, 10000, 0.04, 0.5 * t60_s)
            part += body * click(rng, 0.7 * case_hz, 1.5 * case_hz, 0.04, 2 * t60_s)
            add(out, lag_s, gain * part)
        return out

    while at_s < DURATION_S:
        frequency_hz, gain = keys[rng.integers(len(keys))]
        gain *= rng.uniform(0.7, 1)
        if rng.random() < 0.12:  # the space bar
            frequency_hz, gain = 0.6 * frequency_hz, 1.3 * gain
        add(track, at_s, gain * stroke(frequency_hz))
        release = gain * rng.uniform(0.15, 0.4) * stroke(1.2 * frequency_hz)
        add(track, at_s + rng.uniform(0.06, 0.11), release)
        at_s += pace_s * rng.lognormal(0, 0.4)
        at_s += rng.uniform(0.2, 0.6) if rng.random() < 0.06 else 0
    for lag_s, gain in ((0.0031, 0.3), (0.0072, 0.2), (0.013, 0.15), (0.021, 0.1)):  # the room
        lag = samples(lag_s * rng.uniform(0.8, 1.2))
        track[lag:] += gain * track[:-lag]
    return track + 0.001 * rng.standard_normal(N)


def gunshot(rng: Random) -> np.ndarray:
    """The crack, the blast, and what comes back from around."""
    track, at_s, gap_s, t60_s = (
        np.zeros(N),
        rng.uniform(0, 0.5),
        rng.uniform(0.5, 1.4),
        rng.uniform(0.3, 0.9),
    )
    many = rng.random() < 0.6
    n = samples(1.8)
    while at_s < 3.0:
        shot = 2 * rng.standard_normal(n) * decay(n, 0.05)
        shot += 3 * band(rng.standard_normal(n), 80, 900) * decay(n, 0.25)
        shot += 0.5 * band(rng.standard_normal(n), 200, 3500, 1) * decay(n, t60_s)
        shot[:8] += [8, 6, -6, -5, 3, 2, -2, -1]
        for _ in range(5):
            echoed = band(rng.standard_normal(n), 150, 1500, 1) * decay(n, 0.2)
            add(shot, rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.3) * echoed)
        add(track, at_s, np.tanh(shot))
        at_s += gap_s * rng.uniform(0.8, 1.3) if many else DURATION_S
    return track


# Animals and people -------------------------------------------------------------------------------


def owl(rng: Random) -> np.ndarray:
    """Hoots in the rhythm of a great horned owl, in fours, or as quick runs, at night."""
    pitch_hz, track, at_s = log_uniform(rng, 260, 800), np.zeros(N), rng.uniform(0, 0.4)
    call = (
        [(0.2, 0.1), (0.14, 0.06), (0.16, 0.3), (0.32, 0.28), (0.3, 0.3)],
        [(0.3, 0.25), (0.3, 0.25), (0.3, 0.25), (0.3, 0.6)],
        [(0.22, 0.12)] * 7 + [(0.2, 0.6)],
    )[rng.integers(3)]  # (length, gap) in seconds
    pace, arc, fall = rng.uniform(0.7, 1.05), rng.uniform(0.08, 0.2), rng.uniform(0, 0.15)
    rise, ending, breath = rng.uniform(0.15, 0.4), rng.uniform(0.2, 0.35), rng.uniform(0, 0.08)
    second, third = rng.uniform(0, 0.4), rng.uniform(0, 0.04)

    def hoot(duration_s: float, frequency_hz: float) -> np.ndarray:
        n = samples(duration_s)
        t = np.arange(n) / n
        bend = 1 + arc * np.sin(np.pi * t**0.8) - fall * t + 0.005 * control(rng, 12, -1, 1, n)
        envelope = (np.minimum(1, t / rise) * np.minimum(1, (1 - t) / ending)) ** 0.85
        turns = phase(frequency_hz * bend)
        tone = np.sin(turns) + second * np.sin(2 * turns) * envelope
        tone += third * np.sin(3 * turns) * envelope**2
        return (tone + breath * noise(rng, 0.8 * frequency_hz, 3 * frequency_hz, 2, n)) * envelope

    while at_s < DURATION_S - 0.3:
        for length_s, gap_s in call:
            length_s *= rng.uniform(0.9, 1.1) * pace
            sound = hoot(length_s, pitch_hz * rng.uniform(0.98, 1.02))
            add(track, at_s, rng.uniform(0.7, 1) * sound)
            at_s += length_s + gap_s * pace
        at_s += rng.uniform(0.4, 1.2)
    wood = level(echo(rng, track, rng.uniform(0.5, 1), rng.uniform(0.1, 0.3)))
    night = noise(rng, 200, log_uniform(rng, 1500, 7000))
    return wood + log_uniform(rng, 0.01, 0.05) * night + rng.uniform(0, 0.1) * noise(rng, 40, 250)


def crickets(rng: Random) -> np.ndarray:
    """Several, each with chirps of a few pulses of its tone."""
    track = np.zeros(N)
    for _ in range(rng.integers(1, 5)):
        pulses_hz, chirps_hz, n_pulses = (
            rng.uniform(22, 45),
            rng.uniform(1.5, 3.5),
            rng.integers(3, 6),
        )
        place = ((TIME_S + rng.uniform(0, 1)) * chirps_hz) % 1 / chirps_hz
        pulses = np.maximum(0, np.sin(2 * np.pi * pulses_hz * place)) ** 1.5
        tone = np.sin(phase(rng.uniform(3800, 5200) * (1 + 0.01 * control(rng, 5, -1, 1))))
        track += np.exp(rng.normal(0, 0.6)) * tone * pulses * (place < n_pulses / pulses_hz)
    return track + 0.01 * band(rng.standard_normal(N), 1000, 8000)


def frogs(rng: Random) -> np.ndarray:
    """Some in a pond, each with croaks of pulses that ring, in one or in two syllables."""
    track = np.zeros(N)
    for _ in range(rng.integers(1, 7)):
        frequency_hz, pulses_hz = log_uniform(rng, 450, 2200), log_uniform(rng, 25, 90)
        duration_s, gap_s = rng.uniform(0.12, 0.5), rng.uniform(0.15, 0.8)
        syllables = [(0.6, 1.0), (1.0, 1.1)] if rng.random() < 0.4 else [(1.0, 1.0)]
        gain, at_s, n_ring = np.exp(rng.normal(0, 0.5)), rng.uniform(0, 1), samples(0.02)
        while at_s < DURATION_S - 0.3:
            for length, height in syllables:
                n = samples(length * duration_s)
                every = RATE_HZ / (pulses_hz * rng.uniform(0.97, 1.03))
                pulses = np.zeros(n)
                pulses[np.arange(0, n, every).astype(int)] = 1
                turns = phase(np.full(n_ring, frequency_hz))
                ring = decay(n_ring, 0.02) * np.sin(height * turns)
                ring += 0.4 * decay(n_ring, 0.015) * np.sin(2.1 * turns)
                croak = fftconvolve(pulses, ring)[:n] * np.sin(np.pi * np.arange(n) / n) ** 0.5
                add(track, at_s, gain * rng.uniform(0.8, 1) * croak)
                at_s += length * duration_s + 0.03
            at_s += gap_s * rng.uniform(0.7, 1.4)
    pond = level(echo(rng, track, rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.3)))
    return pond + log_uniform(rng, 0.01, 0.08) * noise(rng, 300, 6000)


def cat(rng: Random) -> np.ndarray:
    """Meows: a voice that opens from "ee" to "ah" and closes to "oo"."""
    track, at_s = np.zeros(N), rng.uniform(0, 0.8)
    while at_s < DURATION_S - 0.5:
        duration_s = rng.uniform(0.5, 1.1)
        n = samples(duration_s)
        t = np.arange(n) / n
        bend = 1 + 0.35 * np.sin(np.pi * t**0.8) - 0.15 * t
        vibrato = 1 + 0.01 * np.sin(phase(np.full(n, 6.0)))
        pitch_hz = rng.uniform(380, 650) * bend * vibrato
        closed = np.clip(1 - t / 0.3, 0, 1)
        opened = np.clip(np.minimum(t / 0.3, (1 - t) / 0.45), 0, 1)
        rounded = np.clip((t - 0.5) / 0.5, 0, 1)
        meow = sum(
            voice(rng, pitch_hz, formants, 1.0, 0.03) * share
            for formants, share in (
                ([(500, 80, 1), (2300, 150, 0.7), (3200, 250, 0.3)], closed),
                ([(1000, 120, 1), (1700, 150, 0.8), (3300, 250, 0.4)], opened),
                ([(450, 80, 1), (900, 100, 0.6), (2700, 250, 0.1)], rounded),
            )
        )
        add(track, at_s, meow * np.sin(np.pi * t**0.7) ** 0.6)
        at_s += duration_s + rng.uniform(0.3, 1.5)
    return track


def laughter(rng: Random) -> np.ndarray:
    """One person: runs of "ha" with the breath between them, lower from one to the next."""
    size, base_hz = (
        (1.0, rng.uniform(140, 230)) if rng.random() < 0.5 else (1.17, rng.uniform(260, 460))
    )
    size *= rng.uniform(0.95, 1.05)
    formants = (
        [(750, 140, 1), (1250, 160, 0.8), (2700, 260, 0.5)],
        [(550, 120, 1), (1750, 180, 0.7), (2600, 260, 0.5)],
    )[rng.integers(2)]
    rate_hz, at_s, track = rng.uniform(4.5, 6.2), rng.uniform(0, 0.5), np.zeros(N)
    while at_s < DURATION_S - 0.5:
        top_hz = base_hz * rng.uniform(1.1, 1.7)
        for i in range(rng.integers(4, 10)):
            duration_s = rng.uniform(0.4, 0.6) / rate_hz
            n = samples(duration_s)
            t = np.arange(n) / n
            pitch_hz = (
                top_hz * (1 - 0.05 * i) * (1.1 - 0.25 * t) * (1 + 0.02 * control(rng, 40, -1, 1, n))
            )
            ha = voice(rng, pitch_hz, formants, size * rng.uniform(0.95, 1.05), 0.25)
            ha *= np.minimum(1, t / 0.15) * np.minimum(1, (1 - t) / 0.5)
            add(track, at_s, (1 - 0.06 * i) * rng.uniform(0.7, 1) * ha)
            breath = band(rng.standard_normal(samples(0.5 / rate_hz)), 500, 5000, 1)
            breath *= 0.25 * np.sin(np.pi * np.linspace(0, 1, len(breath)))
            add(track, at_s + 0.8 * duration_s, breath)
            at_s += rng.uniform(0.9, 1.1) / rate_hz
        at_s += rng.uniform(0.3, 0.8)
    return echo(rng, track, 0.35, 0.15)


def baby(rng: Random) -> np.ndarray:
    """Wails through a small throat that opens and closes, with a gasp after each."""
    track, at_s = np.zeros(N), rng.uniform(0, 0.4)
    base_hz, size, breath = rng.uniform(330, 520), rng.uniform(1.35, 1.8), rng.uniform(0.02, 0.12)
    roughness, pace = rng.uniform(0, 0.5), rng.uniform(0.8, 1.2)
    open_, closed = (
        [(800, 140, 1), (1250, 160, 0.9), (2600, 250, 0.6)],
        [(550, 120, 1), (1500, 180, 0.6), (2600, 260, 0.3)],
    )
    while at_s < DURATION_S - 0.4:
        n = samples(rng.uniform(0.5, 1.2) * pace)
        t = np.arange(n) / n
        bend = 0.8 + rng.uniform(0.25, 0.5) * np.minimum(1, t / 0.2)
        bend -= rng.uniform(0.15, 0.4) * np.clip((t - 0.5) / 0.5, 0, 1)
        vibrato = 0.015 * np.sin(phase(np.full(n, rng.uniform(5, 8))))
        bend *= 1 + 0.02 * control(rng, 25, -1, 1, n) + vibrato
        pitch_hz = base_hz * rng.uniform(0.93, 1.07) * bend
        opened = np.clip(np.minimum(t / 0.15, (1 - t) / 0.3), 0, 1)
        wail = voice(rng, pitch_hz, open_, size, breath) * opened
        wail += voice(rng, pitch_hz, closed, size, breath) * (1 - opened)
        wail *= 1 + roughness * control(rng, 60, -1, 1, n)
        wail *= np.minimum(1, t / 0.08) * np.minimum(1, (1 - t) / 0.25)
        add(track, at_s, rng.uniform(0.7, 1) * wail)
        at_s += n / RATE_HZ + rng.uniform(0.03, 0.1)
        n = samples(rng.uniform(0.12, 0.25))
        gasp = band(rng.standard_normal(n), 900, 5000, 1) * np.sin(np.pi * np.linspace(0, 1, n))
        add(track, at_s, rng.uniform(0.1, 0.35) * gasp)
        at_s += n / RATE_HZ + rng.uniform(0.02, 0.25)
    room = echo(rng, track, rng.uniform(0.2, 0.5), rng.uniform(0.05, 0.25))
    return room + rng.uniform(0, 0.01) * noise(rng, 100, 3000)


def crowd(rng: Random) -> np.ndarray:
    """Dozens of people who clap, each in their own time, and cheer; some whistle."""
    claps, cheers = np.zeros(N), np.zeros(N)
    for _ in range(rng.integers(20, 200)):
        pace_s, frequency_hz = 1 / rng.uniform(2.5, 4.5), rng.uniform(700, 2200)
        clap = click(rng, 0.6 * frequency_hz, 2 * frequency_hz, 0.03, rng.uniform(0.006, 0.02))
        gain, at_s = np.exp(rng.normal(0, 0.6)), rng.uniform(0, 0.5)
        while at_s < DURATION_S:
            add(claps, at_s, gain * rng.uniform(0.5, 1) * clap)
            at_s += pace_s * max(0.5, rng.normal(1, 0.12))
    lowest_hz, longest_s, bent = rng.uniform(250, 450), rng.uniform(0.8, 2), rng.uniform(0.4, 1)
    highest_hz, breath, spread = lowest_hz * rng.uniform(1.9, 3), rng.uniform(0.05, 0.4), 0.4
    for _ in range(rng.integers(10, 100)):
        n = samples(rng.uniform(0.4, longest_s))
        t = np.arange(n) / n
        bend = 1 + rng.uniform(0, bent) * np.sin(np.pi * t**0.6)
        trembling = 1 + 0.015 * control(rng, 30, -1, 1, n)
        pitch_hz = log_uniform(rng, lowest_hz, highest_hz) * bend * trembling
        cheer = voice(rng, pitch_hz, (AH, OH, EE)[rng.integers(3)], rng.uniform(0.9, 1.25), breath)
        cheer *= np.minimum(1, t / 0.1) * np.minimum(1, (1 - t) / 0.5)
        add(cheers, rng.uniform(-0.5, DURATION_S), np.exp(rng.normal(0, spread)) * cheer)
    for _ in range(rng.integers(0, 6)):
        n = samples(rng.uniform(0.2, 0.6))
        t = np.arange(n) / n
        whistle = np.sin(phase(rng.uniform(1700, 2600) * (1 + 0.35 * np.sin(np.pi * t))))
        add(cheers, rng.uniform(0, DURATION_S - 0.6), 2.5 * whistle * np.sin(np.pi * t) ** 0.5)
    roar = noise(rng, 400, rng.uniform(1500, 3000)) * control(rng, 3, 0.5, 1)
    mixed = log_uniform(rng, 0.15, 1.2) * level(claps) + level(band(cheers, 350, 9000, 1))
    mixed += log_uniform(rng, 0.02, 0.5) * roar
    return echo(rng, mixed, rng.uniform(0.3, 1.5), rng.uniform(0.05, 0.6))


KINDS: dict[str, Callable[[Random], np.ndarray]] = {
    "rain": rain,
    "thunder": thunder,
    "wind": wind,
    "fire_crackling": fire,
    "helicopter": helicopter,
    "train": train,
    "siren": siren,
    "church_bell": church_bell,
    "keyboard_typing": keyboard,
    "gunshot": gunshot,
    "owl_hooting": owl,
    "crickets": crickets,
    "frogs_croaking": frogs,
    "cat_meowing": cat,
    "laughing": laughter,
    "baby_crying": baby,
    "crowd_cheering": crowd,
}

# Files --------------------------------------------------------------------------------------------


def variation(kind: str, seed: int) -> np.ndarray:
    """(N,) at `RATE_HZ`; the same seed gives the same sound."""
    waveform = KINDS[kind](np.random.default_rng([seed, *kind.encode()]))
    n = samples(FADE_S)
    waveform[:n] *= np.linspace(0, 1, n)
    waveform[-n:] *= np.linspace(1, 0, n)
    return PEAK * waveform / np.abs(waveform).max()


def synthesise(folder: Path) -> None:
    """Fill ``folder`` with the chosen variations; one that exists is complete."""
    if folder.exists():
        return
    print("synthesising sounds", flush=True)
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    for kind, seeds in json.loads(CHOSEN.read_text("utf-8")).items():
        for seed in seeds:
            name = f"{kind}_{seed:03d}.flac"
            soundfile.write(part / name, variation(kind, seed).astype(np.float32), RATE_HZ)
    part.rename(folder)


def choose(hear: Callable[[str, int], int], kind: str) -> list[int]:
    """Of `N_TRIED` seeds, up to `N_CHOSEN` with the best ranks that are among the first."""
    ranks = [hear(kind, seed) for seed in range(N_TRIED)]
    passed = sorted((rank, seed) for seed, rank in enumerate(ranks) if rank <= N_FIRST)
    print(f"{kind}: {len(passed)} of {N_TRIED} variations", flush=True)
    return sorted(seed for _, seed in passed[:N_CHOSEN])


def main() -> None:
    from measure_independent import SCENES, Sound, load_judge, load_table, through

    from auffusion_cli.checkpoints.load import load_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", type=Path, required=True, help="yamnet.tflite and classes.csv")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .json file")
    args = parser.parse_args()
    judge = load_judge(args.judge, load_table())
    codec = load_model("embedded", device="cpu").codec

    def sound_of(kind: str, seed: int) -> Sound:
        waveform = resample_poly(variation(kind, seed), CODEC_RATE_HZ, RATE_HZ)
        n = round(SCENES.duration_s * CODEC_RATE_HZ)
        return Sound((kind,), waveform[:n].astype(np.float32), f"{kind} {seed}")

    def plain(kind: str, seed: int) -> int:
        return judge.hear(sound_of(kind, seed)).ranks[0]

    def decoded(kind: str, seed: int) -> int:
        (sound,) = through(codec, [sound_of(kind, seed)], True, seed)
        return judge.hear(sound).ranks[0]

    chosen = {kind: choose(decoded, kind) or choose(plain, kind) for kind in args.kinds}
    args.output.write_text(json.dumps(chosen) + "\n", "utf-8")


if __name__ == "__main__":
    main()
