"""Folders of sounds: what is found, what speaks against it, and that nothing is lost in silence."""

import os

import numpy as np
import pytest
import soundfile

from auffusion_cli.errors import DataError
from auffusion_cli.evaluation import clips
from auffusion_cli.evaluation.clips import (
    clip_name,
    find_sounds,
    flaws_of_samples,
    in_reference,
    scan_folder,
    set_hash,
    without_partner,
)
from auffusion_cli.requests.provenance import Provenance, hash_samples
from auffusion_cli.requests.request import EditRequest, GenerateSettings
from auffusion_cli.signal.audio import write_audio

RATE_HZ = 16_000


def noise(seed, duration_s=1.5, peak=0.3, rate_hz=RATE_HZ):
    samples = np.random.default_rng(seed).uniform(-peak, peak, size=round(duration_s * rate_hz))
    return samples.astype(np.float32)


def write(path, samples, rate_hz=RATE_HZ, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **options)
    return path


def found(folder):
    """(path, flag) of each finding, and the number of clips used."""
    looked = scan_folder(folder, RATE_HZ)
    return [(f.path, f.flag) for f in looked.record.findings], looked.record.n_used


# --- each guard


def test_a_folder_without_flaws_has_no_findings(tmp_path):
    for seed in range(3):
        write(tmp_path / f"{seed}.wav", noise(seed))
    assert found(tmp_path) == ([], 3)


def test_a_folder_of_silence_is_named_as_such_and_still_measured(tmp_path):
    for n in range(3):
        write(tmp_path / f"{n}.wav", np.zeros(RATE_HZ * (1 + n)))
    findings, n_used = found(tmp_path)
    assert findings == [("0.wav", "silent"), ("1.wav", "silent"), ("2.wav", "silent")]
    assert n_used == 3


def test_a_folder_of_duplicates_names_all_but_the_first_whatever_their_format(tmp_path):
    samples = (noise(0) * 32767).astype(np.int16)
    write(tmp_path / "a.wav", samples)
    write(tmp_path / "b.wav", samples)
    write(tmp_path / "c.flac", samples)
    write(tmp_path / "other.wav", noise(1))
    assert found(tmp_path) == ([("b.wav", "duplicate"), ("c.flac", "duplicate")], 4)
    duplicate = scan_folder(tmp_path, RATE_HZ).record.findings[1]
    assert duplicate.detail == "the same sound as a.wav"


def test_broken_files_are_left_out_and_named(tmp_path):
    whole = write(tmp_path / "whole.wav", noise(0)).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    looked = scan_folder(tmp_path, RATE_HZ)
    assert [clip.relative for clip in looked.clips] == ["whole.wav"]
    assert {(f.path, f.flag, f.excluded) for f in looked.record.findings} == {
        (name, "unreadable", True) for name in ("cut.wav", "empty.wav", "text.wav")
    }
    assert looked.record.n_files == 4
    assert "cut short" in looked.record.findings[0].detail


def test_a_folder_of_broken_files_is_an_error_that_says_why(tmp_path):
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(DataError, match=r"none of its 1 sound files.*not audio"):
        scan_folder(tmp_path, RATE_HZ)


def test_a_stereo_file_of_24_bits_and_96_khz_is_used_and_told(tmp_path):
    stereo = np.stack([noise(0, rate_hz=96_000), noise(1, rate_hz=96_000)], axis=1)
    write(tmp_path / "fine.wav", stereo, 96_000, subtype="PCM_24")
    looked = scan_folder(tmp_path, RATE_HZ)
    assert {f.flag: f.detail for f in looked.record.findings} == {
        "wrong-rate": "96,000 Hz, resampled to 16,000 Hz",
        "several-channels": "2 channels, reduced to one",
    }
    assert looked.clips[0].duration_s == 1.5


def test_a_low_rate_is_told_with_what_it_lacks(tmp_path):
    write(tmp_path / "dull.wav", noise(0, rate_hz=8_000), 8_000)
    (finding,) = scan_folder(tmp_path, RATE_HZ).record.findings
    assert finding.detail == "8,000 Hz, resampled to 16,000 Hz: nothing above 4,000 Hz"


