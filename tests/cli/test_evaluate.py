"""`evaluate` as a user runs it, with spectra in place of what the network hears."""

import csv
import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from fake_networks import FakeClassifier

RATE_HZ = 16_000


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `auffusion evaluate ...` in a folder with 12 sounds in made/ and real/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("auffusion_cli.evaluation.bootstrap.MAX_RESAMPLES", 40)
    monkeypatch.setattr("auffusion_cli.evaluation.measure.MAX_RESAMPLES", 40)
    monkeypatch.setattr(
        "auffusion_cli.evaluation.weights.load_embedder", lambda *_, **__: FakeClassifier()
    )
    for seed, folder in enumerate(("made", "real")):
        (tmp_path / folder).mkdir()
        for n in range(12):
            samples = np.random.default_rng([seed, n]).normal(size=RATE_HZ + 160 * n) * 0.1
            soundfile.write(tmp_path / folder / f"{n:02d}.wav", samples, RATE_HZ)
    app = build_app()
    return lambda *arguments: CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def nothing_heard(monkeypatch):
    """Loading a network fails the test: what is wrong has to be told before."""

    def load(*args, **kwargs):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr("auffusion_cli.evaluation.weights.load_embedder", load)


def test_a_table_on_stdout_and_all_else_on_stderr(run):
    result = run("made", "--reference", "real")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["METRIC", "made", "95", "%", "CLIPS", "BETTER"]
    assert [line.split()[0] for line in lines[1:]] == [
        *("FD-tagger", "KL-tagger", "IS-tagger", "KAD-tagger"),
        "FD-inf-tagger",
    ]
    assert lines[1].split()[-1] == "lower" and " to " in lines[1]
    assert "listening with the embedded network" in result.stderr
    assert "warning: the protocol 'embedded' listens with a network of its own" in result.stderr
    assert "FD-tagger: 12 clips are few" in result.stderr


