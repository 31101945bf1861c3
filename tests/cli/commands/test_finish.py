"""`finish`, and its options of the commands that make and change sounds, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.signal.meters import loudness_lufs, to_db, true_peak


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion COMMAND ...` in a folder with a clip.wav; the tiny model is loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    noise = np.random.default_rng(0).normal(size=48000) * 0.1
    noise = np.convolve(noise, np.ones(8) / 8, "same")  # with little that encoders leave out
    noise[:20000] = 0
    noise[30000:40000] = 0
    soundfile.write("clip.wav", noise, 48000, subtype="PCM_24")
    app = build_app()

    def run(name, *arguments):
        with_model = name not in ("info", "finish")
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)] if with_model else []
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


FINISHED = ("--loudness", "-20LUFS", "--rate", "48k", "--channels", "2", "--fade-out", "100ms")


def is_made_again(run, *arguments):
    again = run("reproduce", *arguments)
    assert again.exit_code == 0, again.output
    return again.stdout.startswith("identical")


def test_a_file_is_finished_and_made_again(run):
    result = run("finish", "clip.wav", *FINISHED, "--broadcast", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["file"], told["task"], told["source"]) == (
        "clip-finished.wav",
        "finish",
        "clip.wav",
    )
    assert told["finish"] == {
        "fade_out_s": 0.1,
        "loudness_lufs": -20.0,
        "rate_hz": 48000,
        "channels": 2,
        "broadcast": True,
    }
    samples, rate_hz = soundfile.read("clip-finished.wav")
    assert rate_hz == 48000 and samples.shape == (48000, 2)
    assert loudness_lufs(samples.T, rate_hz) == pytest.approx(-20, abs=0.1)
    assert is_made_again(run, "clip-finished.wav")
    assert "loudness -20 LUFS" in run("info", "clip-finished.wav").stdout


@pytest.mark.parametrize("rate_hz", [2_000, 384_000])
def test_any_rate_that_is_read_stays(run, rate_hz):
    soundfile.write("other.wav", np.random.default_rng(0).normal(size=8000) * 0.1, rate_hz)
    result = run("finish", "other.wav", "--peak", "-1dB")
    assert result.exit_code == 0, result.output
    assert soundfile.info("other-finished.wav").samplerate == rate_hz
    assert is_made_again(run, "other-finished.wav")


@pytest.mark.parametrize("format", ["wav24", "flac", "ogg", "mp3"])
def test_formats(run, format):
    result = run("finish", "clip.wav", "--peak", "-1", "--format", format, "-o", "out/")
    assert result.exit_code == 0, result.output
    (path,) = result.stdout.split()
    assert path == f"out/clip.{format.removesuffix('24')}"
    assert to_db(true_peak(soundfile.read(path, always_2d=True)[0].T)) == pytest.approx(-1, abs=2.5)
    assert is_made_again(run, path, "--source", "clip.wav")


def test_a_folder_is_finished_and_what_cannot_be_read_is_told(run, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write("in/a.flac", np.full(8000, 0.1), 16000)
    soundfile.write("in/b.wav", np.full(8000, 0.1), 16000)
    (tmp_path / "in" / "c.wav").write_bytes(b"RIFF")
    (tmp_path / "in" / "notes.txt").write_text("no sound")
    result = run("finish", "in", "-o", "out/{name}", "--peak", "-6dB")
    assert result.exit_code == 1 and "c.wav" in result.stderr
    # A template without a suffix takes the source's, as a folder does.
    assert result.stdout.split() == ["out/a.flac", "out/b.wav"]
    again = run("finish", "in/a.flac", "-o", "out/{name}", "--peak", "-3dB")
    assert again.exit_code == 2 and "exists" in again.stderr
    for folder, names in (("other/", ["a.flac", "b.wav"]), ("in", ["a-finished.flac"])):
        sources = [f"in/{name}" for name in ("a.flac", "b.wav")][: len(names)]
        result = run("finish", *sources, "-o", folder, "--peak", "-6dB")
        assert [Path(path).name for path in result.stdout.split()] == names, result.output


def test_events_are_written_one_by_one(run):
    result = run("finish", "clip.wav", "--split-events", "--fade-out", "10ms", "-o", "events/")
    assert result.stdout.split() == ["events/clip-01.wav", "events/clip-02.wav"]
    durations = [soundfile.info(path).duration for path in result.stdout.split()]
    assert durations == pytest.approx([10000 / 48000 + 0.12, 8000 / 48000 + 0.02], abs=0.02)
    assert is_made_again(run, "events/clip-02.wav", "--source", "clip.wav")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("clip.wav",), "no option says how to finish"),
        (("clip.wav", "--loudness", "loud"), "--loudness 'loud'"),
        (("clip.wav", "--peak", "3"), "--peak 3.0"),
        (("clip.wav", "--rate", "5"), "--rate 5"),
        (("clip.wav", "--channels", "6"), "--channels 6"),
        (("clip.wav", "--extend-band"), "--extend-band needs a --rate"),
        (("clip.wav", "--extend-band", "--rate", "16k"), "--extend-band needs a --rate"),
        (("clip.wav", "--peak", "-1", "--broadcast", "-o", "a.flac"), "a.flac is not a wav"),
        (("clip.wav", "--peak", "-1", "-o", "clip.wav"), "replaced by its own result"),
        (("nowhere.wav", "--peak", "-1"), "nowhere.wav"),
        (("click.wav", "--peak", "-1"), "click.wav lasts 0.005 s"),
        (("slow.wav", "--low-cut", "700"), "--low-cut 700 takes away all that slow.wav has"),
        (("clip.wav", "clip.wav", "--peak", "-1"), "more than one result"),
    ],
)
def test_what_cannot_be_done_is_told_before(run, arguments, words):
    soundfile.write("click.wav", np.ones(40) / 2, 8000)
    soundfile.write("slow.wav", np.ones(2800) / 2, 1400)
    result = run("finish", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.output


def test_generate_finishes_records_and_makes_again(run):
    made = run("generate", "rain", "--seed", "1", "-o", "rain.wav", *FINISHED, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["finish"]["channels"] == 2
    info = soundfile.info("rain.wav")
    assert (info.samplerate, info.channels, info.frames) == (48000, 2, 48000)
    assert is_made_again(run, "rain.wav")
    same = run("generate", "rain", "--seed", "1", "-o", "rain.wav", *FINISHED)
    assert same.exit_code == 0 and "already there" in same.stderr
    other = run("generate", "rain", "--seed", "1", "-o", "rain.wav")
    assert other.exit_code == 2 and "is not from the same request" in other.stderr
    # The record starts an edit of its words.
    edited = run("edit", "rain.wav", "--swap", "rain=wind", "--peak", "-2dB", "-o", "wind.flac")
    assert edited.exit_code == 0, edited.output
    assert "not the same" not in edited.stderr
    assert is_made_again(run, "wind.flac")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inpaint", "clip.wav", "--mask", "0.1-0.3"),
        ("inpaint", "clip.wav", "--mask", "0.1-0.3", "--room-tone"),
        ("extend", "clip.wav", "--by", "0.2"),
        ("style-transfer", "clip.wav", "rain", "--strength", "0.5"),
    ],
)
def test_edits_are_finished(run, tiny_checkpoint, arguments):
    made = run(*arguments, "--seed", "1", "-o", "new.wav", *FINISHED, "--broadcast")
    assert made.exit_code == 0, made.output
    info = soundfile.info("new.wav")
    assert (info.channels, info.subtype) == (2, "PCM_24")
    samples, _ = soundfile.read("new.wav")
    assert to_db(true_peak(samples.T)) < -0.9
    assert is_made_again(run, "new.wav")


EXTENDED = ("--rate", "48k", "--extend-band")


def above_and_below(path):
    """Spectrum above 9 kHz, and below 7 kHz, of a file at 48 kHz."""
    samples, rate_hz = soundfile.read(path, always_2d=True)
    assert rate_hz == 48000
    spectrum = np.abs(np.fft.rfft(samples[:, 0] * np.hanning(len(samples))))
    hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    return spectrum[(hz > 9000) & (hz < 19000)], spectrum[hz < 7000]


def test_what_is_missing_above_is_made_and_what_is_below_stays(run):
    noise = np.random.default_rng(0).normal(size=16000) * 0.1
    soundfile.write("dull.wav", noise, 16000)
    soundfile.write("low.wav", noise, 8000)
    for name, options in (("plain", EXTENDED[:2]), ("more", EXTENDED)):
        result = run("finish", "dull.wav", *options, "-o", f"{name}.wav", "--format", "wav24")
        assert result.exit_code == 0, result.output
    (dull_above, dull_below), (above, below) = map(above_and_below, ("plain.wav", "more.wav"))
    assert np.abs(below - dull_below).max() < 1e-4 * below.max()
    assert above.mean() > 100 * dull_above.mean()
    assert is_made_again(run, "more.wav")
    assert "upper-band" in run("info", "more.wav", "--json").stdout
    whole = run("finish", "clip.wav", *EXTENDED, "-o", "whole.wav", "--format", "wav24")
    assert whole.exit_code == 0 and "nothing is added" in whole.stderr
    low = run("finish", "low.wav", *EXTENDED)
    assert low.exit_code == 2 and "low.wav" in low.stderr and "8,000 Hz" in low.stderr


def test_a_generated_sound_is_extended_and_made_again(run):
    made = run("generate", "rain", "--seed", "1", "-o", "rain.flac", *EXTENDED, "--channels", "2")
    assert made.exit_code == 0, made.output
    above, below = above_and_below("rain.flac")
    assert above.mean() > 1e-4 * below.mean()
    assert is_made_again(run, "rain.flac")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inpaint", "clip.wav", "--mask", "0.1-0.3"),
        ("extend", "clip.wav", "--by", "0.2"),
        ("style-transfer", "clip.wav", "rain", "--strength", "0.5"),
        ("mix", "clip.wav", "--under", "rain"),
    ],
)
def test_what_is_new_in_a_recording_is_extended(run, arguments):
    for name, options in (("plain", EXTENDED[:2]), ("more", EXTENDED)):
        made = run(*arguments, "--seed", "1", "-o", f"{name}.wav", *options)
        assert made.exit_code == 0, made.output
    plain, more = (soundfile.read(f"{name}.wav")[0] for name in ("plain", "more"))
    assert plain.shape == more.shape and not np.array_equal(plain, more)
    if arguments[0] == "inpaint":
        assert np.array_equal(more[:4800], plain[:4800])
    assert is_made_again(run, "more.wav")


def test_a_loop_keeps_its_points_and_takes_no_fade(run):
    made = run("extend", "clip.wav", "--loop", "--by", "0.2", "--seed", "1", "-o", "loop.wav")
    assert made.exit_code == 0, made.output
    assert b"smpl" in Path("loop.wav").read_bytes()
    result = run("finish", "loop.wav", "--rate", "44.1k")
    assert result.exit_code == 0, result.output
    assert b"smpl" in Path("loop-finished.wav").read_bytes()
    faded = run("finish", "loop.wav", "--fade-in", "1s")
    assert faded.exit_code == 2 and "is a loop" in faded.stderr
