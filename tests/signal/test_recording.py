import dataclasses

import numpy as np
import pytest
import soundfile

from auffusion_cli.signal.recording import read_recording, write_recording
from auffusion_cli.signal.sound_file import audio_info, read_provenance


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("provenance", [None, {"seed": 1}])
def test_channel_mask_comes_back(tmp_path, subtype, provenance):
    """5.1 with side instead of back loudspeakers, which libsndfile would not write by itself."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (400, 6))
    soundfile.write(tmp_path / "a.wav", samples, 48_000, subtype, format="WAVEX")
    source = dataclasses.replace(read_recording(tmp_path / "a.wav"), channel_mask=0x60F)
    write_recording(tmp_path / "b.wav", source, provenance=provenance)
    again = read_recording(tmp_path / "b.wav")
    assert again.channel_mask == 0x60F
    assert np.array_equal(again.samples, source.samples)
    assert audio_info(tmp_path / "b.wav").format == "WAVEX"
    assert read_provenance(tmp_path / "b.wav") == provenance


def test_a_plain_wav_stays_plain(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((9, 2)), 48_000)
    source = read_recording(tmp_path / "a.wav")
    assert source.channel_mask is None
    write_recording(tmp_path / "b.wav", source)
    assert audio_info(tmp_path / "b.wav").format == "WAV"


def test_a_mask_does_not_hinder_flac(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((9, 2)), 48_000, "PCM_16", format="WAVEX")
    source = read_recording(tmp_path / "a.wav")
    assert source.channel_mask == 0x3
    write_recording(tmp_path / "b.flac", source)
    assert audio_info(tmp_path / "b.flac").format == "FLAC"
