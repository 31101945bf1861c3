"""`sweep` as a user runs it, on a tiny checkpoint and with a tagger that has learned nothing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.evaluation.protocols import PROTOCOLS
from auffusion_cli.evaluation.tagger import Tagger, TaggerEmbedder
from auffusion_cli.requests.seeds import line_seed
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.tasks import sweep as task
from auffusion_cli.tasks.evaluate import Networks

GRID = ("--steps", "3,1,2", "--guidance", "1,2.5", "--scheduler", "ddim")


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion sweep ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *_, **__: tiny_model)
    torch.manual_seed(0)
    audio_input = PROTOCOLS["embedded"].classifier.audio_input
    networks = Networks(TaggerEmbedder(Tagger(["dog", "rain"]).eval(), audio_input, "0" * 64))
    monkeypatch.setattr("auffusion_cli.cli.networks.load_networks", lambda *_, **__: networks)
    app = build_app()

    def run(*arguments):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint)]
        return CliRunner().invoke(app, ["sweep", *arguments, *options])

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Loading or looking for a model fails the test: what is wrong has to be told before."""

    def find(*args, **kwargs):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("auffusion_cli.cli.resolve.fetch", find)


@pytest.fixture
def rendered(monkeypatch):
    """The cells that are rendered and not kept."""
    cells = []
    render_cell = task.render_cell

    def counted(model, sounds, plan, **options):
        cells.append((plan.settings.steps, plan.settings.guidance_scale))
        return render_cell(model, sounds, plan, **options)

    monkeypatch.setattr(task, "render_cell", counted)
    return cells


def files(folder):
    return {
        path: path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix in (".wav", ".json")
    }


