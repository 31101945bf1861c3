import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import AudioError, AuffusionWarning
from auffusion_cli.signal import sound_file
from auffusion_cli.signal.audio import read_audio, resample, to_pcm16, write_audio
from auffusion_cli.signal.formats import AUDIO_SUFFIXES, WRITTEN
from auffusion_cli.signal.sound_file import audio_info, read_provenance, read_record

FORMS = [(suffix, subtype) for suffix, (_, codecs) in WRITTEN.items() for subtype in codecs]
TOLERANCE = {"pcm16": 1 / 32768, "pcm24": 1 / 2**23, "float": 0.0}


def noise(n_channels: int = 1, n_samples: int = 4_000, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (n_channels, n_samples))
    return samples.astype(np.float32)


def tone(n_samples: int, rate_hz: int = 16_000) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * 440 / rate_hz * np.arange(n_samples))
    return wave[None].astype(np.float32)


# --- round trips


@settings(max_examples=40)
@given(
    form=st.sampled_from([form for form in FORMS if form[0] in (".wav", ".flac")]),
    n_channels=st.integers(1, 6),
    n_samples=st.integers(1, 3_000),
    rate_hz=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 96_000]),
)
def test_lossless_round_trip(tmp_path_factory, form, n_channels, n_samples, rate_hz):
    suffix, subtype = form
    path = tmp_path_factory.getbasetemp() / f"sound{suffix}"
    waveform = noise(n_channels, n_samples)
    write_audio(path, waveform, rate_hz, subtype=subtype)
    read, read_rate_hz = read_audio(path)
    assert read_rate_hz == rate_hz
    np.testing.assert_allclose(read, waveform, atol=TOLERANCE[subtype], rtol=0)
    assert audio_info(path).n_samples == n_samples
    # What was read is written again without change.
    write_audio(path, read, rate_hz, subtype=subtype)
    np.testing.assert_array_equal(read_audio(path)[0], read)


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_lossy_round_trip(tmp_path, suffix, n_channels):
    waveform = np.repeat(tone(32_000), n_channels, axis=0)
    write_audio(tmp_path / f"a{suffix}", waveform, 16_000)
    read, rate_hz = read_audio(tmp_path / f"a{suffix}")
    assert (read.shape, rate_hz) == (waveform.shape, 16_000)
    assert np.abs(read - waveform)[:, 4_000:-4_000].max() < 0.05


def test_pcm16_is_truncated_and_clipped_like_the_original():
    samples = np.array([0.0, 0.99999 / 32768, -1.7 / 32768, 1.0, -1.0, 2.0, -2.0])
    assert to_pcm16(samples).tolist() == [0, 0, -1, 32767, -32768, 32767, -32768]


def test_float_keeps_what_exceeds_full_scale_and_pcm24_clips_it(tmp_path):
    loud = np.array([[2.0, -2.0]])
    write_audio(tmp_path / "a.wav", loud, 16_000, subtype="float")
    assert read_audio(tmp_path / "a.wav")[0].tolist() == loud.tolist()
    with pytest.warns(AuffusionWarning, match="2 samples above full scale were clipped"):
        write_audio(tmp_path / "b.wav", loud, 16_000, subtype="pcm24")
    assert np.abs(read_audio(tmp_path / "b.wav")[0]).max() <= 1


def test_long_ogg(tmp_path):
    write_audio(tmp_path / "a.ogg", np.zeros(1_000_000), 16_000)
    assert read_audio(tmp_path / "a.ogg")[0].shape == (1, 1_000_000)


@pytest.mark.parametrize("width", ["PCM_U8", "PCM_32", "DOUBLE", "ULAW"])
def test_other_widths_are_read(tmp_path, width):
    soundfile.write(tmp_path / "a.wav", noise()[0], 11_025, subtype=width)
    read, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(read, noise(), atol=0.02, rtol=0)


def test_mono_is_the_mean(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([[0.5, 0.25], [0.0, -0.25]]), 16_000)
    assert read_audio(tmp_path / "a.wav", mono=True)[0].tolist() == [[0.25, 0.0]]


def test_blocks_join(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", noise(2, 1_000), 16_000, subtype="float")
    monkeypatch.setattr(sound_file, "BLOCK_FRAMES", 300)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], noise(2, 1_000))


# --- the rate


