"""`extend` as a user runs it, on a tiny checkpoint."""

import json

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
    noise = np.random.default_rng(0).normal(size=(24000, 2)) * 0.1
    soundfile.write("clip.wav", noise, 48000, subtype="PCM_24")
    app = build_app()

    def run(name, *arguments):
        has_model = name != "finish"
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)] if has_model else []
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


def test_a_clip_goes_on_is_shown_and_made_again(run):
    result = run(
        *("extend", "clip.wav", "--by", "400ms", "--before", "--prompt", "rain", "--seed", "3"),
        *("--spectrogram", "both.png", "--json"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["status"] == "made" and told["file"] == "clip-extended.wav"
    assert (told["task"], told["by_s"], told["where"]) == ("extend", 0.4, "before")
    assert told["duration_s"] == 0.9
    before, _ = soundfile.read("clip.wav", dtype="int32")
    after, rate_hz = soundfile.read("clip-extended.wav", dtype="int32")
    assert rate_hz == 48000 and np.array_equal(after[19200:], before)
    assert Image.open("both.png").height > 2 * 384

    again = run("reproduce", "clip-extended.wav")
    assert again.exit_code == 0, again.output
    assert again.stdout == "identical: all 43200 samples\n"


def test_silence_and_a_negative_prompt_without_guidance_are_told(run):
    soundfile.write("silent.wav", np.zeros(8000), 16000)
    command = ("extend", "--by", "400ms", "--negative", "rain", "--dry-run")
    result = run(*command, "silent.wav", "--guidance", "1")
    assert result.exit_code == 0, result.output
    assert "silent.wav is silent" in result.stderr and "guidance is 1" in result.stderr
    result = run(*command, "clip.wav", "--guidance", "2")
    assert result.exit_code == 0 and "warning" not in result.stderr


def test_a_loop_is_a_second_longer_and_a_dry_run_writes_nothing(run, tmp_path):
    result = run("extend", "clip.wav", "--loop", "--dry-run", "--json", "-o", "out/")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["settings"]["duration_s"] == 1.5
    assert told["sounds"][0]["file"] == "out/clip-loop.wav"
    assert told["sounds"][0]["where"] == "loop" and told["sounds"][0]["by_s"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give --by, or --loop"),
        (("--by", "1s", "--before", "--loop"), "either --before or --loop"),
        (("--by", "long"), "--by 'long'"),
        (("--by", "0"), "--by 0.0"),
        (("--by", "2000000ms", "--crossfade", "2s"), "--crossfade 2.0"),
        (("--by", "3599.8s"), "with it clip.wav would last 3600.3 s"),
        (("--by", "1s", "--over", "0.5s"), "--over 0.5s: clip.wav lasts 0.5 s"),
        (("--by", "1s", "-o", "new.mp3"), "new.mp3"),
        (("--by", "1s", "-o", "clip.wav"), "clip.wav exists"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_asked_for(run, monkeypatch, arguments, words):
    def find(*args, **kwargs):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("auffusion_cli.cli.resolve.fetch", find)
    result = run("extend", "clip.wav", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr and result.stdout == ""


def test_a_clip_that_is_too_short_is_told(run):
    soundfile.write("click.wav", np.ones(40), 48000)
    result = run("extend", "click.wav", "--by", "1s")
    assert result.exit_code == 2 and "click.wav lasts 0.000833333 s\n" in result.stderr


def test_a_fade_of_its_own_is_made_anew_and_told(run):
    assert run("finish", "clip.wav", "--fade-out", "0.2s", "-o", "faded.wav").exit_code == 0
    for more, over_s, words in (
        ((), 0.2, "its fade of 0.2 s is made anew (--over 0 keeps it)"),
        (("--over", "0"), 0.0, ""),
        (("--over", "300ms"), 0.3, ""),
    ):
        result = run("extend", "faded.wav", "--by", "1s", "--dry-run", "--json", *more)
        assert json.loads(result.stdout)["sounds"][0]["over_s"] == over_s
        assert words in result.stderr and bool(words) == ("fade" in result.stderr)


def test_the_best_of_several_is_kept(run):
    asked = ("--by", "0.2s", "--prompt", "thunder", "--seed", "3", "--best-of", "2", "--json")
    result = run("extend", "clip.wav", *asked, "-o", "longer.wav")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["selection"]["best_of"], made["selection"]["judge"]) == (2, "kinds")
    assert "identical" in run("reproduce", "longer.wav").stdout
    result = run("extend", "clip.wav", "--by", "0.2s", "--best-of", "2")
    assert result.exit_code == 2 and "Add --prompt" in result.stderr
