import json

import numpy as np
import pytest
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.signal.audio import read_audio, write_audio


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).random((2, 30_000)) - 0.5
    write_audio(tmp_path / "in.wav", noise, 22_050)
    options = ["--model", str(tiny_checkpoint), "--device", "cpu"]

    def run(*arguments):
        return CliRunner().invoke(build_app(), ["codec", *arguments, *options])

    return run


@pytest.mark.parametrize("through", ["mel", "latent"])
def test_writes_the_sound_and_tells_the_error(run, through):
    result = run("in.wav", "-o", "out.flac", "--through", through, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["through"], told["vocoder"]) == (through, "hifigan")
    assert told["error_db"] > 0
    waveform, rate_hz = read_audio("out.flac")
    assert rate_hz == 16_000
    assert waveform.shape == (1, round(told["duration_s"] * 16_000)) == (1, 21_769)
    assert "2 channels" in result.stderr and "22,050 Hz" in result.stderr


def test_griffin_lim_and_a_line_for_people(run):
    result = run("in.wav", "-o", "out.wav", "--through", "mel", "--vocoder", "griffin-lim")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("out.wav  ") and result.stdout.endswith(" dB\n")


def test_silence_is_told(run):
    write_audio("silent.wav", np.zeros(16_000), 16_000)
    result = run("silent.wav", "-o", "out.wav")
    assert result.exit_code == 0, result.output
    assert "silent.wav is silent" in result.stderr


def test_nothing_is_overwritten_unasked(run, tmp_path):
    before = (tmp_path / "in.wav").read_bytes()
    result = run("in.wav", "-o", "in.wav")
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert (tmp_path / "in.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.wav", "-o", "out.wav"], "missing.wav"),
        (["in.wav", "-o", "out.txt"], ".flac"),
        (["in.wav", "-o", "."], "folder"),
        (["in.wav", "-o", "out.wav", "--through", "image"], "latent"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(run, monkeypatch, arguments, told):
    def load_codec(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_codec", load_codec)
    result = run(*arguments)
    assert result.exit_code != 0 and told in result.stderr