def test_short_clips_are_named(tmp_path):
    write(tmp_path / "short.wav", noise(0, duration_s=0.5))
    assert found(tmp_path) == ([("short.wav", "too-short")], 1)


def test_of_two_files_of_one_name_the_second_is_left_out(tmp_path):
    write(tmp_path / "a.flac", noise(0))
    write(tmp_path / "a.wav", noise(1))
    assert found(tmp_path) == ([("a.wav", "same-name")], 1)


@pytest.mark.parametrize(
    ("samples", "flags"),
    [
        (noise(0), set()),
        (noise(0, peak=1.0), set()),  # full scale now and then is not clipping
        (np.clip(noise(0, peak=3.0), -1, 1), {"clipped"}),
        (np.zeros(1000), {"silent"}),
        (noise(0, peak=5e-4), {"silent"}),
        (np.full(1000, 0.5), {"constant"}),
        (np.full(1000, 1.0), {"constant"}),
        (np.sin(np.arange(16_000) / 5) * 0.01, set()),
        (np.ones(1), {"constant"}),
    ],
)
def test_flaws_of_samples(samples, flags):
    assert set(flaws_of_samples(samples[None].astype(np.float32))) == flags


def test_one_loud_channel_is_enough_not_to_be_silent():
    assert flaws_of_samples(np.stack([np.zeros(1000), noise(0)[:1000]])) == {}


# --- names, pairs, sets


def test_folders_are_searched_deep_in_order_and_hidden_files_passed_over(tmp_path):
    for name in ("b.wav", "a/z.FLAC", "a/.hidden.wav", ".cache/x.wav", "a/b/c.ogg"):
        write(tmp_path / name, noise(0), format="FLAC" if "FLAC" in name else None)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_sounds(tmp_path) == ["a/b/c.ogg", "a/z.FLAC", "b.wav"]


def test_no_folder_and_no_sounds_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_sounds(tmp_path / "missing")
    with pytest.raises(DataError, match="holds no sound files"):
        find_sounds(tmp_path)


def test_sounds_are_paired_by_name_and_those_without_a_partner_named(tmp_path):
    write(tmp_path / "made/a.wav", noise(0))
    write(tmp_path / "made/b.wav", noise(1))
    write(tmp_path / "real/a.flac", noise(2))
    write(tmp_path / "real/c.wav", noise(1))
    made, real = (scan_folder(tmp_path / name, RATE_HZ) for name in ("made", "real"))
    assert [finding.path for finding in without_partner(made, real)] == ["b.wav"]
    (copy,) = in_reference(made, real)
    assert (copy.path, copy.detail) == ("b.wav", "the same sound as c.wav in the reference")


def test_only_suffixes_of_sounds_are_no_part_of_a_name():
    assert clip_name("a/b.wav") == "a/b"
    assert clip_name("v1.5 take.FLAC") == "v1.5 take"
    assert clip_name("v1.5") == "v1.5"
    assert clip_name("a.wav.flac") == "a" and clip_name("a/.wav") == "a/.wav"


def test_the_hash_of_a_set_tells_names_and_contents_and_not_where_it_is(tmp_path):
    for folder in ("here", "there"):
        for seed in range(2):
            write(tmp_path / folder / f"{seed}.wav", noise(seed))
    here, there = (
        scan_folder(tmp_path / name, RATE_HZ).record.sha256 for name in ("here", "there")
    )
    assert here == there
    (tmp_path / "there/1.wav").rename(tmp_path / "there/2.wav")
    assert scan_folder(tmp_path / "there", RATE_HZ).record.sha256 != here
    write(tmp_path / "here/1.wav", noise(7))
    assert scan_folder(tmp_path / "here", RATE_HZ).record.sha256 != here
    clips = scan_folder(tmp_path / "here", RATE_HZ).clips
    assert set_hash(clips) == set_hash(clips[::-1])


# --- prompts