def test_every_combination_is_rendered_measured_and_drawn(run, rendered):
    result = run("dog", "rain", *GRID, "--seed", "7", "--json", "--csv", "study.csv")
    assert result.exit_code == 0, result.output
    assert rendered == [(1, 1.0), (1, 2.5), (2, 1.0), (2, 2.5), (3, 1.0), (3, 2.5)]
    told = json.loads(result.stdout)
    assert [(c["steps"], c["guidance_scale"]) for c in told["cells"]] == rendered
    for cell in told["cells"]:
        sounds = sorted(Path(cell["folder"]).glob("*.wav"))
        assert [path.name for path in sounds] == ["00001-dog.wav", "00002-rain.wav"]
        record = read_provenance(sounds[1])
        assert (record["prompt"], record["seed"], record["steps"]) == ("rain", 7, cell["steps"])
        assert record["guidance_scale"] == cell["guidance_scale"]
        assert cell["seconds_per_sound"] > 0 and cell["device"] == "cpu"
    # The fewer steps, the further from the most; the last of each curve has nothing to compare to.
    changes = {(c["steps"], c["guidance_scale"]): c["change_db"] for c in told["cells"]}
    for guidance in (1.0, 2.5):
        assert changes[3, guidance] is None
        assert changes[1, guidance] > changes[2, guidance] > 0
    rows = list(csv.DictReader(Path("study.csv").read_text().splitlines()))
    assert [row["steps"] for row in rows] == ["1", "1", "2", "2", "3", "3"]
    assert float(rows[0]["change_db"]) == changes[1, 1.0] and rows[-1]["change_db"] == ""
    assert Image.open("sweep/curves.png").width > 400
    # The same seed is the same noise in each cell, and a cell is what `generate` makes.
    one, other = (read_audio(f"sweep/ddim-steps{n}-guidance1/00001-dog.wav")[0] for n in (1, 3))
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_a_reference_gives_distances(run, tmp_path):
    made = run("dog", "rain", *GRID[:2], "-o", "real", "--seed", "3")
    assert made.exit_code == 0, made.output
    result = run(
        *("dog", "rain", "--steps", "1,2", "--seed", "9", "--json"),
        *("--reference", "real/ddim-steps3-guidance3"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    for cell in told["cells"]:
        values = {m["name"]: m["value"] for m in cell["metrics"] if not m["subset"]}
        assert values["FD-tagger"] > 0 and values["KL-tagger"] is not None  # paired by name
    assert "tagger" in told["backbones"]
    table = run(
        *("dog", "rain", "--steps", "1,2", "--seed", "9", "--overwrite"),
        *("--reference", "real/ddim-steps3-guidance3"),
    )
    assert "FD-tagger" in table.stdout and "SECONDS" in table.stdout
    assert "FD-tagger: 2 clips are few" in table.stderr
    assert "IS-tagger: needs 20 clips" in table.stderr


def test_a_sweep_that_was_stopped_goes_on(run, rendered, monkeypatch):
    generate, n_made = task.generate, []

    def stopped(*args, **kwargs):
        for result in generate(*args, **kwargs):
            n_made.append(result)
            if len(n_made) == 6:  # the first is the warm-up: in the middle of the third cell
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(task, "generate", stopped)
    assert run("dog", "rain", *GRID).exit_code == 130
    assert sorted(p.name for p in Path("sweep").iterdir()) == [
        "ddim-steps1-guidance1",
        "ddim-steps1-guidance2.5",
    ]
    monkeypatch.setattr(task, "generate", generate)
    before, rendered[:] = files("sweep"), []
    result = run("dog", "rain", *GRID)
    assert result.exit_code == 0 and "2 of 6 cells are finished already" in result.stderr
    assert rendered == [(2, 1.0), (2, 2.5), (3, 1.0), (3, 2.5)]
    assert before.items() <= files("sweep").items()


def test_more_values_only_render_what_is_new_and_all_is_in_the_tables(run, rendered):
    run("dog", "--steps", "1,2")
    rendered[:] = []
    result = run("dog", "--steps", "1,2,4", "--json")
    assert rendered == [(4, 3.0)]
    assert [cell["steps"] for cell in json.loads(result.stdout)["cells"]] == [1, 2, 4]


def test_a_cell_of_other_words_or_damaged_is_never_taken_for_this_one(run, rendered):
    run("dog", "--steps", "1,2", "--picture", "a.png")
    other = run("cat", "--steps", "1,2", "--picture", "b.png")
    assert other.exit_code == 2
    assert "ddim-steps1-guidance3 exists, but is not this cell" in other.stderr
    assert "it is of other sounds, such as 00001-dog" in other.stderr
    sound = Path("sweep/ddim-steps1-guidance3/00001-dog.wav")
    sound.write_bytes(sound.read_bytes()[:-2] + b"xx")
    again = run("dog", "--steps", "1,2", "--picture", "b.png")
    assert again.exit_code == 2 and "00001-dog.wav has been changed" in again.stderr
    rendered[:] = []
    assert run("dog", "--steps", "1,2", "--picture", "b.png", "--overwrite").exit_code == 0
    assert rendered == [(1, 3.0)]


def test_what_differs_of_a_cell_is_told(run):
    run("dog", "--steps", "1,2")
    folder = Path("sweep/ddim-steps1-guidance3")
    for options, words in (
        (("--seed", "3"), "the seed of 00001-dog is 0, and not 3"),
        (("--negative", "wind"), "the negative prompt of 00001-dog is '', and not 'wind'"),
        (("--duration", "0.5"), "its duration is 1.0, and not 0.5"),
        (("--vocoder", "griffin-lim"), "its vocoder is 'hifigan', and not 'griffin-lim'"),
    ):
        result = run("dog", "--steps", "1,2", *options)
        assert result.exit_code == 2 and words in result.stderr, (words, result.stderr)
    (folder / "00001-dog.wav").unlink()
    assert "00001-dog.wav is missing" in run("dog", "--steps", "1,2").stderr
    for content, words in (
        ("{}", "cell.json was written by another version"),
        ('{"format_version": 2}', "cell.json: origin is missing"),
        ("[" * 100_000, "cell.json: is nested too deeply"),
    ):
        (folder / "cell.json").write_text(content)
        assert words in run("dog", "--steps", "1,2").stderr
    (folder / "cell.json").unlink()
    gone = run("dog", "--steps", "1,2", "--overwrite")
    assert gone.exit_code == 2 and "has no cell.json" in gone.stderr


def test_curves_that_show_more_are_not_replaced(run):
    assert run("dog", "--steps", "1,2,3").exit_code == 0
    before = Path("sweep/curves.png").read_bytes()
    for options, words in (
        (("--steps", "1,2"), "shows other cells"),
        (("--steps", "1,2,3", "--reference", "sweep/ddim-steps1-guidance3"), "another reference"),
    ):
        result = run("dog", *options)
        assert result.exit_code == 2 and words in result.stderr, result.stderr
        assert Path("sweep/curves.png").read_bytes() == before
        assert run("dog", *options, "--overwrite", "--picture", "other.png").exit_code == 0
    assert run("dog", "--steps", "1,2,3").exit_code == 0
    assert run("dog", "--steps", "1,2", "--overwrite").exit_code == 0
    assert Path("sweep/curves.png").read_bytes() != before


def test_what_is_the_same_in_every_cell_is_said_once(run):
    run("dog", "--steps", "1", "--picture", "a.png", "-o", "real")
    Path("real/ddim-steps1-guidance3/00001-dog.wav").rename("real/other.wav")
    result = run("dog", "--steps", "1,2,3", "--reference", "real")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("no partner in the reference") == 1
    assert "every cell: 1 of 1 sounds has no partner in the reference" in result.stderr
    assert result.stderr.count("no partner in it: other.wav") == 1


def test_what_a_killed_run_left_of_a_cell_goes(run):
    left = Path("sweep/.0123456789abcdef.part")
    left.mkdir(parents=True)
    (left / "00001-dog.wav").write_bytes(b"half")
    assert run("dog", "--steps", "1,2").exit_code == 0
    assert not left.exists()


def test_a_folder_that_is_no_cell_is_never_replaced(run):
    folder = Path("sweep/ddim-steps1-guidance3")
    folder.mkdir(parents=True)
    (folder / "thesis.doc").write_text("three years")
    result = run("dog", "--steps", "1,2", "--overwrite")
    assert result.exit_code == 2 and "no sweep has written" in result.stderr
    assert (folder / "thesis.doc").exists()


def test_a_list_can_name_its_sounds_and_has_seeds(run):
    Path("list.csv").write_text("name,prompt,seed\nreal_1.wav,dog,5\nb.2,rain,\n")
    result = run("--prompts", "list.csv", "--steps", "1,2", "-n", "2", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    sounds = json.loads(result.stdout)["sounds"]
    assert {name: s["seed"] for name, s in sounds.items()} == {
        "real_1-1": 5,
        "real_1-2": 6,
        "b.2-1": line_seed(0, 3),  # as `generate` gives the third line
        "b.2-2": line_seed(0, 3) + 1,
    }


def test_a_dry_run_tells_the_cells_and_the_work_and_writes_nothing(run, no_model, tmp_path):
    result = run("dog", "rain", *GRID, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (len(told["cells"]), told["sounds_to_make"], told["steps_to_take"]) == (6, 12, 24)
    assert not any(cell["finished"] for cell in told["cells"])
    assert list(tmp_path.iterdir()) == []
    table = run("dog", "rain", *GRID, "--dry-run")
    assert "cells: 6 of 2 sounds each; sounds: 12 to make, 24 steps" in table.stderr
    assert "duration  " in table.stdout and "00002-rain  rain    0" in table.stdout


def test_what_is_stopped_in_its_first_cell_leaves_nothing(run, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "hash_file", stopped)
    result = run("dog", *GRID, "-o", "a/study")
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dog", "--seed", "-1"), "--seed -1 is not"),
        ((), "either prompts or --prompts"),
        (("dog", "--steps", "10,ten"), "--steps '10,ten'"),
        (("dog", "--steps", "10,10"), "--steps '10,10'"),
        (("dog", "--steps", "0,10"), "--steps 0"),
        (("dog", "--guidance", ""), "--guidance ''"),
        (("dog", "--guidance", "nan"), "--guidance nan"),
        (("dog", "--scheduler", "ddim,fast"), "--scheduler 'fast'"),
        (("dog", "--steps", ",".join(map(str, range(1, 600))), "--guidance", "1,2"), "too many"),
        (("dog", "--picture", "a.jpg"), "--picture a.jpg"),
        (("dog", "--csv", "a.txt"), "--csv a.txt"),
        (("dog", "--reference", "nowhere"), "--reference nowhere: no such folder"),
        (("dog", "--weights", "nosuch"), "--weights nosuch: no such folder"),
        (("--prompts", "names.csv"), "'../dog' cannot be the name"),
        (("--prompts", "twice.csv"), "a second sound named 'a'"),
        (("--prompts", "bad.csv"), "line 2"),
        (("--prompts", "missing.txt"), "missing.txt"),
        (("dog", "--backbone", "embedded", "--protocol", "tango"), "contradict"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_asked_for(run, no_model, arguments, words):
    Path("names.csv").write_text("name,prompt\n../dog,dog\n")
    Path("twice.csv").write_text("name,prompt\na.wav,dog\na.flac,cat\n")
    Path("bad.csv").write_text("name,prompt\na,b,c\n")
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr and result.stdout == ""
    assert "Traceback" not in result.stderr
