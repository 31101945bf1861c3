"""`generate --timeline` and `--duration` as a user runs them, on a tiny checkpoint."""

import json
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    app = build_app()

    def run(name, *arguments):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)]
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


def test_a_timeline_decides_the_length_is_recorded_and_made_again(run):
    result = run("generate", "--timeline", "0-1s a dog; 1-1.6s rain", "--seed", "1", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["task"], told["prompt"]) == ("timeline", "")
    assert told["timeline"] == "0-1s a dog; 1-1.6s rain"
    assert told["file"] == "0-1s-a-dog-1-1.6s-rain.wav"
    assert soundfile.info(told["file"]).frames == 25600
    again = run("reproduce", told["file"])
    assert again.exit_code == 0, again.output
    assert again.stdout == "identical: all 25600 samples\n"


def test_a_timeline_from_a_file_over_prompts_as_beds(run):
    Path("scene.txt").write_text("0-1s a dog\n0.5s- rain\n")
    result = run(
        *("generate", "wind", "waves", "--timeline", "scene.txt", "--duration", "90"),
        *("--dry-run", "--json"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["settings"]["duration_s"] == 90
    assert told["settings"]["timeline"] == ["0-1s a dog", "0.5-90s rain"]
    assert [sound["prompt"] for sound in told["sounds"]] == ["wind", "waves"]
    assert {sound["timeline"] for sound in told["sounds"]} == {"0-1s a dog; 0.5s- rain"}


def test_an_open_region_lasts_as_long_as_the_models_sounds_do(run):
    result = run("generate", "--timeline", "0.4s- rain", "--dry-run")
    assert result.exit_code == 0 and "0.4-1s rain" in result.stdout
    late = run("generate", "--timeline", "2s- rain", "--dry-run")
    assert late.exit_code == 2 and "the sound, which lasts 1.000 s" in late.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--timeline", "soon a dog"), "'soon' cannot be read"),
        (("--timeline", "scene.txt"), "nor an existing file"),
        (("--timeline", ""), "--timeline is empty"),
        (("--timeline", "0-3s a dog", "--duration", "2"), "the sound, which lasts 2.000 s"),
        (("--timeline", "0-4000s a dog"), "--timeline 0-4000s"),
        (("--timeline", "0-1s a \x1b[31mdog"), "U+001B"),
        (("rain", "--duration", "4000"), "--duration 4000"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_asked_for(run, monkeypatch, arguments, words):
    def find(*args, **kwargs):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("auffusion_cli.cli.resolve.fetch", find)
    result = run("generate", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr and result.stdout == ""
