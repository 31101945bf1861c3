"""Masks filled with a recording's own background, without a model."""

import dataclasses

import numpy as np
import pytest
import soundfile

from auffusion_cli.errors import AuffusionWarning, UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import InpaintRequest
from auffusion_cli.signal.recording import read_recording, to_full_scale
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.tasks.reproduce import reproduce
from auffusion_cli.tasks.room_tone import fill_with_room_tone

RATE_HZ = 48_000
COUGH_S = (2.0, 2.3)


@pytest.fixture
def clip(tmp_path):
    """A cough, and words of another voice, in a stereo room of noise up to 24 kHz."""
    rng = np.random.default_rng(0)
    samples = 0.01 * rng.normal(size=(4 * RATE_HZ, 2))
    for start_s, end_s, level in ((0.5, 0.9, 0.1), (1.1, 1.4, 0.1), (*COUGH_S, 0.4)):
        span = slice(round(start_s * RATE_HZ), round(end_s * RATE_HZ))
        samples[span] += level * rng.normal(size=(span.stop - span.start, 1)).clip(-2, 2)
    soundfile.write(tmp_path / "clip.wav", samples, RATE_HZ, subtype="PCM_24")
    return read_recording(tmp_path / "clip.wav")


def request(clip, *masks, **values):
    return InpaintRequest("clip.wav", clip.sha256, 1, masks, room_tone=True, **values)


def level_db(samples):
    return 10 * np.log10((samples**2).mean(axis=0))


def test_a_cough_becomes_the_room_and_all_else_stays(clip):
    result = fill_with_room_tone(clip, request(clip, "1.95-2.35s"))
    after, start, end = result.recording.samples, round(1.95 * RATE_HZ), round(2.35 * RATE_HZ)
    assert np.array_equal(after[:start], clip.samples[:start])
    assert np.array_equal(after[end:], clip.samples[end:])
    new = to_full_scale(after[start:end])
    assert np.abs(level_db(new) + 40).max() < 1  # the room's level
    assert abs(np.corrcoef(new.T)[0, 1]) < 0.1  # its width
    power = np.abs(np.fft.rfft(new[:, 0])) ** 2
    high = power[len(power) // 3 :].mean() / power[: len(power) // 3].mean()
    assert 0.7 < high < 1.4  # its frequencies
    moments = (new[: len(new) // 960 * 960] ** 2).reshape(-1, 960, 2).mean(axis=(1, 2))
    assert np.abs(10 * np.log10(moments) + 40).max() < 2  # and nothing else, at any moment


def test_a_band_leaves_the_others(clip):
    asked = request(clip, "1.9-2.4s", bands=("10k-",))
    difference = to_full_scale(fill_with_room_tone(clip, asked).recording.samples)
    difference -= to_full_scale(clip.samples)
    power = np.abs(np.fft.rfft(difference[:, 0])) ** 2
    hz = np.fft.rfftfreq(len(difference), 1 / RATE_HZ)
    assert power[hz < 9_000].sum() < 1e-3 * power.sum() and power.any()


def test_a_mask_without_margin_is_told(clip):
    with pytest.warns(AuffusionWarning, match="begins within the cross-fade of the mask at 2 s"):
        fill_with_room_tone(clip, request(clip, "2-2.4s"))
    with pytest.warns(AuffusionWarning, match=r"ends within .* at 2\.3 s, .* end it later"):
        fill_with_room_tone(clip, request(clip, "1.9-2.3s"))


@pytest.mark.filterwarnings("error")
def test_a_mask_with_margin_is_not(clip):
    fill_with_room_tone(clip, request(clip, "1.95-2.35s", "3-3.2s"))


def test_the_record_makes_it_again_without_a_model(clip, tmp_path):
    asked = request(clip, "1.9-2.4s")
    result = fill_with_room_tone(clip, asked)
    result.save(tmp_path / "new.wav")
    record = Provenance.from_dict(read_provenance(tmp_path / "new.wav"))
    assert record.request == asked and record.model == "none"
    assert reproduce(None, record, tmp_path / "new.wav").identical
    other = fill_with_room_tone(clip, dataclasses.replace(asked, seed=2))
    assert not np.array_equal(other.recording.samples, result.recording.samples)


def test_nothing_to_take_it_from(clip):
    with pytest.raises(UsageError, match="finds no background"):
        fill_with_room_tone(clip, request(clip, "0-4s"))


def test_surround_comes_back_as_surround(tmp_path):
    noise = 0.1 * np.random.default_rng(0).normal(size=(RATE_HZ, 6)).clip(-3, 3)
    soundfile.write(tmp_path / "clip.wav", noise, RATE_HZ, subtype="PCM_24", format="WAVEX")
    clip = read_recording(tmp_path / "clip.wav")
    clip = dataclasses.replace(clip, channel_mask=0x60F)  # side, not back, loudspeakers
    result = fill_with_room_tone(clip, request(clip, "0.4-0.5s"))
    result.save(tmp_path / "new.wav")
    assert read_recording(tmp_path / "new.wav").channel_mask == 0x60F
    new = to_full_scale(result.recording.samples)[19_700:23_500]
    assert np.abs(np.corrcoef(new.T) - np.eye(6)).max() < 0.2


def test_silence_stays_silence(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(RATE_HZ), RATE_HZ)
    clip = read_recording(tmp_path / "clip.wav")
    result = fill_with_room_tone(clip, request(clip, "0.4-0.5s"))
    assert not result.recording.samples.any()
