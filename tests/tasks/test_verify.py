"""A file that was changed after it was made is not what its record says."""

import dataclasses

import numpy as np
import pytest
import soundfile

from auffusion_cli.requests.provenance import Provenance, hash_samples
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, InpaintRequest
from auffusion_cli.signal.audio import to_pcm16, write_audio
from auffusion_cli.signal.recording import read_recording, write_recording
from auffusion_cli.tasks.verify import is_changed

SETTINGS = GenerateSettings(1.0, 2, 3.0, 0.0, "ddim")
WAVEFORM = np.random.default_rng(0).random(16_000, np.float32) * 2 - 1


def record(request, samples):
    return Provenance(
        request, SETTINGS, "embedded", None, "griffin-lim", "cpu", "fp32", hash_samples(samples)
    )


MADE = record(GenerateRequest("rain", 1), to_pcm16(WAVEFORM))


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        (".wav", "pcm16"),
        (".wav", "pcm24"),
        (".wav", "float"),
        (".flac", "pcm16"),
        (".flac", "pcm24"),
        (".ogg", "pcm16"),
        (".mp3", "pcm16"),
    ],
)
def test_a_sound_of_words(tmp_path, suffix, subtype):
    path = tmp_path / f"a{suffix}"

    def written(waveform, rate_hz=16_000):
        write_audio(path, waveform, rate_hz, subtype=subtype)
        return path

    assert not is_changed(MADE, written(WAVEFORM))
    assert is_changed(MADE, written(WAVEFORM[:8_000]))
    assert is_changed(MADE, written(WAVEFORM, 32_000))
    if suffix in (".wav", ".flac"):
        assert is_changed(MADE, written(0.1 * WAVEFORM))
        assert is_changed(MADE, written(np.stack([WAVEFORM, WAVEFORM])))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_an_edit(tmp_path, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, WAVEFORM, 44_100, subtype)
    recording = read_recording(path)
    asked = InpaintRequest("clip.wav", "0" * 64, 1, ("1-2s",))
    made = record(asked, recording.samples)
    assert not is_changed(made, path)
    softer = (recording.samples // 10).astype(recording.samples.dtype)
    write_recording(path, dataclasses.replace(recording, samples=softer))
    assert is_changed(made, path)
    assert not np.array_equal(softer, recording.samples)
