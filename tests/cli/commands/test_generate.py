"""`generate`, `info` and `reproduce` as a user runs them, on a tiny checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from auffusion_cli.checkpoints.load import TextPart, load_model
from auffusion_cli.checkpoints.lora import save_lora
from auffusion_cli.checkpoints.vocabulary import save_vocabulary
from auffusion_cli.cli import play
from auffusion_cli.cli.app import build_app
from auffusion_cli.diffusion.vocabulary import Vocabulary, sentences_of
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, InpaintRequest
from auffusion_cli.requests.seeds import line_seed
from auffusion_cli.signal.audio import read_audio, write_audio
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.tasks import generate as task


@pytest.fixture
def run(tiny_checkpoint, tiny_model, tmp_path, monkeypatch):
    """Run `auffusion COMMAND ...` in an empty folder; generate and reproduce use the tiny model.

    It is loaded only once, which the options asked for must allow.
    """
    monkeypatch.chdir(tmp_path)
    app = build_app()

    def load_model(name, *, engine, device, dtype, vocoder, text=None, loras=()):
        assert name == str(tiny_checkpoint) and device == "cpu"
        assert dtype in ("auto", "fp32") and vocoder in ("auto", "hifigan")
        return tiny_model

    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", load_model)

    def run(name, *arguments, model=str(tiny_checkpoint), stdin=None):
        options = ["--device", "cpu", "--model", model] if name != "info" else []
        return CliRunner().invoke(app, [name, *options, *arguments], input=stdin)

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails the test: what is wrong has to be told before."""

    def load_model(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", load_model)


def test_one_prompt_one_file_with_its_record(run, monkeypatch):
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", load_model)
    result = run("generate", "dog barking in rain", "-o", "rain.wav", "--seed", "7")
    assert result.exit_code == 0, result.output
    assert result.stdout == "rain.wav\n"
    waveform, sample_rate_hz = read_audio("rain.wav")
    assert waveform.shape == (1, 16000) and sample_rate_hz == 16000

    shown = json.loads(run("info", "rain.wav", "--json").stdout)
    assert (shown["prompt"], shown["seed"], shown["steps"]) == ("dog barking in rain", 7, 2)
    table = run("info", "rain.wav").stdout
    assert "dog barking in rain" in table and "guidance  " in table


def test_info_of_several_files(run):
    run("generate", "dog", "rain", "--seed", "1", "-o", "./")
    Path("no.wav").write_bytes(b"RIFF")
    result = run("info", "dog.wav", "no.wav", "rain.wav", "--json")
    assert result.exit_code == 1 and "no.wav" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["file"], line["prompt"]) for line in lines] == [
        ("dog.wav", "dog"),
        ("rain.wav", "rain"),
    ]
    tables = run("info", "dog.wav", "rain.wav").stdout
    assert "FILE" in tables and "rain.wav\n" in tables and "\n\n" in tables


def test_info_of_a_folder_says_what_describes_a_checkpoint(run):
    Path("runs").mkdir()
    result = run("info", "runs")
    assert (result.exit_code, "auffusion models info runs" in result.stderr) == (2, True)


def test_info_tells_the_licences_behind_a_sound_of_the_embedded_model(run):
    record = Provenance(
        GenerateRequest("dog barking in rain", 1),
        GenerateSettings(1.0, 2, 3.0, 0.0, "ddim"),
        *("embedded", None, "griffin-lim", "cpu", "fp32", "0" * 64),
    )
    write_audio(Path("dog.wav"), np.zeros((1, 1600)), 16000, provenance=record.to_dict())
    shown = json.loads(run("info", "dog.wav", "--json").stdout)
    assert shown["kinds"] == ["dog barking", "rain"]
    assert 0 < sum(shown["share_alike"].values()) <= sum(shown["licences"].values())
    licence, n = next(iter(shown["licences"].items()))
    table = run("info", "dog.wav").stdout
    assert "dog barking, rain" in table and f" {n} {licence}" in table


