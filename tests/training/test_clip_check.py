import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auffusion_cli.errors import AuffusionWarning
from auffusion_cli.training import clip_check
from auffusion_cli.training.clip_check import check_clips
from auffusion_cli.training.data import Clip, Manifest, load_clips
from small_data import RATE_HZ, write_lines, write_sound


def bad_folder(folder: Path) -> Manifest:
    write_sound(folder / "good.wav", seed=1)
    shutil.copy(folder / "good.wav", folder / "same.wav")
    write_sound(folder / "silent.wav", peak=1e-4)
    write_sound(folder / "short.wav", duration_s=0.05)
    (folder / "cut.wav").write_bytes((folder / "good.wav").read_bytes()[:30])
    (folder / "text.wav").write_text("not audio")
    names = ["good", "same", "silent", "short", "cut", "text", "missing", "untold"]
    write_sound(folder / "untold.wav", seed=2)
    rows = [{"file_name": f"{n}.wav", "text": "" if n == "untold" else n} for n in names]
    write_lines(folder / "metadata.jsonl", rows)
    return load_clips(folder)


def test_check_finds_every_kind_of_bad_file(tmp_path):
    calls = []
    report = check_clips(bad_folder(tmp_path), on_progress=lambda *counts: calls.append(counts))
    assert [clip.captions for clip in report.clips] == [("good",)]
    assert [problem.reason for problem in report.problems] == [
        "missing",
        "captionless",
        "duplicate",
        "silent",
        "too short",
        "unreadable",
        "unreadable",
    ]
    duplicate = next(p for p in report.problems if p.reason == "duplicate")
    assert duplicate.where.endswith("same.wav")
    assert duplicate.detail.endswith("good.wav")
    assert calls == [(n, 6) for n in range(7)]


def test_samples_that_are_not_numbers_are_unusable(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(RATE_HZ, np.nan), RATE_HZ, subtype="FLOAT")
    report = check_clips(Manifest((Clip(tmp_path / "a.wav", ("x",)),)))
    assert not report.clips
    where = str(tmp_path / "a.wav")
    assert [str(problem).count(where) for problem in report.problems] == [1]


def test_a_held_out_clip_that_is_trained_on_is_a_duplicate(tmp_path):
    trained = Clip(write_sound(tmp_path / "train/a.wav"), ("a",))
    copy = Clip(write_sound(tmp_path / "val/b.wav"), ("b",))
    other = Clip(write_sound(tmp_path / "val/c.wav", seed=1), ("c",))
    seen = {}
    assert check_clips(Manifest((trained,)), seen=seen).clips == (trained,)
    held_out = check_clips(Manifest((copy, other)), seen=seen)
    assert held_out.clips == (other,)
    assert held_out.problems[0].detail == f"same samples as {trained.path}"


def test_check_opens_a_file_again_only_when_it_changed(tmp_path, monkeypatch):
    manifest, cache = bad_folder(tmp_path / "data"), tmp_path / "run/check.json"
    opened, lock = [], threading.Lock()
    read_audio = clip_check.read_audio

    def counting(path, *args, **kwargs):
        with lock:
            opened.append(path.name)
        return read_audio(path, *args, **kwargs)

    monkeypatch.setattr(clip_check, "read_audio", counting)
    first = check_clips(manifest, cache_file=cache)
    assert len(opened) == 6
    opened.clear()
    assert check_clips(manifest, cache_file=cache) == first
    assert sorted(opened) == ["cut.wav", "text.wav"]  # perhaps readable by now
    opened.clear()
    write_sound(tmp_path / "data/silent.wav", seed=5, duration_s=0.4)
    second = check_clips(manifest, cache_file=cache)
    assert sorted(opened) == ["cut.wav", "silent.wav", "text.wav"]
    assert [clip.path.name for clip in second.clips] == ["good.wav", "silent.wav"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"key": {"unknown": 1}}', '{"key": {"peak": "1"}}']
)
def test_a_damaged_cache_is_said_and_made_again(tmp_path, content):
    cache = tmp_path / "check.json"
    cache.write_text(content)
    manifest = Manifest((Clip(write_sound(tmp_path / "a.wav"), ("x",)),))
    with pytest.warns(AuffusionWarning, match="checking all files"):
        assert check_clips(manifest, cache_file=cache) == manifest
    assert json.loads(cache.read_text())


def test_an_interrupted_check_keeps_what_it_has(tmp_path):
    paths = [write_sound(tmp_path / f"{n}.wav", seed=n) for n in range(5)]
    manifest = Manifest(tuple(Clip(path, ("x",)) for path in paths))

    def interrupt(n_done, n_total):
        if n_done == 3:
            raise KeyboardInterrupt

    cache = tmp_path / "check.json"
    with pytest.raises(KeyboardInterrupt):
        check_clips(manifest, cache_file=cache, on_progress=interrupt)
    assert len(json.loads(cache.read_text())) == 3


@pytest.mark.parametrize("times", [{"start_s": 1e308}, {"duration_s": 1e308}, {"start_s": 0.4}])
def test_times_beyond_the_end_are_a_problem_of_that_clip(tmp_path, times):
    clip = Clip(write_sound(tmp_path / "a.wav"), ("x",), **times)
    other = Clip(write_sound(tmp_path / "b.wav", seed=1), ("x",))
    report = check_clips(Manifest((clip, other)))
    if "duration_s" in times:  # to the end
        assert report.clips == (clip, other)
    else:
        assert report.clips == (other,)
        assert [problem.reason for problem in report.problems] == ["too short"]


def test_a_file_that_takes_too_much_memory_is_a_problem_of_its_own(tmp_path, monkeypatch):
    clips = [Clip(write_sound(tmp_path / f"{n}.wav", seed=n), ("x",)) for n in range(2)]
    read_audio = clip_check.read_audio

    def exhausting(path, *args, **kwargs):
        if path.name == "0.wav":
            raise MemoryError
        return read_audio(path, *args, **kwargs)

    monkeypatch.setattr(clip_check, "read_audio", exhausting)
    report = check_clips(Manifest(tuple(clips)))
    assert report.clips == (clips[1],)
    assert "needs more memory than there is" in report.problems[0].detail
