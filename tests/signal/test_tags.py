"""Broadcast fields and loop points, as other programs find them in a wav."""

import io
import struct

import numpy as np
import pytest

from auffusion_cli.signal import riff
from auffusion_cli.signal.recording import read_recording
from auffusion_cli.signal.sound_file import read_provenance, write_sound


def written(path, record, samples, rate_hz=48_000):
    write_sound(path, samples, rate_hz, ("WAV", "PCM_16"), provenance=record)
    content = path.read_bytes()
    assert struct.unpack_from("<I", content, 4)[0] == len(content) - 8
    found = {}
    for chunk in riff.chunks(io.BytesIO(content)):
        found[chunk.name] = content[chunk.start : chunk.start + chunk.n_bytes]
    return found


@pytest.fixture
def samples():
    tone = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)
    return (np.tile(tone * 10 ** (-23 / 20), (2, 1)).T * 32767).astype(np.int16)


def test_broadcast_fields(tmp_path, samples):
    record = {"prompt": "rain – on\na roof", "samples_sha256": "ab" * 32}
    chunks = written(tmp_path / "a.wav", {**record, "finish": {"broadcast": True}}, samples)
    assert next(iter(chunks)) == b"bext" and b"smpl" not in chunks
    bext = chunks[b"bext"]
    assert len(bext) == 602 and bext[:16].rstrip(b"\0") == b"rain ? on a roof"
    assert bext[256:288].rstrip(b"\0") == b"auffusion" and bext[288:320] == b"ab" * 16
    assert bext[320:330].count(b"-") == 2 and bext[330:338].count(b":") == 2
    version, loudness, _, peak = struct.unpack_from("<H64x3h", bext, 346)
    assert version == 2 and abs(loudness + 2300) < 15 and abs(peak + 2300) < 15
    again = read_recording(tmp_path / "a.wav")
    assert np.array_equal(again.samples >> 16, samples)
    assert read_provenance(tmp_path / "a.wav")["prompt"] == record["prompt"]


@pytest.mark.parametrize("record", [{"loop": True}, {"where": "loop"}])
def test_loop_points(tmp_path, samples, record):
    chunks = written(tmp_path / "a.wav", record, samples[:1001], 16_000)
    fields = struct.unpack("<15I", chunks[b"smpl"])
    assert fields[2] == 62_500 and fields[7] == 1  # nanoseconds a sample; one loop
    assert fields[11:13] == (0, 1000)  # the first and the last sample that are played
    assert b"bext" not in chunks


def test_other_sounds_have_neither(tmp_path, samples):
    assert set(written(tmp_path / "a.wav", {"loop": False, "finish": {}}, samples)) == {
        b"fmt ",
        b"data",
        b"LIST",
    }