def test_info_tells_no_licences_of_a_sound_without_words(run):
    record = Provenance(
        InpaintRequest("a.wav", "0" * 64, 1, masks=("1-2s",)),
        GenerateSettings(1.0, 2, 3.0, 0.0, "ddim"),
        *("embedded", None, "griffin-lim", "cpu", "fp32", "0" * 64),
    )
    write_audio(Path("dog.wav"), np.zeros((1, 1600)), 16000, provenance=record.to_dict())
    shown = json.loads(run("info", "dog.wav", "--json").stdout)
    assert not {"kinds", "licences"} & shown.keys()


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_info_says_that_a_file_was_cut_short(run, suffix):
    run("generate", "dog", "--seed", "1", "-o", f"dog.{suffix}")
    whole = Path(f"dog.{suffix}").read_bytes()
    Path(f"cut.{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    result = run("info", f"dog.{suffix}", f"cut.{suffix}")
    assert result.exit_code == 1 and f"cut.{suffix}: cut short" in result.stderr
    assert f"dog.{suffix}: " not in result.stderr


def test_reproduce_makes_the_same_samples_and_says_so(run, tiny_checkpoint):
    run("generate", "dog", "-o", "dog.wav")  # a drawn seed
    result = run("reproduce", "dog.wav", "-o", "again.wav")
    assert result.exit_code == 0, result.output
    assert result.stdout == "identical: all 16000 samples\nagain.wav\n"
    assert Path("dog.wav").read_bytes() == Path("again.wav").read_bytes()
    assert run("reproduce", "dog.wav", "-o", "again.wav").exit_code == 2  # nothing is overwritten


def test_reproduce_says_what_differs(run):
    run("generate", "dog", "-o", "dog.wav", "--seed", "1")
    record = read_provenance(Path("dog.wav"))
    record |= {"seed": 2, "versions": record["versions"] | {"torch": "1.0"}}
    write_audio(Path("forged.wav"), read_audio("dog.wav")[0], 16000, provenance=record)
    result = run("reproduce", "forged.wav", "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert shown["identical"] is False and 0 < shown["max_difference"] <= 2
    assert shown["differences"]["torch"]["recorded"] == "1.0"


def test_reproduce_loads_no_model_on_a_files_word(run, tiny_checkpoint, no_model):
    record = {"model": "evil/repo"}
    result = run("generate", "dog", "-o", "dog.wav", "--dry-run", "--json")
    settings = json.loads(result.stdout)["settings"]
    record |= {name: settings[name] for name in settings.keys() - {"model", "downloaded"}}
    record |= {
        "format_version": 1,
        "task": "generate",
        "prompt": "dog",
        "negative_prompt": "",
        "seed": 1,
        "versions": {},
        "samples_sha256": "0",
    }
    write_audio(Path("evil.wav"), np.zeros((1, 16000)), 16000, provenance=record)
    result = CliRunner().invoke(build_app(), ["reproduce", "evil.wav"])
    assert result.exit_code == 2
    assert "evil/repo" in result.stderr and "--model" in result.stderr


def test_a_sound_without_a_record_is_told(run):
    write_audio(Path("plain.wav"), np.zeros((1, 1600)), 16000)
    for name in ("info", "reproduce"):
        result = run(name, "plain.wav")
        assert result.exit_code == 1
        assert "carries no record of how it was made" in result.stderr


def test_the_same_seed_gives_the_same_file_whatever_else_is_made(run):
    run("generate", "dog", "rain", "-n", "2", "--seed", "3", "-o", "many/")
    assert sorted(os.listdir("many")) == ["dog-1.wav", "dog-2.wav", "rain-1.wav", "rain-2.wav"]
    run("generate", "rain", "--seed", "4", "-o", "alone.wav")
    assert Path("alone.wav").read_bytes() == Path("many/rain-2.wav").read_bytes()


def test_after_the_highest_seed_comes_the_first(run, no_model):
    command = ("generate", "dog", "-n", "3", "-o", "out/", "--dry-run", "--json", "--seed")
    sounds = json.loads(run(*command, str(2**63 - 2)).stdout)["sounds"]
    assert [sound["seed"] for sound in sounds] == [2**63 - 2, 2**63 - 1, 0]
    for impossible in ("-1", str(2**63)):
        refused = run(*command, impossible)
        assert refused.exit_code == 2 and f"--seed {impossible} is not" in refused.stderr


def test_without_a_seed_one_is_drawn_and_printed(run):
    result = run("generate", "dog", "-o", "a.wav")
    assert f"seed {read_provenance(Path('a.wav'))['seed']} " in result.stderr


def test_no_seed_is_drawn_for_lines_that_have_their_own(run):
    result = run("generate", "--prompts", "-", "-o", "out/", stdin='{"prompt": "dog", "seed": 1}\n')
    assert "gives the same again" not in result.stderr


def test_formats_spectrogram_and_json_lines(run):
    result = run(
        *("generate", "dog", "rain", "--format", "flac", "--json", "--seed", "1"),
        *("--spectrogram", "pictures/", "-o", "out/{prompt}-{seed}"),
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["file"] for line in lines] == ["out/dog-1.flac", "out/rain-1.flac"]
    assert lines[0]["status"] == "made" and lines[0]["prompt"] == "dog"
    assert read_provenance(Path("out/dog-1.flac"))["prompt"] == "dog"
    with Image.open("pictures/rain.png") as picture:
        assert picture.width > 400


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "either prompts or --prompts"),
        (["dog", "--prompts", "x.txt"], "either prompts or --prompts"),
        ([""], "prompt is empty"),
        (["dog", ""], "prompt is empty"),
        (["dog", "--duration", "0"], "--duration 0"),
        (["dog", "--duration", "4000"], "0.01 to 3600 s"),
        (["dog", "--duration", "nan"], "--duration 'nan'"),
        (["dog", "--steps", "0"], "--steps 0"),
        (["dog", "--steps", "few"], "--steps 'few' is neither a whole number nor auto"),
        (["dog", "--seed", "-1"], "--seed -1"),
        (["dog", "--scheduler", "plms"], "plms"),
        (["dog", "--guidance-rescale", "2"], "--guidance-rescale 2"),
        (["dog", "-n", "0"], "whole numbers from 1"),
        (["dog", "-n", "1000000000"], "whole numbers from 1 to 100000"),
        (["dog", "rain", "-n", "60000"], "120,000 sounds are too many"),
        (["dog", "-o", "{seed:x}.wav"], "{seed:x} cannot be formatted in this way"),
        (["dog", "-o", "{prompt:05d}.wav"], "{prompt:05d} cannot be formatted in this way"),
        (["dog", "-o", "{seed!r}.wav"], "has a brace that is not part of a field"),
        (["dog", "-o", "x" * 300 + ".wav"], "has 304 bytes"),
        (["dog", "--vocoder", "hifigan", "--model", "embedded"], "has no vocoder"),
        (["dog", "-o", "taken.wav"], "taken.wav exists"),
        (["dog", "--model", "nope"], "--model 'nope': there is no such folder"),
        (["dog", "-o", "taken.wav/dog.wav"], "not a folder"),
        (["dog", "-o", "a.xyz"], ".xyz"),
        (["dog", "-o", "a.wav", "--format", "mp3"], "--format asks for .mp3"),
        (["dog", "rain", "-o", "one.wav"], "more than one result"),
        (["dog", "dog", "-o", "two/"], "if no prompt is given twice"),
        (["dog", "rain", "-o", "one.wav"], "written to one.wav, of 'dog' and 'rain'"),
        (["dog", "barking", "in", "rain"], "'in' by itself is no sound"),
        (["dog", "barking", "in", "rain", "-o", "x.wav"], 'quotes: "dog barking in rain".'),
        (["dog", "--rate", "48"], "For kHz: --rate 48k."),
        (["dog", "-o", "-"], "not to standard output"),
        (["dog", "-o", "{speed}.wav"], "{speed}"),
        (["dog", "--spectrogram", "a.jpg"], ".jpg"),
        (["--prompts", "missing.txt"], "missing.txt"),
        (["--prompts", "taken.wav"], "'.wav'"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(run, no_model, arguments, told):
    Path("taken.wav").write_bytes(b"precious")
    result = run("generate", *arguments)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stdout == ""
    assert Path("taken.wav").read_bytes() == b"precious"
    assert os.listdir() == ["taken.wav"]


def test_a_device_that_is_not_here_is_told_before_a_model_is_loaded(run, no_model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("generate", "dog", "--device", "cuda")
    assert result.exit_code == 2 and "no CUDA device here" in result.stderr
    assert "loading" not in result.stderr


def test_a_sound_that_cannot_be_made_leaves_no_folder(run, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("auffusion_cli.tasks.generate.GenerateResult.save", stopped)
    result = run("generate", "dog", "-o", "many/folders/dog.wav")
    assert result.exit_code == 130 and result.stderr.endswith("error: stopped\n")
    assert os.listdir() == []


@pytest.mark.parametrize("command", ["info", "reproduce"])
def test_a_missing_file_cannot_be_met_and_a_damaged_one_fails(run, no_model, command):
    Path("damaged.wav").write_bytes(b"RIFF")
    Path("folder").mkdir()
    for path, exit_code in (("nofile.wav", 2), ("folder", 2), ("damaged.wav", 1)):
        result = run(command, path)
        assert result.exit_code == exit_code and path in result.stderr


@pytest.mark.parametrize("output", ["again.xyz", "plain.wav/again.wav"])
def test_what_reproduce_cannot_write_is_told_before_a_model_is_loaded(run, no_model, output):
    record = Provenance(
        GenerateRequest("dog", 1),
        GenerateSettings(1.0, 2, 3.0, 0.0, "ddim"),
        *("tiny", None, "griffin-lim", "cpu", "fp32", "0" * 64),
    )
    write_audio(Path("plain.wav"), np.zeros((1, 1600)), 16000, provenance=record.to_dict())
    result = run("reproduce", "plain.wav", "-o", output)
    assert result.exit_code in (1, 2) and Path(output).name.split(".")[1] in result.stderr

    write_audio(Path("other.wav"), np.zeros((1, 1600)), 8000, provenance=record.to_dict())
    result = run("reproduce", "other.wav")
    assert result.exit_code == 1 and "resampled to 8000 Hz" in result.stderr


def test_reproduce_makes_the_folder_it_writes_to(run):
    run("generate", "dog", "-o", "dog.wav", "--seed", "1")
    assert run("reproduce", "dog.wav", "-o", "new/again.wav").exit_code == 0
    assert Path("new/again.wav").exists()


def test_an_existing_file_is_replaced_only_when_told(run):
    Path("a.wav").write_bytes(b"precious")
    assert run("generate", "dog", "-o", "a.wav", "--overwrite").exit_code == 0
    assert read_provenance(Path("a.wav"))["prompt"] == "dog"


def test_a_file_that_another_program_wrote_meanwhile_stays(run, monkeypatch):
    """Both have looked and found nothing; one of two in a folder writes it first."""
    real = task.GenerateResult.save

    def save(self, path, **options):
        if "dog" in path.name:
            path.write_bytes(b"of the other")
        real(self, path, **options)

    monkeypatch.setattr(task.GenerateResult, "save", save)
    result = run("generate", "dog", "-o", "a/")
    assert result.exit_code == 1 and "a/dog.wav exists" in result.stderr
    result = run("generate", "--prompts", "-", "-o", "b/", stdin="dog\nrain\n")
    assert result.exit_code == 1 and "line 1: b/00001-dog.wav exists" in result.stderr
    assert Path("a/dog.wav").read_bytes() == b"of the other"
    assert Path("b/00001-dog.wav").read_bytes() == b"of the other"
    assert Path("b/00002-rain.wav").exists()


def test_dry_run_resolves_everything_and_makes_nothing(run, no_model, tiny_checkpoint):
    result = run("generate", "dog", "-n", "2", "--seed", "1", "--dry-run", "--json")
    shown = json.loads(result.stdout)
    assert shown["settings"] == {
        "duration_s": 1.0,
        "steps": 2,
        "guidance_scale": 3.0,
        "guidance_rescale": 0.0,
        "guidance_until": 1.0,
        "windows_at_once": 1,
        "scheduler": "ddim",
        "model": str(tiny_checkpoint),
        "revision": None,
        "downloaded": True,
        "vocoder": "hifigan",
        "engine": "torch",
        "engine_reason": "the model has no graphs of ONNX",
        "device": "cpu",
        "dtype": "fp32",
        "batch_size": 1,
        "best_of": 1,
        "keep_all": False,
        "guards": True,
        "loras": [],
    }
    sounds = [(sound["file"], sound["seed"]) for sound in shown["sounds"]]
    assert sounds == [("dog-1.wav", 1), ("dog-2.wav", 2)]
    table = run("generate", "dog", "--dry-run").stdout
    assert "guidance  " in table and "None" not in table and "loop" not in table
    assert "loop        yes" in run("generate", "dog", "--loop", "--dry-run").stdout
    assert os.listdir() == []


def test_a_list_keeps_its_good_lines_and_lists_the_bad_ones(run):
    Path("list.jsonl").write_text(
        '{"prompt": "dog"}\n{"prompt": ""}\nnonsense\n{"prompt": "rain"}\n'
    )
    result = run("generate", "--prompts", "list.jsonl", "-o", "out", "--seed", "1")
    assert result.exit_code == 1
    assert sorted(os.listdir("out")) == ["00001-dog.wav", "00004-rain.wav", "manifest.jsonl"]
    assert "list.jsonl, line 2: the prompt is empty" in result.stderr
    assert "list.jsonl, line 3: is not JSON" in result.stderr
    assert "2 made, 0 skipped, 2 failed" in result.stderr


def test_a_stopped_list_goes_on_where_it_was(run, monkeypatch):
    """Also without a seed, which is then drawn anew: what is there answers the request."""
    arguments = ("generate", "--prompts", "-", "-o", "out")
    stdin = "dog\nrain\nbirds\n"
    real, made = task.decode, []

    def stop_at_the_second(*args, **options):
        made.append(args)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(task, "decode", stop_at_the_second)
    assert run(*arguments, stdin=stdin).exit_code == 130
    assert sorted(os.listdir("out")) == ["00001-dog.wav", "manifest.jsonl"]
    first = Path("out/00001-dog.wav").read_bytes()

    result = run(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["skipped", "made", "made"]
    assert lines[0]["seed"] == read_provenance(Path("out/00001-dog.wav"))["seed"]
    assert Path("out/00001-dog.wav").read_bytes() == first
    made.clear()
    assert run(*arguments, stdin=stdin).exit_code == 0
    assert made == []


def test_every_line_of_a_list_has_a_seed_of_its_own(run):
    list_ = ("generate", "--prompts", "-", "--seed", "1", "-o", "out/{index:02d}-{seed:012d}")
    result = run(*list_, "--json", stdin="dog\n\ndog\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    seeds = [line_seed(1, 1), line_seed(1, 3)]
    assert [(line["line"], line["seed"]) for line in lines] == [(1, seeds[0]), (3, seeds[1])]
    assert [line["file"] for line in lines] == [
        f"out/{number:02d}-{seed:012d}.wav" for number, seed in zip((1, 3), seeds, strict=True)
    ]
    run("generate", "dog", "--seed", str(seeds[1]), "-o", "alone.wav")
    assert Path("alone.wav").read_bytes() == Path(lines[1]["file"]).read_bytes()
    again = run(*list_, "--json", stdin="dog\n\ndog\n")
    skipped = [json.loads(line) for line in again.stdout.splitlines()]
    assert [(line["status"], line["line"], line["prompt"]) for line in skipped] == [
        ("skipped", 1, "dog"),
        ("skipped", 3, "dog"),
    ]


def test_a_list_whose_sounds_an_earlier_version_made_is_finished(run):
    """It gave the list's seed to every line, and did not trim."""
    for index, prompt in ((1, "dog"), (2, "rain")):
        file = f"out/{index:05d}-{prompt}.wav"
        run("generate", prompt, "--seed", "5", "--no-trim", "-o", file)
    command, stdin = ("generate", "--prompts", "-", "-o", "out"), "dog\nrain\n"
    result = run(*command, "--seed", "5", "--no-trim", stdin=stdin)
    assert result.exit_code == 0 and "already there and skipped: 2" in result.stderr
    for other in (("--seed", "5"), ("--seed", "6", "--no-trim")):
        result = run(*command, *other, stdin=stdin)
        assert result.exit_code == 2 and "is not from the same request" in result.stderr


def test_a_sound_that_is_mostly_rumble_is_told_unless_it_is_cut(run, monkeypatch):
    monkeypatch.setattr("auffusion_cli.signal.guards.rumbles", lambda *_: True)
    told = "step.wav: most of its energy is below 40 Hz"
    assert told in run("generate", "a step", "--seed", "1", "-o", "step.wav").stderr
    cut = run("generate", "a step", "--seed", "1", "--low-cut", "40", "-o", "cut.wav")
    assert cut.exit_code == 0 and "below 40 Hz" not in cut.stderr
    assert read_provenance(Path("cut.wav"))["finish"] == {"low_cut_hz": 40.0}


def test_trimming_is_recorded_and_made_again(run):
    run("generate", "dog", "--seed", "1", "-o", "trimmed.wav")
    run("generate", "dog", "--seed", "1", "--no-trim", "-o", "start.wav")
    assert read_provenance(Path("trimmed.wav"))["trim"] is True
    assert read_provenance(Path("start.wav"))["trim"] is False
    assert Path("trimmed.wav").read_bytes() != Path("start.wav").read_bytes()
    for name in ("trimmed.wav", "start.wav"):
        assert run("reproduce", name).stdout == "identical: all 16000 samples\n"
    timeline = ("--timeline", "0-1s a dog barks", "--dry-run", "--json")
    shown = json.loads(run("generate", *timeline).stdout)
    assert shown["sounds"][0]["trim"] is False


def test_lines_have_settings_of_their_own(run):
    Path("list.csv").write_text(
        "prompt;duration;steps;negative;mood;artist\n"
        "dog;0.5s;;;sad;x\n"
        "rain;;1;;;y\n"
        "wind;5000;;;;z\n"
        "sea;;;music;;z\n"
    )
    command = ("generate", "--prompts", "list.csv", "-o", "{prompt}-{artist}.wav", "--seed", "1")
    table = run(*command, "--steps", "2", "--dry-run").stdout
    assert "DURATION" in table and "STEPS" in table and "GUIDANCE" not in table
    result = run(*command, "--steps", "2", "--json")
    assert result.exit_code == 1
    *made, failed = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["prompt"], one["duration_s"], one["steps"]) for one in made] == [
        ("dog", 0.5, 2),
        ("rain", 1.0, 1),
        ("sea", 1.0, 2),
    ]
    assert made[2]["negative_prompt"] == "music"
    assert read_audio("dog-x.wav")[0].shape == (1, 8000)
    assert (
        failed["line"] == 4
        and failed["prompt"] == "wind"
        and "duration is 5000" in failed["reason"]
    )
    assert "columns without effect: mood\n" in result.stderr
    again = run(*command, "--steps", "2")
    assert "already there and skipped: 3" in again.stderr


def test_a_list_in_another_encoding(run, no_model):
    Path("list.txt").write_bytes("Möwen\n".encode("latin-1"))
    command = ("generate", "--prompts", "list.txt", "--dry-run", "--json")
    refused = run(*command)
    assert refused.exit_code == 2 and "--encoding" in refused.stderr
    shown = json.loads(run(*command, "--encoding", "latin-1").stdout)
    assert shown["sounds"][0]["prompt"] == "Möwen"


def test_too_long_a_list_is_refused(run, no_model):
    Path("list.txt").write_text("dog\n" * 100_001)
    result = run("generate", "--prompts", "list.txt", "--dry-run")
    assert result.exit_code == 2 and "list.txt: 100,001 sounds are too many" in result.stderr


def test_a_second_run_of_the_same_request_skips_what_the_first_has_made(run, monkeypatch):
    """The other one writes between the look and the writing, or before the sound is begun."""
    command = ("generate", "--prompts", "-", "-o", "out", "--seed", "1", "--spectrogram", "out/")
    stdin = "dog\nrain\nwind\n"
    assert run(*command, stdin=stdin).exit_code == 0
    Path("out/manifest.jsonl").unlink()
    finished = {path: path.read_bytes() for path in Path("out").iterdir()}
    for path in finished:
        path.unlink()
    real = task.GenerateResult.save

    def save(self, path, **options):
        if "dog" in path.name:
            for name in ("dog", "rain"):
                for there, content in finished.items():
                    if name in there.name:
                        there.write_bytes(content)
        real(self, path, **options)

    monkeypatch.setattr(task.GenerateResult, "save", save)
    result = run(*command, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    statuses = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert statuses == ["skipped", "skipped", "made"]
    Path("out/manifest.jsonl").unlink()
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == finished


def test_leftovers_of_a_killed_run_are_cleared(run):
    Path("out").mkdir()
    Path("out/.0123456789abcdef.part").write_bytes(b"half a sound")
    assert run("generate", "dog", "-o", "out/").exit_code == 0
    assert os.listdir("out") == ["dog.wav"]


def test_the_end_of_a_pipe_is_no_failure(tiny_checkpoint, tmp_path):
    command = f"generate --prompts - --seed 1 --model {tiny_checkpoint} --device cpu -o out/"
    process = subprocess.Popen(
        [sys.executable, "-m", "auffusion_cli", *command.split()],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    process.stdin.write("dog\nrain\n")
    process.stdin.close()
    assert "failed" not in process.stderr.read() and process.wait() == 141
    assert sorted(os.listdir(tmp_path / "out")) == ["00001-dog.wav", "manifest.jsonl"]


def test_prompts_that_begin_alike_get_names_of_their_own(run, no_model):
    long = "a very long prompt " * 5
    result = run("generate", long + "dog", long + "rain", "-o", "out/", "--json", "--dry-run")
    assert result.exit_code == 0, result.output
    files = [sound["file"] for sound in json.loads(result.stdout)["sounds"]]
    assert [file[:15] for file in files] == ["out/00001-a-ver", "out/00002-a-ver"]


def test_prompts_as_arguments_go_on_where_they_were_stopped(run):
    command = ("generate", "dog", "rain", "-n", "2", "-o", "out", "--seed", "3")
    assert run(*command).exit_code == 0
    Path("out/rain-1.wav").unlink()
    before = Path("out/dog-1.wav").read_bytes()
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert again.stdout == "out/rain-1.wav\n" and "already there and skipped: 3" in again.stderr
    assert Path("out/dog-1.wav").read_bytes() == before

    other_seed = run(*command[:-1], "4")
    assert other_seed.exit_code == 2 and "out/dog-1.wav exists and is not" in other_seed.stderr
    no_seed = run(*command[:-2])
    assert no_seed.exit_code == 2 and "out/dog-1.wav exists (and 3 more)" in no_seed.stderr


def test_a_sound_whose_picture_is_missing_is_not_finished(run):
    command = ("generate", "dog", "-o", "dog.wav", "--seed", "1")
    assert run(*command).exit_code == 0
    result = run(*command, "--spectrogram", "dog.png")
    assert result.exit_code == 2 and "not its spectrogram dog.png" in result.stderr


def test_a_file_is_skipped_for_its_content_not_for_its_name(run, no_model):
    Path("out").mkdir()
    write_audio(Path("out/00001-dog.wav"), np.zeros((1, 1600)), 16000)
    result = run("generate", "--prompts", "-", "-o", "out", stdin="dog\n")
    assert result.exit_code == 2
    assert "is not from the same request as" in result.stderr


def test_a_list_with_other_settings_does_not_take_the_old_files_for_its_own(run):
    arguments = ("generate", "--prompts", "-", "-o", "out", "--seed", "1")
    assert run(*arguments, stdin="dog\n").exit_code == 0
    assert run(*arguments, "--steps", "3", stdin="dog\n").exit_code == 2
    assert run(*arguments[:-1], "2", stdin="dog\n").exit_code == 2
    assert run(*arguments, "--steps", "3", "--overwrite", stdin="dog\n").exit_code == 0
    assert read_provenance(Path("out/00001-dog.wav"))["steps"] == 3


def test_a_file_that_was_changed_since_is_not_taken_for_finished(run):
    command, stdin = ("generate", "--prompts", "-", "-o", "out", "--seed", "1"), "dog\n"
    assert run(*command, stdin=stdin).exit_code == 0
    path = Path("out/00001-dog.wav")
    record = read_provenance(path)
    write_audio(path, read_audio(path)[0] / 10, 16000, provenance=record)
    result = run(*command, stdin=stdin)
    assert result.exit_code == 2 and "dog.wav was changed after it was made" in result.stderr


def test_a_csv_names_files_by_its_columns_and_cannot_lead_out_of_the_folder(run):
    Path("list.csv").write_text("id,caption,seed\n../../evil,dog,5\nb,rain,\n")
    result = run("generate", "--prompts", "list.csv", "-o", "out/{id}.wav", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir("out")) == ["b.wav", "evil.wav", "manifest.jsonl"]
    assert read_provenance(Path("out/evil.wav"))["seed"] == 5
    assert read_provenance(Path("out/b.wav"))["seed"] == line_seed(1, 3)


def test_one_file_that_cannot_be_written_does_not_stop_a_list(run, monkeypatch):
    real = task.GenerateResult.save

    def save(self, path, **options):
        if "rain" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        real(self, path, **options)

    monkeypatch.setattr(task.GenerateResult, "save", save)
    result = run("generate", "--prompts", "-", "-o", "out", stdin="dog\nrain\nbirds\n")
    assert result.exit_code == 1
    assert sorted(os.listdir("out")) == ["00001-dog.wav", "00003-birds.wav", "manifest.jsonl"]
    assert "line 2: [Errno 13] Permission denied" in result.stderr


def test_a_full_disk_stops_a_list_at_once(run, monkeypatch):
    def write(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    result = run("generate", "--prompts", "-", "-o", "out", stdin="dog\nrain\n")
    assert result.exit_code == 1
    assert result.stderr.lower().count("no space left") == 1


def test_what_will_be_cut_from_a_long_prompt_is_shown_before_a_model_is_loaded(run, no_model):
    result = run("generate", "dog " * 100 + "and a whistle", "rain", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning") == 1
    assert result.stderr.rstrip().endswith("dog dog and a whistle'")


def test_a_negative_prompt_without_guidance_is_told(run, no_model):
    for guidance, n_told in (("1", 1), ("1.5", 0)):
        options = ("--negative", "rain", "--guidance", guidance, "--dry-run")
        result = run("generate", "dog", *options)
        assert result.exit_code == 0 and result.stderr.count("has no effect") == n_told


def test_of_a_very_long_prompt_only_the_ends_are_shown(run, no_model):
    result = run("generate", "dog " * 2_000 + "and a whistle", "--seed", "1", "--dry-run")
    (warning,) = [line for line in result.stderr.splitlines() if "longer" in line]
    assert len(warning) < 250 and " … " in warning and warning.endswith("and a whistle'")


def test_what_the_model_cannot_read_is_shown_before_a_model_is_loaded(run, no_model):
    prompts = ("rain 🐸🌧 and 雨", "dog barking")
    result = run("generate", *prompts, "--dry-run", model="embedded")
    assert result.exit_code == 0, result.output
    (warning,) = [line for line in result.stderr.splitlines() if "cannot read" in line]
    assert "cannot read '🐸🌧 雨' in the prompt 'rain 🐸🌧 and 雨'" in warning


@pytest.fixture
def knowing_checkpoint(tiny_checkpoint, tmp_path):
    """The tiny checkpoint with a vocabulary: a dog and rain, a background, word for word."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "knowing")
    kinds = ("dog barking", "rain")
    sentences = sentences_of(TextPart(folder, device="cpu").conditioner, kinds)
    of_background = frozenset({"rain"})
    save_vocabulary(Vocabulary(kinds, sentences, np.array([0, 1]), 0.999, of_background), folder)
    return folder


def test_words_that_the_model_does_not_know_are_told_with_the_nearest(
    run, no_model, knowing_checkpoint
):
    prompts = ("rain and a theremin", "dog barking", "a theremin")
    result = run("generate", *prompts, "--dry-run", "--json", model=str(knowing_checkpoint))
    assert result.exit_code == 0, result.output
    (warning,) = [line for line in result.stderr.splitlines() if "does not know" in line]
    assert "'a theremin'; nearest: " in warning and "dog barking" in warning
    assert "`auffusion models kinds WORD` searches" in result.stderr
    first, known, third = json.loads(result.stdout)["sounds"]
    assert "unknown_words" not in known
    (words,) = first["unknown_words"]
    assert words["words"] == "a theremin" and set(words["nearest"]) == {"dog barking", "rain"}
    assert third["unknown_words"] == [words]


@pytest.mark.parametrize(
    ("trigger", "told"),
    [("A Theremin", []), ("bell", ["a theremin"]), (None, ["a theremin"])],
)
def test_what_a_lora_is_called_by_is_known(run, no_model, knowing_checkpoint, trigger, told):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    matrices = {layer: (torch.ones(2, 32), torch.ones(32, 2))}
    save_lora(matrices, Path("a.safetensors"), trigger=trigger, base="x")
    arguments = ("a theremin", "--lora", "a.safetensors", "--dry-run", "--json")
    result = run("generate", *arguments, model=str(knowing_checkpoint))
    assert result.exit_code == 0, result.output
    (sound,) = json.loads(result.stdout)["sounds"]
    assert [each["words"] for each in sound.get("unknown_words", ())] == told
    assert ("does not know 'a theremin', but a LoRA may; nearest" in result.stderr) == bool(told)


@pytest.mark.parametrize(
    ("prompt", "made_of", "layers", "in_order"),
    [
        (
            "dog barking and rain",
            "dog barking from 0.4 s, rain at -12 dB",
            [("dog barking", 0.4, 0.0), ("rain", 0.0, -12.0)],
            False,
        ),
        (
            "rain after dog barking",
            "dog barking, then rain from 0.5 s",
            [("dog barking", 0.0, 0.0), ("rain", 0.5, 0.0)],
            True,
        ),
    ],
)
def test_a_dry_run_shows_what_several_sounds_are_made_of(
    run, no_model, knowing_checkpoint, prompt, made_of, layers, in_order
):
    command = ("generate", "dog barking", prompt, "--dry-run")
    result = run(*command, model=str(knowing_checkpoint))
    *_, header, one, several = result.stdout.splitlines()
    assert header.endswith("  MADE OF") and one.endswith("  dog barking")
    assert several.endswith(f"{prompt}  {made_of}")
    one, several = json.loads(run(*command, "--json", model=str(knowing_checkpoint)).stdout)[
        "sounds"
    ]
    assert "layers" not in one and several["in_order"] is in_order
    found = [(each["prompt"], each["enters_s"], each["gain_db"]) for each in several["layers"]]
    assert found == layers


def test_of_a_long_list_some_prompts_are_checked_for_unknown_words(
    run, no_model, knowing_checkpoint, monkeypatch
):
    monkeypatch.setattr("auffusion_cli.cli.resolve.MAX_CHECKED_PROMPTS", 2)
    result = run("generate", "ant", "bee", "cat", "--dry-run", model=str(knowing_checkpoint))
    assert "2 of the prompts are checked for unknown words" in result.stderr
    assert len([line for line in result.stderr.splitlines() if "does not know" in line]) == 2


def test_json_tells_unknown_words_of_what_was_made_and_of_its_timeline(
    run, tiny_model, knowing_checkpoint, monkeypatch
):
    monkeypatch.setattr("auffusion_cli.checkpoints.load.load_model", lambda *a, **k: tiny_model)
    options = ("--seed", "1", "--json", "--timeline", "0-0.5s a theremin; 0.5-1s dog barking")
    result = run("generate", "rain", *options, model=str(knowing_checkpoint))
    assert result.exit_code == 0, result.output
    (words,) = json.loads(result.stdout)["unknown_words"]
    assert words["words"] == "a theremin"


def test_play_needs_a_player_before_anything_else(run, no_model, monkeypatch):
    monkeypatch.setattr(play.shutil, "which", lambda name: None)
    result = run("generate", "dog", "--play")
    assert result.exit_code == 2
    assert "ffplay" in result.stderr


def test_play_gives_the_file_to_the_player(run, tmp_path, monkeypatch):
    player = tmp_path / "bin" / "afplay"
    player.parent.mkdir()
    player.write_text('#!/bin/sh\necho "$1" > played\n')
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(player.parent))
    assert run("generate", "dog", "-o", "dog.wav", "--play").exit_code == 0
    assert Path("played").read_text().strip() == str(tmp_path / "dog.wav")
    player.write_text("#!/bin/sh\necho no sound card >&2\nexit 3\n")
    result = run("generate", "dog", "-o", "dog2.wav", "--play")
    assert result.exit_code == 1
    assert "no sound card" in result.stderr and Path("dog2.wav").exists()


@pytest.mark.parametrize("plan", [[], ["--dry-run"]])
def test_a_scheduler_that_the_model_cannot_take_is_refused_before_it_is_loaded(
    tiny_checkpoint, tmp_path, plan
):
    arguments = ["generate", "rain", "--model", str(tiny_checkpoint), "-o", str(tmp_path / "a.wav")]
    result = CliRunner().invoke(build_app(), [*arguments, "--scheduler", "pingpong", *plan])
    assert result.exit_code == 2 and not result.stdout
    assert "--scheduler pingpong cannot follow this checkpoint's schedule" in result.stderr
    assert "loading" not in result.stderr and "seed" not in result.stderr


def test_neither_import_nor_help_nor_refusals_import_torch(tmp_path):
    script = """
import sys
import auffusion_cli
assert "generate" in dir(auffusion_cli) and auffusion_cli.AuffusionError
from auffusion_cli.cli.app import build_app
app = build_app()
for arguments in (["--help"], ["generate", "--help"], ["generate", "", "--model", "x"]):
    try:
        app(arguments)
    except SystemExit:
        pass
heavy = {"torch", "diffusers", "transformers", "torchaudio"} & sys.modules.keys()
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
