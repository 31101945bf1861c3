"""`generate --best-of` and the guards, as a user meets them, on a tiny checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.requests.seeds import line_seed
from auffusion_cli.signal.sound_file import read_record


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion COMMAND ...` in an empty folder; the tiny model is loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    app = build_app()

    def run(name, *arguments):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)]
        return CliRunner().invoke(app, [name, *arguments, *options])

    return run


def test_the_best_is_kept_and_the_others_with_their_ranks(run):
    arguments = ("a dog barking", "--seed", "5", "--best-of", "3", "--keep-all", "-o", "dog.wav")
    made = run("generate", *arguments, "--json")
    assert made.exit_code == 0, made.output
    (told,) = map(json.loads, made.stdout.splitlines())
    selection = told["selection"]
    assert (selection["first_seed"], selection["best_of"]) == (5, 3)
    assert selection["judge"] == "kinds" and selection["score"] < 0
    names = ["dog.wav", "dog-rank2.wav", "dog-rank3.wav"]
    assert sorted(path.name for path in Path().iterdir()) == sorted(names)
    records = [read_record(name) for name in names]
    assert {record.request.seed for record in records} == {5, 6, 7}
    scores = [record.selection.score for record in records]
    assert scores == sorted(scores, reverse=True)
    again = run("reproduce", "dog-rank2.wav")
    assert again.exit_code == 0 and again.stdout.startswith("identical"), again.output
    taken_up = run("generate", *arguments)
    assert taken_up.exit_code == 0 and "already there" in taken_up.stderr
    contents = {name: Path(name).read_bytes() for name in names}
    for lost in (["dog.wav"], ["dog-rank2.wav"], ["dog.wav", "dog-rank3.wav"]):
        for name in lost:
            Path(name).unlink()
        remade = run("generate", *arguments)
        assert remade.exit_code == 0 and remade.stdout == "dog.wav\n", remade.output
        assert {name: Path(name).read_bytes() for name in names} == contents
    swapped = contents["dog-rank2.wav"]
    Path("dog-rank3.wav").write_bytes(swapped)
    foreign = run("generate", *arguments)
    assert foreign.exit_code == 2 and "dog-rank3.wav exists" in foreign.stderr
    Path("dog-rank3.wav").unlink()
    Path("dog-rank2.wav").rename("dog.wav")  # it is not the best one of its request
    other = run("generate", *arguments[:5], "-o", "dog.wav")
    assert other.exit_code == 2 and "not from the same request" in other.stderr


def test_variations_do_not_share_candidates(run):
    made = run("generate", "a theremin", "--seed", "1", "-n", "2", "--best-of", "2", "-o", "o/")
    assert made.exit_code == 0, made.output
    assert "the judge knows none of the words" in made.stderr
    seeds = [read_record(path).selection.first_seed for path in sorted(Path("o").iterdir())]
    assert seeds == [1, 3]


def test_a_fault_is_made_again_told_counted_and_recorded(run, monkeypatch):
    faults = ["silent", "a plain tone", None]
    monkeypatch.setattr("auffusion_cli.signal.guards._fault_of", lambda waveform: faults.pop(0))
    made = run("generate", "a dog", "--seed", "1", "-o", "dog.wav", "--json")
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert told["selection"] == {
        "first_seed": 1,
        "rejected": [
            {"seed": 1, "fault": "silent"},
            {"seed": line_seed(1, 1), "fault": "a plain tone"},
        ],
    }
    assert told["seed"] == line_seed(1, 2)
    assert "made again with another seed: 1 silent, 1 a plain tone" in made.stderr
    again = run("reproduce", "dog.wav")
    assert again.exit_code == 0 and again.stdout.startswith("identical"), again.output
    skipped = run("generate", "a dog", "--seed", "1", "-o", "dog.wav")
    assert skipped.exit_code == 0 and "already there" in skipped.stderr


def test_without_guards_it_is_kept(run, monkeypatch):
    monkeypatch.setattr("auffusion_cli.signal.guards._fault_of", lambda waveform: "silent")
    made = run("generate", "a dog", "--seed", "1", "--no-guards", "-o", "dog.wav", "--json")
    assert json.loads(made.stdout)["seed"] == 1 and "selection" not in json.loads(made.stdout)
    kept = run("generate", "a dog", "--seed", "1", "-o", "cat.wav", "--json")
    assert kept.exit_code == 0 and "may be silent" in kept.stderr
    assert json.loads(kept.stdout)["selection"]["fault"] == "silent"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--best-of", "0"), "--best-of 0"),
        (("--best-of", "1000"), "--best-of 1000"),
        (("--keep-all",), "--keep-all goes with --best-of"),
    ],
)
def test_what_cannot_be_done_is_told_before(run, arguments, words):
    result = run("generate", "a dog", *arguments)
    assert result.exit_code == 2 and words in result.stderr, result.output


def test_a_loop_is_exactly_as_long_has_points_and_no_fades(run):
    made = run("generate", "a river", "--loop", "--duration", "0.8", "--seed", "1", "-o", "a.wav")
    assert made.exit_code == 0, made.output
    info = soundfile.info("a.wav")
    assert info.frames == 12_800 and b"smpl" in Path("a.wav").read_bytes()
    assert read_record("a.wav").request.loop
    samples, _ = soundfile.read("a.wav")
    assert abs(samples[0] - samples[-1]) <= 2 * np.abs(np.diff(samples)).max()
    again = run("reproduce", "a.wav")
    assert again.exit_code == 0 and again.stdout.startswith("identical"), again.output
    longer = run("generate", "a river", "--loop", "--duration", "3", "--seed", "1", "-o", "b.wav")
    assert longer.exit_code == 0 and soundfile.info("b.wav").frames == 48_000
    for arguments in (("--fade-in", "1s"), ("--timeline", "0-1s rain")):
        refused = run("generate", "a river", "--loop", *arguments)
        assert refused.exit_code == 2 and "--loop" in refused.stderr, refused.output
    edited = run("edit", "a.wav", "--swap", "river=stream")
    assert edited.exit_code == 2 and "is a loop" in edited.stderr