def test_the_result_the_table_of_clips_and_json_agree(run, tmp_path):
    (tmp_path / "prompts.csv").write_text("name,prompt\n00,rain and wind\n01,=1+1\n")
    result = run(
        *("made", "--reference", "real", "--prompts", "prompts.csv", "--json"),
        *("-o", "result.json", "--csv", "clips.csv"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "result.json").read_text())
    assert result.stdout.count("\n") == 1  # one result, one line
    with (tmp_path / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert (rows[0]["system"], rows[0]["prompt"], rows[0]["n_events"]) == (
        *("made", "rain and wind", "2"),
    )
    kl = told["systems"][0]["rows"][0]["scores"]["KL-tagger"]
    assert float(rows[0]["KL-tagger"]) == kl
    assert told["systems"][0]["name"] == "made"


def test_several_systems_are_columns(run):
    result = run(
        *("--system", "[bold]ours=made", "--system", "theirs=real", "--reference", "real"),
    )
    assert result.exit_code == 0, result.output
    header, first, *_ = result.stdout.splitlines()
    assert "[bold]ours" in header and "theirs" in header
    assert " 0 " in first  # theirs is the reference itself
    assert "theirs: 12 of 12 sounds are in the reference too" in result.stderr


def test_results_are_compared_only_on_the_same_sets(run, tmp_path):
    for name in ("a", "b"):
        assert run("made", "--reference", "real", "-o", f"{name}.json").exit_code == 0
    same = run("--compare", "a.json", "b.json")
    assert same.exit_code == 0, same.output
    assert "made → made" in same.stdout and "+0" in same.stdout
    told = json.loads(run("--compare", "a.json", "b.json", "--json").stdout)
    assert told["made → made"][0]["change"] == 0

    (tmp_path / "real/00.wav").unlink()
    assert run("made", "--reference", "real", "-o", "c.json").exit_code == 0
    other = run("--compare", "a.json", "c.json")
    assert other.exit_code == 1 and other.stdout == ""
    assert "cannot be compared: the references real (12 files" in other.stderr


def test_a_report_is_written_and_not_overwritten(run, tmp_path):
    assert run("made", "--reference", "real", "--report", "page.html").exit_code == 0
    assert "FD-tagger" in (tmp_path / "page.html").read_text()
    again = run("made", "--reference", "real", "--report", "page.html")
    assert again.exit_code == 2 and "page.html exists" in again.stderr


def test_a_dry_run_tells_what_would_be_done(run, nothing_heard):
    result = run("made", "--reference", "real", "--protocol", "tango", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["folders"]["made"] == {"folder": "made", "sound_files": 12}
    assert list(plan["networks"]) == ["cnn14", "vggish", "clap"]
    assert "12 sound files" in run("made", "--dry-run").stdout


def test_mistakes_are_told_before_anything_is_loaded(run, nothing_heard, tmp_path):
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for arguments, code, message in (
        ((), 2, "What is to be measured?"),
        (("nowhere",), 1, "nowhere: no such folder"),
        (("there.json",), 1, "there.json: is not a folder"),
        (("empty",), 1, "empty: holds no sound files"),
        (("made", "--reference", "nowhere"), 1, "nowhere: no such folder"),
        (("--system", "made"), 2, "--system 'made': not a name and a folder"),
        (("--system", "../a=made"), 2, "--system '../a=made': not a name"),
        (("made", "--model", "embedded"), 2, "--model goes with --attention"),
        (("made", "--attention", "maps", "--model", "no such"), 2, "--model 'no such'"),
        (("--system", "a=made", "--system", "a=real"), 2, "--system a: there are two"),
        (("made", "-o", "there.json"), 2, "there.json exists"),
        (("made", "-o", "result.txt"), 2, "--output result.txt: has to end in .json"),
        (("made", "--csv", "a.json"), 2, "--csv a.json: has to end in .csv"),
        (("made", "--report", "a.htm"), 2, "--report a.htm: has to end in .html"),
        (("made", "--backbone", "embedded", "--protocol", "tango"), 2, "contradict each other"),
        (("made", "--backbone", "published", "--protocol", "embedded"), 2, "contradict"),
        (("made", "--prompts", "none.csv"), 1, "none.csv: No such file"),
        (("made", "--compare", "a.json", "b.json"), 2, "--compare takes two results"),
        (("--compare", "a.json", "b.json"), 1, "a.json: cannot be read"),
        (("--compare", "there.json", "there.json"), 1, "there.json: not a result"),
    ):
        result = run(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert message in result.stderr and "Traceback" not in result.stderr
        assert result.stdout == ""


def test_a_report_that_is_stopped_leaves_no_folder(run, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("auffusion_cli.evaluation.report._prepare", stopped)
    before = {path.name for path in tmp_path.iterdir()} | {"cache"}
    result = run("made", "--reference", "real", "--report", "a/page.html")
    assert result.exit_code == 130
    assert {path.name for path in tmp_path.iterdir()} == before


def test_attention_is_measured_on_sounds_made_again(
    run, tiny_checkpoint, tiny_model, tmp_path, monkeypatch
):
    from auffusion_cli.request import GenerateRequest, GenerateSettings
    from auffusion_cli.tasks.generate import generate

    monkeypatch.setattr("auffusion_cli.checkpoints.load_model", lambda *_, **__: tiny_model)
    settings = GenerateSettings.from_defaults(tiny_model.defaults)
    requests = [GenerateRequest(prompt, 1, "") for prompt in ("a dog barks", "rain and wind")]
    (tmp_path / "own").mkdir()
    for sound, name in zip(generate(tiny_model, requests, settings), ("dog", "rain"), strict=True):
        sound.save(tmp_path / f"own/{name}.wav")
    (tmp_path / "own/other.wav").write_bytes((tmp_path / "made/00.wav").read_bytes())

    arguments = ("own", "--attention", "maps", "--model", tiny_checkpoint)
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    (system,) = json.loads(result.stdout)["systems"]
    scores = {row["name"]: row["scores"] for row in system["rows"]}
    assert set(scores["dog"]) == set(scores["rain"]) == {"attention-entropy", "attention-level"}
    assert 0 < scores["dog"]["attention-entropy"] <= 1
    assert 0 <= scores["dog"]["attention-level"] <= 1
    assert scores["other"] == {}
    (whole, *_) = [m for m in system["metrics"] if m["name"] == "attention-entropy"]
    assert whole["n"] == 2 and whole["ci_95"] is not None
    pictures = sorted(path.name for path in (tmp_path / "maps/own").iterdir())
    assert pictures == ["dog.png", "rain.png"]
    assert "own: 1 sounds were not watched: does not say how it was made" in result.stderr
    assert "come out otherwise" not in result.stderr

    assert "maps exists" in run(*arguments).stderr
    refused = run("own", "--attention", "other-maps")
    assert "2 sounds were not watched: was made by the model" in refused.stderr
