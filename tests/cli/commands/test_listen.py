"""`listen` as a user runs it: a test is made, answered and collected."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.evaluation.listening import read_key
from auffusion_cli.parsing import plain
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.meters import loudness_lufs
from auffusion_cli.signal.sound_file import read_provenance
from listening_sets import SYSTEMS, answers_of, attentive, make_sounds, page_data

FOLDERS = [f"{name}={name}" for name in SYSTEMS]
RATINGS = {"ours": (70, 80), "tango": (50, 60), "real": (90, 95)}


@pytest.fixture
def listen(tmp_path, monkeypatch):
    """Run `auffusion listen ...` beside three systems."""
    monkeypatch.chdir(tmp_path)
    make_sounds(tmp_path)
    app = build_app()
    return lambda *arguments: CliRunner().invoke(app, ["listen", *map(str, arguments)])


def make(listen, *more):
    result = listen(*FOLDERS, "--prompts", "captions.csv", "-o", "test", *more)
    assert result.exit_code == 0, result.output
    return result


def answer(n_listeners=2):
    key = read_key(Path("test.key.json"))
    Path("answers").mkdir()
    for i in range(n_listeners):
        low = {name: (ovl - i, rel - i) for name, (ovl, rel) in RATINGS.items()}
        answers = answers_of(key, i, lambda trial, low=low: attentive(trial, low))
        Path(f"answers/{i}.json").write_text(json.dumps(plain(answers)))
    return key


def test_a_test_is_made_answered_and_collected(listen):
    result = make(listen)
    assert result.stdout == "test/index.html\n"
    assert "13 of 13 sounds for each listener" in result.stderr
    assert "test.key.json says whose sounds they are" in result.stderr
    answer()
    result = listen("--collect", "answers", "--key", "test.key.json", "--csv", "means.csv",
                    "-o", "result.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    table = [line.split() for line in result.stdout.splitlines()]
    assert table[0] == ["SYSTEM", "OVL", "95", "%", "REL", "95", "%", "RATINGS"]
    assert [row[:2] for row in table[1:4]] == [
        ["ours", "69.5"],
        ["tango", "49.5"],
        ["real", "89.5"],
    ]
    assert table[6][:5] == ["OVL", "ours", "-", "tango", "+20.0"]
    assert "3/0/0" in table[6] and "2 of 2 listeners, 3 clips" in result.stdout
    rows = list(csv.DictReader(Path("means.csv").read_text().splitlines()))
    assert {(row["question"], row["system"]): row["mean"] for row in rows}["REL", "real"] == "94.5"
    whole = json.loads(Path("result.json").read_text())
    assert whole["agreement"]["OVL"] > 0.9 and len(whole["preferences"]) == 6
    again = listen("--collect", "answers/0.json", "--key", "test.key.json", "--json")
    assert json.loads(again.stdout)["n_listeners"] == 1


def test_the_folder_says_nothing_of_the_systems(listen):
    make(listen, "--title", "A <i>test</i>")
    page = Path("test/index.html").read_text()
    for word in (*SYSTEMS[1:], "street", "<i>", "</script><b>"):
        assert word not in page
    sounds = sorted(Path("test/sounds").iterdir())
    key = read_key(Path("test.key.json"))
    assert {path.stem for path in sounds} == set(key.by_id)
    assert len({path.stat().st_mtime for path in sounds}) == 1
    for path in sounds:
        assert read_provenance(path) is None and soundfile.info(path).subtype == "PCM_16"
        assert loudness_lufs(*read_audio(path)) == pytest.approx(-23, abs=0.2)
    data = page_data(Path("test"))
    assert {trial["id"] for group in data["groups"] for trial in group} | {
        trial["id"] for trial in data["always"]
    } == set(key.by_id)
    for group in data["groups"]:  # a clip in all systems
        assert {key.by_id[trial["id"]].system for trial in group} == set(SYSTEMS)
        assert len({key.by_id[trial["id"]].clip for trial in group}) == 1


def test_sounds_keep_their_level_where_that_is_asked_for(listen):
    make(listen, "--no-match-loudness", "--clips-each", "2", "--catch", "0")
    key = read_key(Path("test.key.json"))
    assert key.n_given == 6 and len(key.trials) == 9
    trial = key.trials[0]
    copied, _ = read_audio(f"test/sounds/{trial.id}.flac")
    assert (copied == read_audio(f"{trial.system}/{trial.clip}.wav")[0]).all()


def test_a_plan_writes_nothing(listen):
    result = make(listen, "--dry-run", "--json")
    assert json.loads(result.stdout)["sounds_each"] == 13
    assert not Path("test").exists() and not Path("test.key.json").exists()


def test_clips_that_not_all_have_are_left_out_with_a_warning(listen):
    Path("real/street2.wav").unlink()
    result = make(listen)
    assert "1 clips, such as street2, are not in all systems: left out" in result.stderr
    assert len(read_key(Path("test.key.json")).clips) == 2


def test_a_test_is_replaced_only_if_that_is_asked_for_and_it_is_one(listen):
    make(listen)
    command = (*FOLDERS, "--prompts", "captions.csv", "-o", "test")
    first = Path("test.key.json").read_text()
    assert "test exists" in listen(*command).stderr
    make(listen, "--overwrite")
    assert Path("test.key.json").read_text() != first
    Path("test/thesis.txt").write_text("mine")
    assert "holds files of no listening test" in listen(*command, "--overwrite").stderr
    assert Path("test/thesis.txt").exists()


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["ours", "-o", "t"], "'ours' is not a name and a folder"),
        (["a=ours", "a=real", "-o", "t"], "two systems of this name"),
        (["a=ours"], "--output is missing"),
        (["answers.json"], "'answers.json' is not a name and a folder"),
        (["a=nowhere", "-o", "t"], "a=nowhere: no such folder"),
        (["a=ours", "b=real", "-o", "t"], "3 of 3 clips, such as 'street0', have no words"),
        (["a=ours", "-o", "t", "--key", "k.json"], "--key goes with --collect"),
        (["--collect", "a.json"], "--key is missing"),
        (["--collect", "a.json", "--key", "k", "--title", "x"], "no options of the page"),
        (["--collect", "a.json", "--key", "captions.csv"], "a.json: no such file"),
        (["--collect", "captions.csv", "--key", "captions.csv"], "is not JSON"),
        (["--collect", "ours", "--key", "captions.csv"], "ours: holds no .json"),
        (["--collect", "a.json", "--key", "k", "-o", "x.txt"], "has to end in .json"),
    ],
)
def test_faults_are_told_before_any_work(listen, arguments, problem):
    result = listen(*arguments)
    assert result.exit_code != 0 and problem in result.stderr
    assert not Path("t").exists()


def test_a_missing_package_is_told_before_the_answers_are_read(listen, monkeypatch):
    monkeypatch.setattr("auffusion_cli.evaluation.listening.find_spec", lambda name: None)
    result = listen("--collect", "nowhere.json", "--key", "k")
    assert result.exit_code == 2 and "auffusion[listen]" in result.stderr


def test_a_bad_file_of_answers_is_named_and_the_rest_counts(listen):
    make(listen)
    answer()
    Path("answers/bad.json").write_text('{"a": 1}')
    result = listen("--collect", "answers", "--key", "test.key.json")
    assert result.exit_code == 0
    assert "answers/bad.json does not count: holds no answers: a: unknown name" in result.stderr
    assert "2 of 3 listeners" in result.stdout