@settings(max_examples=30)
@given(
    n_samples=st.integers(0, 5_000),
    from_hz=st.integers(1_000, 192_000),
    to_hz=st.sampled_from([8_000, 16_000, 44_100]),
)
def test_resampled_length(n_samples, from_hz, to_hz):
    resampled = resample(np.zeros((2, n_samples), np.float32), from_hz, to_hz)
    assert resampled.shape == (2, -(-n_samples * to_hz // from_hz))


@pytest.mark.parametrize("from_hz", [8_000, 44_100, 44_101, 48_000, 96_000])
def test_resampled_tone_is_the_same_tone(from_hz):
    resampled = resample(tone(from_hz, from_hz), from_hz, 16_000)
    inside = slice(500, 15_500)
    np.testing.assert_allclose(resampled[:, inside], tone(16_000)[:, inside], atol=2e-3, rtol=0)


def test_read_resamples(tmp_path):
    write_audio(tmp_path / "a.wav", tone(44_100, 44_100), 44_100)
    read, rate_hz = read_audio(tmp_path / "a.wav", 16_000)
    assert (read.shape, rate_hz) == ((1, 16_000), 16_000)


# --- provenance

RECORDS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=40),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=9), children, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("suffix", WRITTEN)
@settings(max_examples=10)
@given(prompt=st.text(max_size=200), settings_=RECORDS)
def test_provenance_round_trip(tmp_path_factory, suffix, prompt, settings_):
    path = tmp_path_factory.getbasetemp() / f"provenance{suffix}"
    record = {"prompt": prompt, "settings": settings_}
    write_audio(path, noise(), 16_000, provenance=record)
    assert read_provenance(path) == record


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("n_samples", [1_601, 16_000])
def test_large_unicode_provenance(tmp_path, suffix, n_samples):
    path = tmp_path / f"a{suffix}"
    record = {"prompt": "chien qui aboie 🐕 «☃» \x00 \n" * 400, "seed": 2**60}
    write_audio(path, tone(n_samples), 16_000, provenance=record)
    assert read_provenance(path) == record
    assert read_audio(path)[0].shape == (1, n_samples)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_no_provenance(tmp_path, suffix):
    write_audio(tmp_path / f"a{suffix}", noise(), 16_000)
    assert read_provenance(tmp_path / f"a{suffix}") is None


@pytest.mark.parametrize("comment", ["recorded by hand", "[1]", "[" * 5_000])
def test_foreign_comments_are_not_provenance(tmp_path, comment):
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 16_000, 1) as sound:
        sound.comment = comment
        sound.write(noise()[0])
    assert read_provenance(tmp_path / "a.flac") is None


# --- hostile files


def refuse(path, reason):
    with pytest.raises(AudioError, match=reason) as failure:
        read_audio(path)
    assert str(path) in str(failure.value)


def test_what_is_not_a_file(tmp_path):
    refuse(tmp_path / "missing.wav", "No such file")
    refuse(tmp_path, "directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    write_audio(tmp_path / "a.wav", noise(), 16_000)
    (tmp_path / "a.wav").chmod(0)
    refuse(tmp_path / "a.wav", "Permission denied")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.raw", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"hello", b"RIFF\x10\0\0\0WAVEfmt ", b"OggS" * 9])
def test_what_is_not_audio(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=name.replace(".", r"\.")):
        read_audio(tmp_path / name)
    with pytest.raises(AudioError, match=None if content else "is an empty file"):
        read_provenance(tmp_path / name)


def test_a_record_that_was_cut_off_is_not_taken_for_none(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, noise(1, 48_000), 16_000, provenance={"task": "generate"})
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(AudioError, match="cut short"):
        read_record(path)


@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.9])
def test_truncated_files(tmp_path, suffix, subtype, kept):
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise(1, 48_000), 16_000, subtype=subtype)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refuse(path, "cut short|not audio|no sound")


@settings(max_examples=40)
@given(
    suffix=st.sampled_from(list(WRITTEN)),
    position=st.floats(0, 1),
    garbage=st.binary(min_size=1, max_size=40),
)
def test_damaged_files_never_do_worse_than_an_audio_error(
    tmp_path_factory, suffix, position, garbage
):
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    write_audio(path, noise(1, 2_000), 16_000, provenance={"prompt": "x" * 50})
    content = bytearray(path.read_bytes())
    start = int(position**3 * len(content))  # headers, above all
    content[start : start + len(garbage)] = garbage
    path.write_bytes(content)
    for read in (read_audio, read_provenance, audio_info):
        try:
            read(path)
        except AudioError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_of_unknown_length_is_read(tmp_path, size):
    """As written by a program that streams to a pipe: SoX leaves 0x7FFFF000, others -1."""
    path = tmp_path / "a.wav"
    write_audio(path, noise(), 16_000)
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    assert read_audio(path)[0].shape == (1, 4_000)


@pytest.mark.parametrize(
    ("container", "endian"),
    [
        *((name, "FILE") for name in ("RF64", "AIFF", "W64", "CAF", "AU", "WAVEX")),
        *((name, "BIG") for name in ("CAF", "AU", "WAV")),
    ],
)
def test_truncated_containers(tmp_path, container, endian):
    path = tmp_path / "a"
    soundfile.write(path, noise()[0], 16_000, "PCM_16", endian, format=container)
    assert read_audio(path)[0].shape == (1, 4_000)
    path.write_bytes(path.read_bytes()[:-3_000])
    refuse(path, "cut short|malformed")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\xff\xf1\x50\x80" + bytes(2_000), "AAC"),
        (b"\0\0\0\x20ftypM4A " + bytes(2_000), "MPEG-4"),
        (b"RIFF\xff\0\0\0WAVEfmt \x10\0\0\0\xff\0\x01\0" + bytes(200), "AAC"),
    ],
)
def test_sound_that_ffmpeg_reads_is_named_with_the_line_that_converts_it(tmp_path, content, name):
    (tmp_path / "a b.wav").write_bytes(content)
    with pytest.raises(AudioError, match=f"holds {name}") as caught:
        read_audio(tmp_path / "a b.wav")
    assert caught.value.hint == "Convert it first: ffmpeg -i 'a b.wav' 'a b-converted.flac'"


