"""A recording goes on, and stays as it was."""

import dataclasses

import numpy as np
import pytest
import soundfile

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.finish import Finish
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import ExtendRequest, GenerateRequest, GenerateSettings
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.signal.recording import read_recording, to_full_scale
from auffusion_cli.signal.sound_file import read_provenance, read_record
from auffusion_cli.tasks import inpaint as inpaint_module
from auffusion_cli.tasks.extend import extend, faded_s
from auffusion_cli.tasks.hear import heard_in
from auffusion_cli.tasks.reproduce import reproduce

FAST = GenerateSettings(1.0, steps=2, guidance_scale=3.0, guidance_rescale=0.0, scheduler="ddim")


def write_clip(path, rate_hz=16000, n_channels=1, subtype="PCM_16", duration_s=1.0):
    rng = np.random.default_rng(0)
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    swell = 0.1 * (1.2 + np.sin(5 * t))[:, None]
    sound = swell * rng.normal(size=(len(t), n_channels)).clip(-3, 3)
    soundfile.write(path, sound, rate_hz, subtype=subtype)
    return read_recording(path)


def request(recording, by_s, where="after", **values):
    return ExtendRequest("clip.wav", recording.sha256, 1, by_s, where, **values)


@pytest.mark.parametrize("where", ["after", "before", "loop"])
@pytest.mark.parametrize(
    ("rate_hz", "n_channels", "subtype", "duration_s", "by_s"),
    [
        (48000, 2, "PCM_24", 1.0, 0.5),
        (44100, 1, "PCM_16", 3.0, 2.51),  # more than a window on either side
        (22050, 3, "FLOAT", 0.05, 0.2),
    ],
)
def test_the_clip_stays_bit_for_bit_and_all_of_the_rest_is_new(
    quick_model, tmp_path, where, rate_hz, n_channels, subtype, duration_s, by_s
):
    clip = write_clip(tmp_path / "clip.wav", rate_hz, n_channels, subtype, duration_s)
    result = extend(quick_model, clip, request(clip, by_s, where), FAST)
    result.save(tmp_path / "new.wav")
    info = soundfile.info(tmp_path / "new.wav")
    n, n_new = len(clip.samples), round(by_s * rate_hz)
    assert (info.samplerate, info.channels, info.subtype) == (rate_hz, n_channels, subtype)
    assert info.frames == n + n_new

    after = read_recording(tmp_path / "new.wav").samples
    kept, new = (after[n_new:], after[:n_new]) if where == "before" else (after[:n], after[n:])
    assert np.array_equal(kept, clip.samples)
    level = np.sqrt((to_full_scale(new)[: n_new // 50 * 50] ** 2).reshape(50, -1).mean(axis=1))
    assert level.min() > 0.005  # in each 50th of it


def test_what_is_put_before_is_made_piece_by_piece_and_told(quick_model, tmp_path):
    clip = write_clip(tmp_path / "clip.wav")
    seen = []
    extend(
        quick_model,
        clip,
        request(clip, 3.0, "before"),
        FAST,
        on_progress=lambda n_done, n: seen.append((n_done, n)),
    )
    n = seen[-1][1]
    assert n > 2 * FAST.steps  # several pieces
    assert seen == [(i + 1, n) for i in range(n)]


@pytest.mark.parametrize("where", ["after", "before", "loop"])
def test_the_seed_decides_and_the_record_makes_it_again(quick_model, tmp_path, where):
    clip = write_clip(tmp_path / "clip.wav", 24000, 2, "PCM_24")
    asked = request(clip, 0.4, where, prompt="a dog")
    result = extend(quick_model, clip, asked, FAST)
    other = extend(quick_model, clip, dataclasses.replace(asked, seed=2), FAST)
    assert not np.array_equal(result.recording.samples, other.recording.samples)
    result.save(tmp_path / "new.wav")
    record = Provenance.from_dict(read_provenance(tmp_path / "new.wav"), "new.wav")
    assert record.request == asked
    again = reproduce(quick_model, record, tmp_path / "new.wav")
    assert again.identical and again.max_difference == 0


@pytest.fixture
def loud_model(quick_model, monkeypatch):
    """What it makes swells to 20 dB above what the recording around it would have it be."""
    make = inpaint_module._make

    def make_loudly(*args):
        made = make(*args)
        return made * (1 + 9 * np.sin(np.linspace(0, np.pi, len(made))))[:, None]

    monkeypatch.setattr(inpaint_module, "_make", make_loudly)
    return quick_model


def loudest_db(samples, n):
    sums = np.concatenate([[0], np.cumsum((samples**2).mean(axis=1))])
    return 10 * np.log10((sums[n:] - sums[:-n]).max() / n)


@pytest.mark.parametrize("where", ["after", "before", "loop"])
def test_what_is_new_is_never_louder_than_the_recording(loud_model, tmp_path, where):
    clip = write_clip(tmp_path / "clip.wav", 24000, 2, "PCM_24", duration_s=3.0)
    result = extend(loud_model, clip, request(clip, 2.0, where), FAST)
    samples, old = to_full_scale(result.recording.samples), to_full_scale(clip.samples)
    new = samples[: 2 * 24000] if where == "before" else samples[-2 * 24000 :]
    for window in (2400, 9600):
        assert loudest_db(new, window) <= loudest_db(old, window) + 0.5
        assert loudest_db(samples, window) <= loudest_db(old, window) + 3  # across the seams
    assert 5 < result.provenance.gain_reduction_db < 25

    result.save(tmp_path / "new.wav")
    record = Provenance.from_dict(read_provenance(tmp_path / "new.wav"), "new.wav")
    assert record == result.provenance
    again = reproduce(loud_model, record, tmp_path / "new.wav")
    assert again.identical and not again.differences


@pytest.mark.parametrize("where", ["after", "before", "loop"])
def test_stereo_noise_keeps_its_width_its_level_and_its_frequencies(quick_model, tmp_path, where):
    samples = 0.1 * np.random.default_rng(0).normal(size=(3 * 48_000, 2)).clip(-3, 3)
    soundfile.write(tmp_path / "clip.wav", samples, 48_000, subtype="PCM_24")
    clip = read_recording(tmp_path / "clip.wav")
    extended = extend(quick_model, clip, request(clip, 1.0, where), FAST).recording.samples
    new = to_full_scale(extended[:48_000] if where == "before" else extended[-48_000:])
    assert abs(np.corrcoef(new.T)[0, 1]) < 0.2
    assert np.abs(20 * np.log10(new.std(axis=0) / samples.std(axis=0))).max() < 1.5
    power = np.abs(np.fft.rfft(new, axis=0)) ** 2
    high, low = power[16_000:].mean(), power[:15_000].mean()  # the model makes up to 8 kHz
    assert 0.5 < high / low < 2


def faded(tmp_path, n_fade=3_200, level=1.0):
    """A sound that generate made and trimmed, with its record: 2 s of noise, faded out."""
    samples = 0.1 * np.random.default_rng(0).normal(size=32_000).clip(-3, 3)
    samples[-2 * n_fade :] *= level
    samples[-n_fade:] *= np.cos(np.linspace(0, np.pi / 2, n_fade)) ** 2
    write_audio(
        tmp_path / "rain.wav",
        samples.astype(np.float32),
        16_000,
        provenance=Provenance.without_model(
            GenerateRequest("rain", 1, trim=True), 2.0, np.zeros(4, np.int16)
        ).to_dict(),
    )
    return read_recording(tmp_path / "rain.wav"), read_record(tmp_path / "rain.wav")


def test_a_fade_that_the_record_tells_of_is_known_where_it_cuts_off_a_sound(tmp_path):
    sound, record = faded(tmp_path)
    assert faded_s(sound, record, "after") == faded_s(sound, record, "loop") == 0.2
    assert faded_s(sound, record, "before") == faded_s(sound, None, "after") == 0
    untrimmed = dataclasses.replace(record, request=GenerateRequest("rain", 1))
    assert faded_s(sound, untrimmed, "after") == 0
    finished = dataclasses.replace(untrimmed, finish=Finish(fade_out_s=0.2, fade_in_s=0.2))
    assert faded_s(sound, finished, "after") == 0.2
    assert faded_s(sound, finished, "before") == 0  # its start is as loud as ever
    ended, record = faded(tmp_path, level=0.01)
    assert faded_s(ended, record, "after") == 0


@pytest.mark.parametrize("where", ["after", "loop"])
def test_what_is_made_anew_leaves_no_dip(quick_model, tmp_path, where):
    sound, _ = faded(tmp_path)
    levels = []
    for over_s in (0.0, 0.2):
        asked = request(sound, 0.5, where, over_s=over_s)
        result = extend(quick_model, sound, asked, FAST).recording
        n = round((2 - over_s) * 16_000)
        assert len(result.samples) == 40_000
        assert np.array_equal(result.samples[:n], sound.samples[:n])
        blocks = to_full_scale(result.samples).reshape(-1, 320)
        levels.append(20 * np.log10(blocks.std(axis=1).min() / blocks.std()))
    assert levels[0] < -20 and levels[1] > -6


def test_at_the_start_it_is_what_comes_first(quick_model, tmp_path):
    sound, _ = faded(tmp_path)
    asked = request(sound, 0.5, "before", over_s=0.3)
    result = extend(quick_model, sound, asked, FAST)
    assert np.array_equal(result.recording.samples[-27_200:], sound.samples[-27_200:])
    assert len(result.recording.samples) == 40_000
    assert len(heard_in(result).waveform) == round((0.8 - asked.crossfade_s) * 16_000)
    with pytest.raises(UsageError, match=r"--over 2s: clip\.wav lasts 2 s"):
        extend(quick_model, sound, request(sound, 0.5, over_s=2.0), FAST)


def test_silence_is_no_error(quick_model, tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros((8000, 2)), 16000)
    clip = read_recording(tmp_path / "clip.wav")
    result = extend(quick_model, clip, request(clip, 0.3), FAST)
    assert np.isfinite(to_full_scale(result.recording.samples)).all()


@pytest.mark.parametrize(
    "values",
    [
        {"by_s": 0},
        {"by_s": float("nan")},
        {"by_s": 4000},
        {"over_s": -1},
        {"where": "up"},
        {"crossfade_s": 2},
    ],
)
def test_impossible_requests_are_refused(values):
    with pytest.raises(UsageError):
        ExtendRequest(
            **{"source": "a.wav", "source_sha256": "0" * 64, "seed": 1, "by_s": 1.0} | values
        )
