"""The lists and the Makefile of a game, with the commands that it runs."""

import re
import shlex
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.signal.sound_file import read_record

GAME = Path(__file__).parents[2] / "examples" / "game"


@pytest.fixture
def commands(tmp_path, tiny_model, monkeypatch):
    """Run the Makefile's commands on the first line of each list."""
    for name in ("one-shots.csv", "loops.csv"):
        lines = (GAME / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join(lines[:2]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    variables = dict(re.findall(r"^(\w+) = (.*)$", (GAME / "Makefile").read_text(), re.MULTILINE))
    recipe = re.findall(r"^\t(.*)$", (GAME / "Makefile").read_text(), re.MULTILINE)
    for name, value in variables.items():
        recipe = [line.replace(f"$({name})", value) for line in recipe]
    return [shlex.split(line) for line in recipe]


def test_one_shots_and_loops_come_as_engines_import_them(commands, tiny_checkpoint):
    for program, *arguments in commands:
        assert program == "auffusion"
        options = ["--model", str(tiny_checkpoint), "--device", "cpu"]
        made = CliRunner().invoke(build_app(), [*arguments, *options])
        assert made.exit_code == 0, made.output
    one_shot, loop = Path("sounds/one-shots/sword.wav"), Path("sounds/loops/rain_loop.wav")
    assert {soundfile.info(path).samplerate for path in (one_shot, loop)} == {48000}
    assert b"smpl" in loop.read_bytes() and b"smpl" not in one_shot.read_bytes()
    assert read_record(loop).request.loop


def test_its_lists_are_read_whole():
    for name in ("one-shots.csv", "loops.csv"):
        plan = CliRunner().invoke(
            build_app(), ["generate", "--prompts", str(GAME / name), "--seed", "1", "--dry-run"]
        )
        assert plan.exit_code == 0 and "unknown" not in plan.output, plan.output
