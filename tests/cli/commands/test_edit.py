"""`edit` and `attention` as a user runs them, on random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app

PROMPT = "dog barking in rain"


@pytest.fixture
def run(tiny_checkpoint, wordy_model, tmp_path, monkeypatch):
    """Run `auffusion COMMAND ...` in an empty folder; the model is loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: wordy_model)
    app = build_app()

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--model", str(tiny_checkpoint)])

    return run


@pytest.fixture
def no_model(monkeypatch):
    def load_model(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", load_model)


def samples(path):
    return soundfile.read(path, dtype="int16")[0]


def test_a_file_edited_described_and_made_again(run):
    assert run("generate", PROMPT, "--seed", "3", "-o", "dog.wav").exit_code == 0

    same = run("edit", "dog.wav", "-o", "same.wav")
    assert same.exit_code == 0, same.output
    assert same.stdout == "same.wav\n"
    np.testing.assert_array_equal(samples("same.wav"), samples("dog.wav"))
    assert "not the same" not in same.stderr

    edits = ("--swap", "dog=cat", "--refine", "loud …", "--reweight", "loud=2")
    result = run("edit", "dog.wav", *edits, "--json", "--spectrogram", "both.png")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["file"] == "dog-edited.wav" and told["edited_prompt"] == "loud cat barking in rain"
    assert (told["task"], told["prompt"], told["seed"]) == ("edit", PROMPT, 3)
    assert told["swaps"] == ["dog=cat"] and told["source"] == "dog.wav"
    assert not np.array_equal(samples("dog-edited.wav"), samples("dog.wav"))
    assert Image.open("both.png").height > 2 * 384

    again = run("reproduce", "dog-edited.wav", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["identical"] is True

    twice = run("edit", "dog-edited.wav", "--swap", "cat=cow")
    assert twice.exit_code == 2 and "made by `edit`" in twice.stderr
    contradiction = run("edit", "dog.wav", "--guidance", "4")
    assert (
        contradiction.exit_code == 2
        and "--guidance does not go with dog.wav" in contradiction.stderr
    )


def test_a_dry_run_from_words(run, no_model, tmp_path):
    arguments = ("--prompt", PROMPT, "--seed", "3", "--swap", "rain=snow", "--steps", "7")
    result = run("edit", *arguments, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["settings"]["edited_prompt"] == "dog barking in snow"
    assert told["settings"]["steps"] == 7
    assert told["sounds"][0]["file"] == "dog-barking-in-rain-edited.wav"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give a file made by generate, or --prompt"),
        (("--prompt", PROMPT, "--swap", "cow=cat"), "Its words: dog, barking, in, rain"),
        (("--prompt", PROMPT, "--cross-steps", "2"), "--cross-steps 2"),
        (("--prompt", PROMPT, "-o", "x.txt"), "ends in .txt"),
        (("noise.wav", "--swap", "a=b"), "carries no record of how it was made"),
        (("--prompt", "dog " * 80 + "cat", "--reweight", "cat=2", "--dry-run"), "does not read"),
        (("gone.wav", "--swap", "a=b"), "gone.wav"),
    ],
)
def test_edits_that_cannot_be_are_told(run, no_model, arguments, words):
    soundfile.write("noise.wav", np.zeros(1600), 16000)
    result = run("edit", *arguments)
    assert result.exit_code in (1, 2) and words in result.stderr and result.stdout == ""


def test_attention_drawn_with_numbers_and_sound(run, tmp_path):
    result = run(
        *("attention", PROMPT, "--seed", "3", "-o", "a.png", "--data", "a.npz"),
        *("--audio", "a.wav", "--words", "dog,rain", "--json"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["file"] == "a.png"
    assert [row["word"] for row in told["sounds"][0]["shares"]] == PROMPT.split()
    two_words = Image.open("a.png").height
    with np.load("a.npz", allow_pickle=False) as data:
        assert data["maps"].shape[:2] == (4, 256)

    # Of the file just written, for two models, all words.
    result = run("attention", "a.wav", "-o", "b.png", "--model", "other")
    assert result.exit_code != 0 and "other" in result.stderr
    [checkpoint] = {s["model"] for s in told["sounds"]}
    result = run("attention", "a.wav", "-o", "b.png", "--model", checkpoint)
    assert result.exit_code == 0, result.output
    side_by_side = Image.open("b.png")
    assert side_by_side.height > two_words
    assert side_by_side.width > 1.8 * Image.open("a.png").width


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("!?",), "no word"),
        ((PROMPT, "--words", "snow"), "Its words: dog"),
        ((PROMPT, "--phase", "0.5-0.2"), "--phase"),
        ((PROMPT, "--heads", "x"), "--heads 'x'"),
        ((PROMPT, "-o", "a.jpg"), "ends in .jpg"),
        ((PROMPT, "--duration", "3"), "1.28 s"),
        ((PROMPT, "--layers", "nosuch", "--dry-run"), "--layers 'nosuch'"),
        ((PROMPT, "--layers", "up,nosuch"), "Valid: down, mid, up, or the beginning of one of"),
        ((PROMPT, "--heads", "99", "--dry-run"), "--heads 99"),
        ((PROMPT, "--phase", "0.5-0.51", "--dry-run"), "none of the 2 steps"),
        ((PROMPT, "--vocoder", "hifigan", "--model", "embedded", "--dry-run"), "has no vocoder"),
        ((PROMPT, "--data", "a.npz", "--model", "embedded"), "{model}"),
        (("gone.wav",), "gone.wav"),
        (("../notes.txt",), "is a file, but not a sound"),
    ],
)
def test_attention_that_cannot_be_is_told(run, no_model, arguments, words):
    Path("../notes.txt").write_text("dog")
    result = run("attention", *arguments)
    assert result.exit_code in (1, 2) and words in result.stderr and result.stdout == ""
    assert list(Path().iterdir()) == []


def test_many_words_are_fewer_in_the_picture(run):
    result = run("attention", "a b c d e f g h i j k l m n", "-o", "a.png", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "14 words: the 12 with most attention" in result.stderr