def test_a_web_page_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"<!DOCTYPE html><html>404</html>")
    refuse(tmp_path / "a.wav", "web page")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    refuse(tmp_path / "a.wav", "named pipe")
    refuse(Path("/dev/zero"), "device")


@pytest.mark.parametrize("suffix", [".opus", ".oga", ".aiff", ".aif", ".caf", ".w64", ".au"])
def test_suffixes_that_are_read(tmp_path, suffix):
    container, subtype = {
        ".opus": ("OGG", "OPUS"),
        ".oga": ("OGG", "VORBIS"),
        ".caf": ("CAF", "PCM_16"),
        ".w64": ("W64", "PCM_16"),
        ".au": ("AU", "PCM_16"),
    }.get(suffix, ("AIFF", "PCM_16"))
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(48_000, 48_000)[0], 48_000, subtype, format=container)
    assert read_audio(path)[0].shape == (1, 48_000)
    assert suffix in AUDIO_SUFFIXES


def test_no_samples(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(0), 16_000)
    refuse(tmp_path / "a.wav", "0 samples")


@pytest.mark.parametrize("rate_hz", [1, 999, 5_000_000])
def test_absurd_rates(tmp_path, rate_hz):
    soundfile.write(tmp_path / "a.wav", np.zeros(9), rate_hz)
    refuse(tmp_path / "a.wav", "sample rate")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(tmp_path, value):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, value]), 16_000, subtype="FLOAT")
    refuse(tmp_path / "a.wav", "NaN")
    with pytest.raises(AudioError, match="NaN"):
        write_audio(tmp_path / "b.wav", np.array([value]), 16_000)
    assert not (tmp_path / "b.wav").exists()


def test_too_long(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", noise(), 16_000)
    monkeypatch.setattr(sound_file, "MAX_SAMPLES", 1_000)
    refuse(tmp_path / "a.wav", "too long")


def test_a_flac_of_hours_of_silence_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    write_audio(path, np.zeros(9_000), 1_000)
    content = bytearray(path.read_bytes())
    n_frames = sound_file.MAX_SAMPLES + 1  # 36 bits, behind rate, channels and width
    content[21] = content[21] & 0xF0 | n_frames >> 32
    content[22:26] = (n_frames & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)  # nothing is decoded
    refuse(path, "too long: 345,600 s")


def test_one_file_that_does_not_fit_into_memory_is_an_audio_error(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", noise(), 16_000)

    def too_much(*_, **__):
        raise MemoryError

    monkeypatch.setattr(soundfile.SoundFile, "read", too_much)
    refuse(tmp_path / "a.wav", "does not fit into memory")


# --- writing goes wrong


@pytest.mark.parametrize(
    ("name", "subtype", "valid"),
    [
        ("a.aiff", "pcm16", r"\.flac"),
        ("a", "pcm16", r"\.wav"),
        ("a.wav", "pcm8", "pcm24"),
        ("a.flac", "float", "pcm24"),
        ("a.mp3", "pcm24", "pcm16"),
    ],
)
def test_impossible_formats_say_what_is_possible(tmp_path, name, subtype, valid):
    with pytest.raises(AudioError, match=valid):
        write_audio(tmp_path / name, noise(), 16_000, subtype=subtype)
    assert not list(tmp_path.iterdir())


def test_mp3_of_an_impossible_rate(tmp_path):
    with pytest.raises(AudioError, match="96,000 Hz"):
        write_audio(tmp_path / "a.mp3", noise(), 96_000)


@pytest.mark.parametrize("shape", [(), (1, 1, 5), (65, 5), (0, 5)])
def test_impossible_shapes(tmp_path, shape):
    with pytest.raises(AudioError, match="shape"):
        write_audio(tmp_path / "a.wav", np.zeros(shape), 16_000)


def test_missing_folder(tmp_path):
    with pytest.raises(AudioError, match="No such file"):
        write_audio(tmp_path / "missing" / "a.wav", noise(), 16_000)


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_audio(path, noise(), 16_000)
    before = path.read_bytes()

    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(AudioError, match="No space left"):
        write_audio(path, noise(seed=1), 16_000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_device_that_is_full(tmp_path, monkeypatch):
    (tmp_path / "a.wav").touch()
    opened = type(tmp_path).open

    def open_full(self, mode="r", *args):
        is_full = self.suffix == ".part" and "w" in mode
        return opened(type(tmp_path)("/dev/full") if is_full else self, mode)

    monkeypatch.setattr(type(tmp_path), "open", open_full)
    with pytest.raises(AudioError, match="No space left"):
        write_audio(tmp_path / "a.wav", noise(), 16_000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
