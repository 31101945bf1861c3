"""`watch` as a user runs it, on a tiny checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.cli.commands import watch as command
from auffusion_cli.signal.sound_file import read_record


@pytest.fixture
def watch(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion watch LIST -o assets/ ...`; the tiny model is loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    app = build_app()

    def watch(*arguments, once=True):
        command = ["watch", "sounds.csv", "-o", "assets/", "--no-guards", "--json"]
        command += ["--device", "cpu", "--model", str(tiny_checkpoint)]
        result = CliRunner().invoke(app, [*command, *(["--once"] * once), *arguments])
        told = [json.loads(line) for line in result.stdout.splitlines()]
        return result, {Path(each["file"]).name: each["status"] for each in told if "file" in each}

    return watch


def write(*rows):
    Path("sounds.csv").write_text("name,prompt\n" + "".join(f"{row}\n" for row in rows))


def test_new_and_changed_lines_are_made_and_the_rest_is_left(watch):
    write("door,a door slams", "cat,a cat meows", "rain,rain")
    result, states = watch()
    assert result.exit_code == 0, result.output
    assert states == {"door.wav": "made", "cat.wav": "made", "rain.wav": "made"}
    seeds = {name: read_record(f"assets/{name}").request.seed for name in states}
    assert len(set(seeds.values())) == 3
    before = Path("assets/cat.wav").read_bytes()
    # A line before the others, one that is changed, and one that is gone.
    write("wind,wind", "door,an iron door slams", "cat,a cat meows")
    result, states = watch()
    assert result.exit_code == 0, result.output
    assert states == {
        "cat.wav": "skipped",
        "wind.wav": "made",
        "door.wav": "made",
        "rain.wav": "orphan",
    }
    assert Path("assets/cat.wav").read_bytes() == before
    door = read_record("assets/door.wav").request
    assert door.prompt == "an iron door slams" and door.seed == seeds["door.wav"]
    assert Path("assets/rain.wav").exists()


def test_what_was_changed_by_hand_or_made_elsewhere_stays(watch):
    write("door,a door slams", "cat,a cat meows", "rain,rain")
    assert watch()[0].exit_code == 0
    samples, rate_hz = soundfile.read("assets/door.wav", dtype="int16")
    soundfile.write("assets/cat.wav", np.zeros(100), 16_000)
    content = bytearray(Path("assets/door.wav").read_bytes())
    content[200:400] = bytes(200)  # its record is still there
    Path("assets/door.wav").write_bytes(content)
    write("door,a wooden door", "cat,a big cat", "rain,heavy rain")
    result, states = watch()
    assert result.exit_code == 1 and states == {"rain.wav": "made"}
    assert "door.wav was changed by hand" in result.stderr
    assert Path("assets/door.wav").read_bytes() == bytes(content)
    result, states = watch("--overwrite")
    assert result.exit_code == 0 and states["door.wav"] == states["cat.wav"] == "made"
    assert len(soundfile.read("assets/door.wav")[0]) == len(samples) and rate_hz == 16_000


def test_a_dry_run_says_what_would_be_done(watch, tmp_path):
    write("door,a door slams")
    watch()
    write("cat,a cat meows", "bad,")
    result, states = watch("--dry-run")
    assert states == {"cat.wav": "make", "door.wav": "orphan"}
    assert result.exit_code == 1 and "line 3" in result.stderr
    assert sorted(path.name for path in Path("assets").iterdir()) == ["door.wav"]


@pytest.mark.parametrize("once", [True, False])
def test_a_list_that_is_not_there_is_told_at_once(watch, monkeypatch, once):
    monkeypatch.setattr(command.time, "sleep", lambda duration_s: pytest.fail("watched"))
    result, _ = watch(once=once)
    assert result.exit_code == 2 and "LIST sounds.csv: No such file" in result.stderr


def test_the_list_is_looked_at_again_also_after_a_mistake(watch, monkeypatch):
    write("door,a door slams")
    edits = [
        lambda: Path("sounds.csv").write_text("nothing\n"),
        lambda: write("door,a door slams", "cat,a cat meows"),
        lambda: Path("sounds.csv").unlink(),
    ]

    def sleep(duration_s):
        if not edits:
            raise KeyboardInterrupt
        edits.pop(0)()

    monkeypatch.setattr(command.time, "sleep", sleep)
    result, states = watch(once=False)
    assert result.exit_code == 130 and not edits
    assert states == {"door.wav": "skipped", "cat.wav": "made"}
    assert "sounds.csv" in result.stderr and "Traceback" not in result.stderr
