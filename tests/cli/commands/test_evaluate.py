"""`evaluate` as a user runs it, with spectra in place of what the network hears."""

import csv
import errno
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.evaluation import weights, yamnet
from auffusion_cli.evaluation.result import Evaluation
from fake_networks import FakeClassifier

RATE_HZ = 16_000
LOAD_EMBEDDER = weights.load_embedder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `auffusion evaluate ...` in a folder with 12 sounds in made/ and real/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("auffusion_cli.evaluation.bootstrap.MAX_RESAMPLES", 40)
    monkeypatch.setattr("auffusion_cli.evaluation.measure.MAX_RESAMPLES", 40)
    monkeypatch.setattr(
        "auffusion_cli.evaluation.weights.load_embedder", lambda *_, **__: (FakeClassifier(), None)
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
    assert "measuring with the embedded network" in result.stderr
    assert "warning: the protocol 'embedded' has a network of its own" in result.stderr
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


def test_files_that_are_left_out_have_a_line_too(run, tmp_path):
    (tmp_path / "made/bad.wav").write_bytes(b"")
    (tmp_path / "made/00.flac").write_bytes(b"")
    soundfile.write(tmp_path / "made/00.flac", np.zeros(RATE_HZ), RATE_HZ)
    for n in range(2, 6):
        (tmp_path / f"made/{n:02d}.wav").unlink()
    result = run("made", "--reference", "real", "--csv", "clips.csv")
    assert result.exit_code == 0, result.output
    with (tmp_path / "clips.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    told = [(line["system"], line["name"], line["path"], line["flags"]) for line in lines[-2:]]
    assert sorted(told) == [
        ("made", "00", "00.wav", "same-name"),
        ("made", "bad", "bad.wav", "unreadable"),
    ]
    assert len(lines) == 8 + 2 and lines[-1]["KL-tagger"] == lines[-1]["sha256"] == ""
    assert "made: 1 of 10 sounds cannot be read and is left out: bad.wav" in result.stderr
    assert (
        "made: 4 reference sounds have no partner in it: 02.wav, 03.wav, 04.wav and 1 more"
        in result.stderr
    )


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


def test_a_comparison_tells_what_to_mind_about_each_result(run):
    assert run("made", "--reference", "real", "-o", "a.json").exit_code == 0
    assert run("real", "--reference", "real", "-o", "b.json").exit_code == 0
    result = run("--compare", "a.json", "b.json")
    assert "warning: first and second: the protocol 'embedded' has a network" in result.stderr
    assert "warning: second: real: 12 of 12 sounds are in the reference too" in result.stderr
    notes = json.loads(run("--compare", "a.json", "b.json", "--json").stdout)["notes"]
    assert len(notes["first"]) == 1 and len(notes["second"]) == 2


def test_a_report_is_written_and_not_overwritten(run, tmp_path):
    assert run("made", "--reference", "real", "--report", "page.html").exit_code == 0
    assert "FD-tagger" in (tmp_path / "page.html").read_text()
    again = run("made", "--reference", "real", "--report", "page.html")
    assert again.exit_code == 2 and "page.html exists" in again.stderr


def test_a_name_that_is_not_utf_8_keeps_its_place_in_every_result(run, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for i, name in enumerate((b"a.wav", b"b\xff.wav")):
        shutil.copy(tmp_path / "made" / f"{i:02d}.wav", os.fsencode(folder) + b"/" + name)
    files = ("-o", "r.json", "--csv", "r.csv", "--report", "r.html")
    result = run("odd", "--reference", "real", *files, "--json")
    assert result.exit_code == 0, result.output
    loaded = Evaluation.load(Path("r.json"))
    assert [row.path for row in loaded.systems[0].rows] == ["a.wav", "b\udcff.wav"]
    assert Evaluation.from_json(result.stdout, "stdout").systems == loaded.systems
    assert "b\\udcff.wav" in Path("r.csv").read_text()
    assert "sounds are missing" not in result.stderr
    assert "odd: 2 of 2 sounds have no partner" in result.stderr


def test_an_independent_judge_names_the_classes_of_every_clip(run, tmp_path, monkeypatch):
    def network(window):
        rng = np.random.default_rng(int(1e6 * np.abs(window).sum()) % 2**32)
        probabilities = 0.1 * rng.random(yamnet.N_CLASSES)
        probabilities[yamnet.class_names().index("Dog")] = 0.9
        return rng.random(yamnet.EMBEDDING_DIM).astype(np.float32), probabilities

    monkeypatch.setattr(weights, "load_embedder", LOAD_EMBEDDER)
    monkeypatch.setattr(yamnet, "load_yamnet", lambda path: network)
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought/yamnet.tflite").write_bytes(b"another version")
    judge = ("--backbone", "yamnet", "--weights", "brought")
    files = ("-o", "r.json", "--csv", "r.csv", "--report", "r.html")
    result = run("made", "--reference", "real", *judge, *files)
    assert result.exit_code == 0, result.output
    assert "yamnet's weights are not the published file" in result.stderr
    (system,) = Evaluation.load(Path("r.json")).systems
    metrics = {metric.name for metric in system.metrics}
    assert metrics >= {"FD-yamnet", "KL-yamnet", "KL-sigmoid-yamnet", "KAD-yamnet", "IS-yamnet"}
    assert all(row.classes[0].name == "Dog" and len(row.classes) == 5 for row in system.rows)
    assert system.rows[0].classes[0].probability == pytest.approx(0.9)
    with open("r.csv") as file:
        assert all(line["classes"].startswith("Dog 0.9; ") for line in csv.DictReader(file))
    assert "the most probable classes" in Path("r.html").read_text()


def test_yamnet_is_brought_by_hand(run, monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "load_embedder", LOAD_EMBEDDER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    result = run("made", "--backbone", "yamnet")
    assert result.exit_code == 1
    assert "error: yamnet: its file is not downloaded, but brought by hand" in result.stderr
    assert "SHA-256 687f226c" in result.stderr and "yamnet.tflite" in result.stderr
    contradiction = run("made", "--backbone", "yamnet", "--protocol", "tango")
    assert contradiction.exit_code == 2 and "contradict each other" in contradiction.stderr


def test_what_a_killed_evaluation_left_goes(run):
    left = Path("out/.0123456789abcdef.part")
    left.parent.mkdir()
    left.write_text("half a result")
    assert run("made", "-o", "out/r.json").exit_code == 0
    assert [path.name for path in Path("out").iterdir()] == ["r.json"]


def test_a_dry_run_tells_what_would_be_done(run, nothing_heard):
    result = run("made", "--reference", "real", "--protocol", "tango", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["folders"]["made"] == {"folder": "made", "sound_files": 12}
    assert list(plan["networks"]) == ["cnn14", "vggish", "clap"]
    assert "12 sound files" in run("made", "--dry-run").stdout


def test_a_system_may_be_called_reference(run, nothing_heard, tmp_path):
    (tmp_path / "reference").mkdir()
    shutil.copy("made/00.wav", "reference/other.wav")
    (tmp_path / "prompts.csv").write_text("name,prompt\nother,rain\n")
    asked = ("reference", "--reference", "real", "--prompts", "prompts.csv", "--dry-run", "--json")
    plan = json.loads(run(*asked).stdout)
    assert plan["folders"] == {"reference": {"folder": "reference", "sound_files": 1}}
    assert plan["reference"] == {"folder": "real", "sound_files": 12}


def test_mistakes_are_told_before_anything_is_loaded(run, nothing_heard, tmp_path):
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("name,prompt\nx,rain\n")
    for arguments, code, message in (
        ((), 2, "Nothing to measure"),
        (("nowhere",), 2, "GENERATED nowhere: no such folder"),
        (("there.json",), 2, "GENERATED there.json: is not a folder"),
        (("empty",), 2, "GENERATED empty: holds no sound files"),
        (("made", "--reference", "nowhere"), 2, "--reference nowhere: no such folder"),
        (("--system", "a=nowhere"), 2, "--system a=nowhere: no such folder"),
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
        (("made", "--weights", "nosuch"), 2, "--weights nosuch: no such folder"),
        (("made", "--weights", "empty"), 2, "--weights empty: has none of the networks"),
        (("made", "--prompts", "none.csv"), 2, "--prompts none.csv: No such file"),
        (("made", "--prompts", "x.csv", "--dry-run"), 2, "names none of the 12 sounds in made"),
        (("made", "--compare", "a.json", "b.json"), 2, "--compare takes two results"),
        (("--compare", "a.json", "b.json", "--model", "x"), 2, "--compare takes two results"),
        (("--compare", "a.json", "b.json", "--weights", "x"), 2, "--compare takes two results"),
        (("--compare", "a.json", "b.json"), 2, "--compare a.json: No such file"),
        (("--compare", "there.json", "there.json"), 2, "--compare there.json: not a result"),
    ):
        result = run(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert message in result.stderr and "Traceback" not in result.stderr
        assert result.stdout == ""


def test_networks_that_are_missing_are_told_together_before_one_is_loaded(
    run, nothing_heard, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    from auffusion_cli.errors import DownloadError

    def refused(name, *_, **__):
        raise DownloadError(f"{name}: cannot be fetched")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("auffusion_cli.checkpoints.download.download_url", refused)
    (tmp_path / "w").mkdir()
    (tmp_path / "w/Cnn14_16k_mAP=0.438.pth").touch()
    options = ("made", "--backbone", "published", "--weights", "w")
    result = run(*options, "--reference", "real")
    assert result.exit_code == 1
    assert "error: vggish: cannot be fetched; missing too: clap" in result.stderr
    assert "vggish-10086976.pth" in result.stderr and "in FOLDER/clap" in result.stderr
    assert "zenodo" not in result.stderr


def test_weights_that_may_be_others_are_told_in_the_result_and_on_the_page(
    run, tmp_path, monkeypatch
):
    from auffusion_cli.evaluation.published import Unverified

    note = "tagger's weights come from the folder w/tagger and were not verified"
    found = Unverified("w/tagger, not verified", note)
    monkeypatch.setattr(
        "auffusion_cli.evaluation.weights.load_embedder", lambda *_, **__: (FakeClassifier(), found)
    )
    result = run("made", "--reference", "real", "--json", "--report", "page.html")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert note in told["notes"]
    assert told["backbones"]["tagger"]["weights"] == "w/tagger, not verified"
    page = (tmp_path / "page.html").read_text()
    assert "come from the folder w/tagger" in page and "w/tagger, not verified" in page


def test_a_report_that_is_stopped_leaves_no_folder(run, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("auffusion_cli.evaluation.report._prepare", stopped)
    before = {path.name for path in tmp_path.iterdir()} | {"cache"}
    result = run("made", "--reference", "real", "--report", "a/page.html")
    assert result.exit_code == 130
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("option", "name"), [("-o", "a.json"), ("--csv", "a.csv"), ("--report", "a.html")]
)
def test_a_full_disk_does_not_take_the_numbers_with_it(run, tmp_path, monkeypatch, option, name):
    write_text = Path.write_text

    def full(path, *args, **kwargs):
        if tmp_path / "out" in path.absolute().parents:
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it: no name
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    result = run("made", "--reference", "real", option, f"out/{name}")
    assert result.exit_code == 1
    assert f"error: no space left on the disk: out/{name}" in result.stderr
    assert "FD-tagger" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.fixture
def own(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Two sounds that the tiny model made and one of another origin, in own/: how to watch them."""
    from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
    from auffusion_cli.tasks.generate import generate

    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    settings = GenerateSettings.from_defaults(tiny_model.defaults)
    requests = [GenerateRequest(prompt, 1, "") for prompt in ("a dog barks", "rain and wind")]
    (tmp_path / "own").mkdir()
    for sound, name in zip(generate(tiny_model, requests, settings), ("dog", "rain"), strict=True):
        sound.save(tmp_path / f"own/{name}.wav")
    soundfile.write(
        tmp_path / "own/other.wav", np.random.default_rng(0).normal(size=16_000), 16_000
    )
    return "own", "--attention", "maps", "--model", tiny_checkpoint


@pytest.fixture
def watched(monkeypatch):
    """The prompts of the sounds that are made again."""
    from auffusion_cli.tasks import evaluate_attention as task

    prompts, make = [], task.generate_with_attention

    def counted(model, request, settings):
        prompts.append(request.prompt)
        return make(model, request, settings)

    monkeypatch.setattr(task, "generate_with_attention", counted)
    return prompts


def test_attention_is_measured_on_sounds_made_again(run, own, tmp_path):
    result = run(*own, "--json", "--csv", "clips.csv")
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
    assert (
        "own: 1 sound was left out of the attention: carries no record of how it was made: "
        "other.wav" in result.stderr
    )
    assert "out differently" not in result.stderr

    dog = system["rows"][0]["words"]
    assert [(word["word"], word["counted"]) for word in dog] == [
        *(("a", False), ("dog", True), ("barks", True)),
    ]
    for number in ("entropy", "level"):
        mean = (dog[1][number] + dog[2][number]) / 2
        assert scores["dog"][f"attention-{number}"] == pytest.approx(mean)
    with (tmp_path / "clips.csv").open(newline="") as file:
        told = {row["name"]: row["attention-words"] for row in csv.DictReader(file)}
    assert told["dog"].startswith(f"a {dog[0]['entropy']} {dog[0]['level']}; dog ")
    assert told["other"] == ""

    refused = run("own", "--attention", "other-maps")
    assert "2 sounds were left out of the attention: was made by the model" in refused.stderr
    assert ": dog.wav, rain.wav" in refused.stderr


def test_attention_goes_on_where_it_was_stopped(run, own, watched, tmp_path, monkeypatch):
    from auffusion_cli.tasks import evaluate_attention as task

    make = task.generate_with_attention

    def stopped(model, request, settings):
        if watched:
            raise KeyboardInterrupt
        return make(model, request, settings)

    monkeypatch.setattr(task, "generate_with_attention", stopped)
    assert run(*own).exit_code == 130
    (tmp_path / "maps/own/.0123456789abcdef.part").write_bytes(b"of a run that was killed")
    monkeypatch.setattr(task, "generate_with_attention", make)
    watched.clear()
    goes_on = run(*own, "-o", "a.json")
    assert goes_on.exit_code == 0 and watched == ["rain and wind"]
    assert sorted(p.name for p in (tmp_path / "maps/own").iterdir()) == ["dog.png", "rain.png"]
    run(*own, "--overwrite", "-o", "b.json")
    assert watched == ["rain and wind"]
    run("own", "--attention", "anew", *own[3:], "-o", "c.json")
    assert len(watched) == 3
    results = [(tmp_path / f"{name}.json").read_text() for name in "abc"]
    assert results[0] == results[1] == results[2]


def test_a_picture_of_something_else_is_neither_taken_nor_replaced(run, own, watched, tmp_path):
    assert run(*own).exit_code == 0
    picture = tmp_path / "maps/own/dog.png"
    before = picture.read_bytes()
    (tmp_path / "own/dog.wav").write_bytes((tmp_path / "own/rain.wav").read_bytes())
    watched.clear()
    refused = run(*own)
    assert refused.exit_code == 2 and "dog.png was drawn from another sound" in refused.stderr
    assert picture.read_bytes() == before and watched == []
    assert run(*own, "--overwrite").exit_code == 0
    assert picture.read_bytes() != before and watched == ["rain and wind"]

    (tmp_path / "maps/thesis.doc").write_text("three years")
    refused = run(*own)
    assert refused.exit_code == 2 and "maps holds thesis.doc" in refused.stderr


def test_a_sound_that_was_changed_after_it_was_made_is_told(run, own, tmp_path):
    path = tmp_path / "own/dog.wav"
    content = bytearray(path.read_bytes())
    start = content.index(b"data") + 8
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    result = run(*own)
    assert result.exit_code == 0, result.output
    assert "own: 1 sound comes out differently than in the file" in result.stderr
    assert "that of the new sound: dog.wav" in result.stderr


def test_whatever_format_holds_a_sound_it_is_the_same(run, own, tiny_model, tmp_path):
    from auffusion_cli.requests.request import GenerateRequest
    from auffusion_cli.tasks.generate import generate

    (sound,) = generate(tiny_model, [GenerateRequest("a dog barks", 1, "")])
    sound.save(tmp_path / "own/float.wav", subtype="float")
    sound.save(tmp_path / "own/wide.flac", subtype="pcm24")
    sound.save(tmp_path / "own/lossy.ogg")
    result = run(*own)
    assert result.exit_code == 0, result.output
    assert "own: 1 sound was left out of the attention" in result.stderr
    assert "out differently" not in result.stderr


def test_shards_listen_and_the_run_without_measures(run, monkeypatch):
    whole = run("made", "--reference", "real", "--json")
    monkeypatch.setenv("XDG_CACHE_HOME", "other-cache")
    heard = []
    real = FakeClassifier.embed

    def embed(self, waveforms):
        heard.extend(len(waveform) for waveform in waveforms)
        return real(self, waveforms)

    monkeypatch.setattr(FakeClassifier, "embed", embed)
    for index in (1, 2, 3):
        result = run("made", "--reference", "real", "--shard", f"{index}/3")
        assert result.exit_code == 0 and result.stdout == "", result.output
        assert f"part {index}/3 of the sounds" in result.stderr
        assert len(heard) == 8 * index
    measured = run("made", "--reference", "real", "--json")
    assert len(heard) == 24 and json.loads(measured.stdout) == json.loads(whole.stdout)
    refused = run("made", "--shard", "1/3", "-o", "result.json")
    assert refused.exit_code == 2 and "has no result to write" in refused.stderr
    assert run("made", "--shard", "13/13").exit_code == 0  # with nothing left for it


def test_the_processes_of_a_launch_share_the_listening(run, monkeypatch):
    command = ("made", "--reference", "real", "--json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    child = os.fork()
    if child == 0:
        os.environ["RANK"] = "1"
        torch.set_num_threads(1)
        other = run(*command)
        os._exit(0 if (other.exit_code, other.stdout) == (0, "") else 1)
    monkeypatch.setenv("RANK", "0")
    heard = []
    real = FakeClassifier.embed
    monkeypatch.setattr(FakeClassifier, "embed", lambda *a: heard.append(len(a[1])) or real(*a))
    result = run(*command)
    assert os.waitpid(child, 0)[1] == 0
    assert result.exit_code == 0 and len(json.loads(result.stdout)["systems"]) == 1
    assert sum(heard) == 12  # half of the sounds of both folders
