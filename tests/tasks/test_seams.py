"""With the embedded model, on noise, tones and recordings: nothing tells where the seams are."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import seams
from auffusion_cli.requests.request import ExtendRequest, GenerateSettings, InpaintRequest
from auffusion_cli.signal.recording import read_recording, to_full_scale
from auffusion_cli.tasks.extend import extend
from auffusion_cli.tasks.inpaint import inpaint

SOUNDS = Path(__file__).parents[2] / "docs" / "sounds"
SEEDS = (1, 2, 3)
MARGIN_DB = 3.0
"""The seams are a tenth of the clip: now and then its largest jump is there by chance."""
MARGIN_OF_LEVEL_DB = 5.0
"""Tones that are turned up waver."""
MARGIN_OF_PULSES_DB = 6.0
"""Frogs croak in pulses of 20 ms: one that begins at a seam stands out, as they do everywhere."""


@pytest.fixture(scope="module")
def settings(embedded):
    return GenerateSettings.from_defaults(embedded.defaults, steps=6)


def noise(rng):
    return 0.1 * rng.normal(size=(40000, 1)), 16000, "PCM_16"


def tones(rng):
    t = np.arange(40000) / 16000
    return (
        sum(0.2 / n * np.sin(2 * np.pi * 440 * n * t) for n in (1, 2, 3))[:, None],
        16000,
        "PCM_16",
    )


def stereo(rng):
    """A hum under noise, of another colour on each side."""
    left, right = 0.05 * rng.normal(size=(2, 120000))
    hum = 0.05 * np.sin(2 * np.pi * 220 * np.arange(120000) / 48000)
    sides = [np.convolve(left, np.ones(8) / 3, "same"), np.convolve(right, np.ones(4) / 2, "same")]
    return np.stack(sides, axis=1) + hum[:, None], 48000, "PCM_24"


def frogs(rng):
    samples, rate_hz = soundfile.read(SOUNDS / "frogs.flac", always_2d=True)
    return samples[rate_hz : 4 * rate_hz], rate_hz, "PCM_16"


@pytest.fixture
def margin_db(request):
    return MARGIN_OF_PULSES_DB if "frogs" in request.node.name else MARGIN_DB


@pytest.fixture(scope="module", params=[noise, tones, stereo, frogs], ids=lambda f: f.__name__)
def clip(request, tmp_path_factory):
    samples, rate_hz, subtype = request.param(np.random.default_rng(0))
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return read_recording(path)


def check(versions, rate_hz, seams_s, margin_db, reach_s=0.06):
    """At the seams level and spectrum jump no further than they do elsewhere in the clip.

    The median over `versions`, made with several seeds: frogs jump where they like. `reach_s` takes
    in the cross-fade, and the frames that touch it.
    """
    found = {"level": [], "spectrum": []}
    for samples in versions:
        seconds, *both = seams.jumps(samples, rate_hz)
        near = np.min(np.abs(seconds[:, None] - np.asarray(seams_s)), axis=1) <= reach_s
        for numbers, jump in zip(found.values(), both, strict=True):
            numbers.append((jump[near].max(), jump[~near].max()))
    for name, numbers in found.items():
        at_seams, elsewhere = np.median(numbers, axis=0)
        print(f"{name} at the seams {at_seams:.1f} elsewhere {elsewhere:.1f}")
        assert at_seams <= elsewhere + margin_db, name


def test_inpainting(embedded, settings, clip, margin_db):
    versions = []
    for seed in SEEDS:
        request = InpaintRequest("clip.wav", clip.sha256, seed, masks=("1-1.6s",))
        result = inpaint(embedded, clip, request, settings)
        versions.append(to_full_scale(result.recording.samples))
    check(versions, clip.sample_rate_hz, [1.0, 1.6], margin_db)


def test_a_loop_played_twice(embedded, settings, clip, margin_db):
    versions = []
    for seed in SEEDS:
        request = ExtendRequest("clip.wav", clip.sha256, seed, 0.8, "loop")
        once = to_full_scale(extend(embedded, clip, request, settings).recording.samples)
        versions.append(np.concatenate([once, once]))
    end_s = len(once) / clip.sample_rate_hz
    check(versions, clip.sample_rate_hz, [clip.duration_s, end_s], margin_db, reach_s=0.14)


def test_what_comes_after_or_before(embedded, settings, clip, margin_db):
    where, seam_s = ("after", clip.duration_s) if clip.subtype == "PCM_16" else ("before", 1.0)
    versions = []
    for seed in SEEDS:
        request = ExtendRequest("clip.wav", clip.sha256, seed, 1.0, where)
        samples = to_full_scale(extend(embedded, clip, request, settings).recording.samples)
        n = clip.sample_rate_hz
        new = samples[-n:] if where == "after" else samples[:n]
        # It goes on, rather than ends.
        assert new.std() > 0.1 * to_full_scale(clip.samples).std()
        versions.append(samples)
    check(versions, clip.sample_rate_hz, [seam_s], margin_db, reach_s=0.14)


def softest_db(samples, rate_hz):
    """The level of the softest 0.1 s of (N, C)."""
    n = round(0.1 * rate_hz)
    moments = np.lib.stride_tricks.sliding_window_view(samples, n, axis=0)[:: n // 2]
    return 10 * np.log10((moments**2).mean(axis=(1, 2)).min() + 1e-12)


@pytest.mark.parametrize("where", ["inside", "after"])
def test_nothing_sags(embedded, settings, clip, where):
    """What goes on all the time goes on in what is new, without a hole."""
    for seed in SEEDS:
        if where == "inside":
            request = InpaintRequest("clip.wav", clip.sha256, seed, masks=("0.5-1.5s",))
            samples = to_full_scale(inpaint(embedded, clip, request, settings).recording.samples)
            new = samples[clip.sample_rate_hz // 2 : 3 * clip.sample_rate_hz // 2]
        else:
            request = ExtendRequest("clip.wav", clip.sha256, seed, 1.0)
            samples = to_full_scale(extend(embedded, clip, request, settings).recording.samples)
            new = samples[-clip.sample_rate_hz :]
        softest = softest_db(to_full_scale(clip.samples), clip.sample_rate_hz)
        assert softest_db(new, clip.sample_rate_hz) > softest - MARGIN_OF_LEVEL_DB


@pytest.mark.parametrize("damage", ["click", "gap", "cut"])
def test_a_bad_seam_would_be_told(damage):
    samples, rate_hz, _ = tones(None)
    at = 16000 + 7
    if damage == "click":
        samples[at] += 0.2
    elif damage == "gap":
        samples[at : at + 200] = 0
    else:
        samples[at:] = samples[at + 9 :].tolist() + samples[:9].tolist()
    with pytest.raises(AssertionError, match=r"level|spectrum"):
        check([samples], rate_hz, [1.0], MARGIN_DB)