def test_a_sound_tells_its_prompt(tmp_path):
    import torch

    record = {"prompt": "a dog barks", "seed": 1}
    write_audio(tmp_path / "a.wav", torch.from_numpy(noise(0)), RATE_HZ, provenance=record)
    for name, prompt in (
        *(("b", "two\nlines"), ("c", 7), ("d", "x" * 2000), ("e", "x" * 10_001)),
        *(("f", "a\x1b[31m"), ("g", "👩\u200d🚒 sings")),
    ):
        path = tmp_path / f"{name}.wav"
        write_audio(path, torch.from_numpy(noise(1)), RATE_HZ, provenance={"prompt": prompt})
    prompts = [clip.prompt for clip in scan_folder(tmp_path, RATE_HZ).clips]
    assert prompts == [
        *("a dog barks", "two lines", None, "x" * 2000, None, None, "👩\u200d🚒 sings")
    ]


def test_an_edited_sound_tells_the_edited_prompt(tmp_path):
    import torch

    samples = torch.from_numpy(noise(0))
    record = Provenance(
        request=EditRequest("dog barking in rain", 7, swaps=("dog=cat",)),
        settings=GenerateSettings(1.0, 4, 3.0, 0.0, "ddim"),
        model="embedded",
        revision=None,
        vocoder="griffin-lim",
        device="cpu",
        dtype="fp32",
        samples_sha256=hash_samples(samples.numpy()),
    ).to_dict()
    write_audio(tmp_path / "a.wav", samples, RATE_HZ, provenance=record)
    write_audio(tmp_path / "b.wav", samples, RATE_HZ, provenance=record | {"swaps": ["cow=cat"]})
    prompts = [clip.prompt for clip in scan_folder(tmp_path, RATE_HZ).clips]
    assert prompts == ["cat barking in rain", None]


@pytest.mark.parametrize("task", ["timeline", "inpaint", "extend"])
def test_a_prompt_for_a_part_is_none_for_the_whole(tmp_path, task):
    import torch

    record = {"prompt": "a dog", "task": task}
    write_audio(tmp_path / "a.wav", torch.from_numpy(noise(0)), RATE_HZ, provenance=record)
    (clip,) = scan_folder(tmp_path, RATE_HZ).clips
    assert clip.prompt is None


def test_sounds_of_every_format_that_can_be_read_are_found(tmp_path):
    for name, format in (("a.aiff", "AIFF"), ("b.AU", "AU"), ("c.caf", "CAF"), ("d.w64", "W64")):
        soundfile.write(tmp_path / name, noise(len(name)), RATE_HZ, format=format)
    os.mkfifo(tmp_path / "e.wav")
    assert find_sounds(tmp_path) == ["a.aiff", "b.AU", "c.caf", "d.w64"]
    assert [clip.name for clip in scan_folder(tmp_path, RATE_HZ).clips] == ["a", "b", "c", "d"]


def test_sounds_that_cannot_be_read_are_found_unless_one_of_their_name_can(tmp_path):
    write(tmp_path / "a.wav", noise(0))
    for name in ("a.m4a", "b.m4a"):
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    folder = scan_folder(tmp_path, RATE_HZ)
    (finding,) = folder.record.findings
    assert (finding.path, finding.flag, finding.excluded) == ("b.m4a", "unreadable", True)
    assert finding.detail == "holds MPEG-4 (AAC or ALAC), which cannot be read"
    assert clip_name("b.m4a") == "b"


def test_a_file_that_takes_too_much_memory_is_one_finding(tmp_path, monkeypatch):
    for name in "ab":
        write(tmp_path / f"{name}.wav", noise(ord(name)))
    read = clips.read_audio

    def limited(path):
        if path.stem == "b":
            raise MemoryError
        return read(path)

    monkeypatch.setattr(clips, "read_audio", limited)
    folder = scan_folder(tmp_path, RATE_HZ)
    assert [clip.name for clip in folder.clips] == ["a"]
    (found,) = folder.record.findings
    assert (found.path, found.flag, found.excluded) == ("b.wav", "unreadable", True)
    assert found.detail == "does not fit into memory"
