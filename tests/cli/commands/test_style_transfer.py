"""`style-transfer` as a user runs it, on a tiny checkpoint."""

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
    """Run `auffusion COMMAND ...` in a folder with a dog.flac; the tiny model is loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    noise = np.random.default_rng(0).normal(size=(11025, 2)) * 0.1
    soundfile.write("dog.flac", noise, 22050, subtype="PCM_16")
    app = build_app()

    def run(name, *arguments):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)]
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


def test_a_series_has_a_file_each_and_one_picture(run, tmp_path):
    result = run(
        *("style-transfer", "dog.flac", "a cat meowing", "--strengths", "0.5,1"),
        *("--seed", "3", "-o", "cats/"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [
        "cats/dog-a-cat-meowing-0.5.flac",
        "cats/dog-a-cat-meowing-1.flac",
    ]
    sounds = [soundfile.read(path, always_2d=True) for path in result.stdout.split()]
    assert [(x.shape, rate_hz) for x, rate_hz in sounds] == [((11025, 2), 22050)] * 2
    assert not np.array_equal(sounds[0][0], sounds[1][0])
    assert Image.open("cats/dog-a-cat-meowing.png").height > 3 * 384

    again = run(
        *("reproduce", "cats/dog-a-cat-meowing-1.flac", "--source", "dog.flac"),
        "--json",
    )
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["identical"] is True


def test_inversion_and_its_record(run):
    result = run(
        *("style-transfer", "dog.flac", "a cat", "--method", "inversion", "--strength", "0.5"),
        *("--json", "-o", "{name}-{seed}.wav", "--seed", "9"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["file"] == "dog-9.wav" and Path("dog-9.wav").exists()
    assert (told["task"], told["method"], told["strength"]) == ("style-transfer", "inversion", 0.5)


def test_a_series_is_told_line_by_line(run):
    series = ("--strengths", "0.5,1", "--seed", "1", "--json")
    result = run("style-transfer", "dog.flac", "a cat", *series)
    assert result.exit_code == 0, result.output
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["strength"] for each in told] == [0.5, 1]
    plan = run("style-transfer", "dog.flac", "a cat", *series, "--dry-run", "-o", "new/")
    assert len(json.loads(plan.stdout)["sounds"]) == 2 and plan.stdout.count("\n") == 1


def test_a_dry_run_writes_nothing(run, tmp_path):
    result = run("style-transfer", "dog.flac", "a cat", "--dry-run", "--strengths", "0.5,1")
    assert result.exit_code == 0, result.output
    assert "dog-a-cat-0.5.flac" in result.stdout and "duration  " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["dog.flac"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "the prompt is empty"),
        (("a cat", "--strength", "1.5"), "--strength 1.5"),
        (("a cat", "--strength", "0.1"), "less than one step"),
        (("a cat", "--strengths", "0.5,x"), "--strengths '0.5,x'"),
        (("a cat", "--strengths", "0.5,0.50"), "twice"),
        (("a cat", "--strengths", "0.5,1", "-o", "one.wav"), "a template with {strength}"),
        (("a cat", "--strengths", "0.5,1", "--strength", "1"), "not both"),
        (("a cat", "--method", "inversion", "--scheduler", "euler"), "--scheduler ddim"),
        (("a cat", "-o", "dog.flac"), "dog.flac exists"),
        (("a cat", "-o", "{colour}.wav"), "{colour}"),
    ],
)
def test_what_cannot_be_is_told(run, monkeypatch, arguments, words):
    def load_model(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", load_model)
    result = run("style-transfer", "dog.flac", *arguments)
    assert result.exit_code == 2 and words in result.stderr and result.stdout == ""
