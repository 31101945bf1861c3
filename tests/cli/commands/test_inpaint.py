"""`inpaint` as a user runs it, on a tiny checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion COMMAND ...` in a folder with a clip.wav; the tiny model is loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    noise = np.random.default_rng(0).normal(size=(48000, 2)) * 0.1
    soundfile.write("clip.wav", noise, 48000, subtype="PCM_24")
    app = build_app()

    def run(name, *arguments):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)] if name != "info" else []
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Loading or looking for a model fails the test: what is wrong has to be told before."""

    def find(*args, **kwargs):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("auffusion_cli.cli.resolve.fetch", find)


def test_a_span_is_replaced_shown_and_made_again(run):
    result = run(
        *("inpaint", "clip.wav", "--mask", "-0.2s", "--prompt", "a car horn", "--seed", "3"),
        *("--spectrogram", "both.png", "--json"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["status"] == "made" and told["file"] == "clip-inpainted.wav"
    assert (told["task"], told["masks"], told["source"]) == ("inpaint", ["-0.2s"], "clip.wav")
    before, _ = soundfile.read("clip.wav", dtype="int32")
    after, rate_hz = soundfile.read("clip-inpainted.wav", dtype="int32")
    assert rate_hz == 48000 and soundfile.info("clip-inpainted.wav").subtype == "PCM_24"
    assert np.array_equal(after[9600:], before[9600:])
    assert not np.array_equal(after[:9600], before[:9600])
    assert Image.open("both.png").height > 2 * 384

    assert "a car horn" in run("info", "clip-inpainted.wav").stdout
    again = run("reproduce", "clip-inpainted.wav", "-o", "again.wav")
    assert again.exit_code == 0, again.output
    assert again.stdout == "identical: all 48000 samples\nagain.wav\n"
    Path("clip.wav").rename("elsewhere.wav")
    lost = run("reproduce", "clip-inpainted.wav")
    assert lost.exit_code == 2 and "--source" in lost.stderr


def test_a_dry_run_tells_windows_and_price_and_writes_nothing(run, tmp_path):
    result = run(
        *("inpaint", "clip.wav", "--mask", "0.1-0.9", "--band", "4k-8k", "--resample", "3"),
        *("--dry-run", "--json", "-o", "out/"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["settings"]["windows"] == 1 and told["settings"]["steps"] == 2
    assert told["sounds"][0]["file"] == "out/clip-inpainted.wav"
    assert "about 6 steps a window instead of 2" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give --mask, --band, or both"),
        (("--mask", "2-3s"), "the clip, which lasts 1.000 s"),
        (("--mask", "0.5-0.2"), "ends before it starts"),
        (("--mask", "soon"), "--mask 'soon' cannot be read"),
        (("--band", "9k-"), "--band 9k-"),
        (("--mask", "0-1", "--crossfade", "long"), "--crossfade 'long'"),
        (("--mask", "0-1", "--crossfade", "20"), "--crossfade 20.0"),
        (("--mask", "0-1", "--resample", "0"), "--resample 0"),
        (("--mask", "0-1", "--seed", "-1"), "--seed -1"),
        (("--mask", "0-1", "-o", "new.mp3"), "new.mp3"),
        (("--mask", "0-1", "-o", "clip.wav"), "clip.wav exists"),
        (("--mask", "0-1", "--spectrogram", "a.jpg"), "a.jpg"),
        (("--mask", "0-1", "--steps", "0"), "--steps 0"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_asked_for(run, no_model, arguments, words):
    result = run("inpaint", "clip.wav", *arguments)
    assert result.exit_code in (1, 2)
    assert words in result.stderr and result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_file_that_is_no_sound_is_an_error(run, no_model):
    Path("text.wav").write_text("no sound")
    result = run("inpaint", "text.wav", "--mask", "0-1")
    assert result.exit_code == 1 and "not audio" in result.stderr


def test_resample_needs_a_scheduler_that_can(run):
    result = run("inpaint", "clip.wav", "--mask", "0-1", "--resample", "2", "--scheduler", "pndm")
    assert result.exit_code == 2 and "--scheduler ddim" in result.stderr


def test_room_tone_needs_no_model(run, no_model):
    arguments = ("inpaint", "clip.wav", "--mask", "0.4-0.6s", "--room-tone", "--seed", "3")
    planned = run(*arguments, "--dry-run", "--json")
    assert json.loads(planned.stdout)["settings"] == {"model": None}
    result = run(*arguments, "--json", "--spectrogram", "both.png")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["room_tone"] is True and made["model"] == "none"
    assert soundfile.info("clip-inpainted.wav").frames == 48000
    assert "room_tone" in run("info", "clip-inpainted.wav", "--json").stdout
    again = run("reproduce", "clip-inpainted.wav")
    assert again.stdout == "identical: all 48000 samples\n", again.output


def test_room_tone_takes_no_prompt(run, no_model):
    result = run("inpaint", "clip.wav", "--mask", "0.4-0.6s", "--room-tone", "--prompt", "rain")
    assert result.exit_code == 2 and "--room-tone" in result.stderr
    result = run("inpaint", "clip.wav", "--mask", "0.4-0.6s", "--room-tone", "--steps", "5")
    assert result.exit_code == 2 and "--room-tone uses no model" in result.stderr


def test_a_recording_that_is_too_long_is_not_read(run, no_model, monkeypatch):
    monkeypatch.setattr("auffusion_cli.cli.recordings.MAX_DURATION_S", 0.5)
    monkeypatch.setattr("auffusion_cli.signal.recording.read_recording", None)
    result = run("inpaint", "clip.wav", "--mask", "0.4-0.6s")
    assert result.exit_code == 2 and "clip.wav lasts 1 s" in result.stderr


def test_reproduce_says_that_a_file_was_changed(run):
    run("inpaint", "clip.wav", "--mask", "0.4-0.6s", "--room-tone")
    content = bytearray(Path("clip-inpainted.wav").read_bytes())
    content[5000] ^= 64  # of a sample
    Path("clip-inpainted.wav").write_bytes(content)
    result = run("reproduce", "clip-inpainted.wav")
    assert result.exit_code == 1
    assert "this file was changed after it was made" in result.stdout
    as_json = json.loads(run("reproduce", "clip-inpainted.wav", "--json").stdout)
    assert as_json["file_changed"] is True and as_json["identical"] is False


def test_the_best_of_several_is_kept_and_the_others_with_their_ranks(run):
    asked = ("inpaint", "clip.wav", "--mask", "-0.2s", "--prompt", "a theremin", "--seed", "3")
    result = run(*asked, "--best-of", "2", "--keep-all", "--json", "-o", "new.wav")
    assert result.exit_code == 0, result.output
    selection = json.loads(result.stdout)["selection"]
    assert (selection["first_seed"], selection["best_of"]) == (3, 2)
    assert "knows none of the words" in result.stderr
    for name in ("new.wav", "new-rank2.wav"):
        again = run("reproduce", name)
        assert again.exit_code == 0 and "identical" in again.stdout, again.output
    result = run(*asked, "--best-of", "2", "--keep-all", "-o", "new.wav")
    assert result.exit_code == 2 and "new.wav" in result.stderr
    assert run(*asked, "--best-of", "2", "-o", "one.wav").exit_code == 0
    assert not Path("one-rank2.wav").exists()


def test_what_the_guards_find_is_made_again_and_told(run, monkeypatch):
    faults = iter(["silent", None, None])
    monkeypatch.setattr("auffusion_cli.tasks.choose.Chooser.fault_of", lambda *_: next(faults))
    asked = ("inpaint", "clip.wav", "--mask", "-0.2s", "--seed", "3", "--json")
    result = run(*asked, "-o", "a.wav")
    assert "made again with another seed: 1 silent (--no-guards keeps them)" in result.stderr
    selection = json.loads(result.stdout)["selection"]
    assert selection["rejected"] == [{"seed": 3, "fault": "silent"}]
    again = run("reproduce", "a.wav")
    assert "identical" in again.stdout, again.output
