"""`mix` as a user runs it, on a tiny checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion COMMAND ...` in a folder with a speech.wav and a rain.flac."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    rng = np.random.default_rng(0)
    speech = 0.2 * rng.normal(size=44_100) * (np.arange(44_100) % 20_000 < 8_000)
    soundfile.write("speech.wav", speech, 44_100, subtype="PCM_24")
    soundfile.write("rain.flac", 0.1 * rng.normal(size=(8_000, 2)), 16_000)
    app = build_app()

    def run(name, *arguments):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)]
        if name == "info" or any(str(each).endswith(".flac") for each in arguments):
            options = []  # a bed from a file takes no model
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


def test_a_file_is_laid_under_and_mixed_again(run):
    result = run("mix", "speech.wav", "--under", "rain.flac", "--duck", "12dB", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["file"], told["task"], told["under"]) == ("speech-mixed.wav", "mix", "rain.flac")
    assert (told["duck_db"], told["below_db"], told["model"]) == (12, 10, "none")
    info = soundfile.info("speech-mixed.wav")
    assert (info.samplerate, info.channels, info.frames) == (44_100, 2, 44_100)
    assert info.subtype == "PCM_24"
    again = run("reproduce", "speech-mixed.wav")
    assert again.exit_code == 0 and again.stdout.startswith("identical"), again.output
    Path("rain.flac").rename("elsewhere.flac")
    lost = run("reproduce", "speech-mixed.wav")
    assert lost.exit_code == 2 and "rain.flac" in lost.stderr


def test_a_bed_is_made_of_words_at_the_right_length(run):
    result = run("mix", "speech.wav", "--under", "rain", "--seed", "3", "-o", "m.wav", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["prompt"], told["seed"], told["duration_s"]) == ("rain", 3, 1.0)
    assert soundfile.info("m.wav").frames == 44_100
    again = run("reproduce", "m.wav")
    assert again.exit_code == 0 and again.stdout.startswith("identical"), again.output


def test_the_sum_is_softer_where_it_would_clip(run):
    loud = np.random.default_rng(0).uniform(-0.99, 0.99, 44_100)
    soundfile.write("loud.wav", loud, 44_100)
    result = run("mix", "loud.wav", "--under", "rain.flac", "--below", "0", "--duck", "0")
    assert result.exit_code == 0, result.output
    assert "softer than the recording, so as not to clip" in result.stderr
    assert np.abs(soundfile.read("loud-mixed.wav")[0]).max() <= 1
    assert run("reproduce", "loud-mixed.wav").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--under", "nowhere.wav"), "--model does nothing"),
        (("--under", "rain.flac", "--duck", "much"), "--duck 'much'"),
        (("--under", "rain.flac", "--below", "-3"), "--below -3.0"),
        (("--under", "rain.flac", "--fade", "100"), "--fade 100.0"),
        (("--under", " "), "the prompt is empty"),
        (("--under", "rain.flac", "-o", "mix.mp3"), ".mp3"),
        (("--under", "rain.flac", "--steps", "4"), "--under is a sound file"),
        (("--under", "rain.flac", "--vocoder", "hifigan"), "--vocoder does nothing"),
        (("--under", "rain.flac", "--lora", "a.safetensors"), "--lora does nothing"),
    ],
)
def test_what_cannot_be_done_is_told_before(run, arguments, words):
    result = run("mix", "speech.wav", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.output
