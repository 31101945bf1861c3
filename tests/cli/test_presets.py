"""Presets and `auffusion config`: the program's own and the user's."""

import json

import pytest
from typer.testing import CliRunner

from auffusion_cli.cli import presets
from auffusion_cli.cli.app import build_app


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The user's configuration, which is not there yet."""
    path = tmp_path / "auffusion" / "config.toml"
    monkeypatch.setattr(presets, "config_path", lambda: path)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def run(config, tiny_checkpoint):
    app = build_app()

    def run(*arguments):
        options = []
        if arguments[0] == "generate":
            options = ["--dry-run", "--json", "--device", "cpu", "--model", str(tiny_checkpoint)]
        return CliRunner().invoke(app, [*arguments, *options])

    return run


def resolved(result):
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    return told["settings"] | {"file": told["sounds"][0]["file"]}


def test_a_preset_gives_options_and_the_command_line_comes_first(run):
    settings = resolved(run("generate", "a coin", "--preset", "game-oneshot"))
    assert settings["duration_s"] == 2.0 and settings["one_shot"] is True
    own = {"fade_out_s": 0.02, "low_cut_hz": 40.0, "peak_db": -1.0, "rate_hz": 48000}
    assert settings["finish"] == own
    settings = resolved(
        run("generate", "a coin", "--duration", "1s", "--preset", "game-oneshot", "--peak", "-3")
    )
    assert settings["duration_s"] == 1.0 and settings["finish"]["peak_db"] == -3.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "loop", "--fade-in", "1s"), "--preset loop makes a loop"),
        (("--preset", "bed", "--loop"), "as --preset bed does"),
        (("--loop", "--fade-in", "1s"), "--loop has no ends that could be faded"),
    ],
)
def test_what_contradicts_is_named_as_it_was_given(run, arguments, words):
    result = run("generate", "rain", *arguments)
    assert result.exit_code == 2 and words in result.stderr, result.output


@pytest.mark.parametrize("name", presets.BUILT_IN)
def test_every_preset_of_the_program_is_one_that_generate_takes(run, name):
    resolved(run("generate", "rain", "--preset", name))


def test_the_users_presets(run, config):
    assert "not there yet" in run("config").stdout
    assert run("config", "--init").exit_code == 0
    settings = resolved(run("generate", "a door", "--preset", "door", "--seed", "1"))
    assert settings["duration_s"] == 1.5 and settings["finish"]["channels"] == 2
    assert settings["best_of"] == 4
    config.write_text('[presets.loop]\nformat = "flac"\ntrim = false\nsteps = 7\n')
    settings = resolved(run("generate", "a door", "--preset", "loop"))
    assert settings["file"].endswith(".flac") and settings["steps"] == 7
    told = json.loads(run("config", "--json").stdout)
    assert told["presets"]["loop"] == {"format": "flac", "trim": False, "steps": 7}
    assert told["presets"]["bed"] == presets.BUILT_IN["bed"] and told["file"] == str(config)
    table = run("config").stdout
    assert "--format flac --no-trim --steps 7" in table and "yours" in table
    again = run("config", "--init")
    assert again.exit_code == 2 and "exists" in again.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("presets = 3", "presets"),
        ("[presets.door\n", "is not TOML"),
        ("[other]\n", "'other' is not known"),
        ("[presets.door]\nloudnes = 3\n", "--loudnes is not an option"),
        ("[presets.door]\nprompts = 'x'\n", "--prompts is not an option"),
        ("[presets.door]\nsteps = [1]\n", "door.steps"),
        ("[presets.door]\nsteps = 'many'\n", "many"),
        ("[presets.door]\nloudness = 'loud'\n", "--loudness 'loud'"),
        ("[presets.window]\n", "--preset 'door' is not known"),
        ("x = " + "[" * 100_000, "config.toml"),
    ],
)
def test_mistakes_in_the_configuration_are_named(run, config, content, words):
    config.parent.mkdir()
    config.write_text(content)
    result = run("generate", "a door", "--preset", "door")
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.output


def test_without_a_preset_a_damaged_configuration_does_not_matter(run, config):
    config.parent.mkdir()
    config.write_text("[")
    resolved(run("generate", "a door"))
