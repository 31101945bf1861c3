"""The command line to copy asks for what the record says: it is parsed by the command itself."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.studio.asks import read_ask
from auffusion_cli.studio.command_line import Loaded, command_line


def planned(command):
    words = shlex.split(command)
    assert words[0] == "auffusion"
    result = CliRunner().invoke(build_app(), [words[1], "--dry-run", "--json", *words[2:]])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    return plan["settings"], plan["sounds"][0]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "rain", "seed": 7},
        {"prompt": 'it\'s "rain" $HOME; rm', "seed": 2**62, "negative_prompt": "wind"},
        {"prompt": "-n", "seed": 7, "trim": False, "duration_s": 0.123456789},
        {"prompt": "rain", "seed": 7, "near_seed": 2**60, "nearness": 0.35},
        {"prompt": "a coin", "seed": 7, "one_shot": True, "duration_s": 1.0},
        {"prompt": "rain", "seed": 7, "loop": True, "duration_s": 1.0},
        {"prompt": "wind", "seed": 7, "timeline": "0-0.5s a dog; 0.5-1s rain", "duration_s": 1.0},
        {"seed": 7, "timeline": "0-0.75s a dog; 0.5-1s it's -rain"},
        {"prompt": "rain", "seed": 7, "steps": 9, "guidance_scale": 2.5, "scheduler": "euler"},
    ],
)
def test_of_sounds_from_words(body, tiny_model, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask = read_ask("generate", body)
    settings = ask.settings(tiny_model.defaults, ask.lasting_s())
    (request,) = ask.requests()
    record = model_record(tiny_model, request, settings, tiny_checkpoint)
    resolved, sound = planned(command_line(record, "out.wav", None, Loaded(tiny_model.defaults)))
    assert resolved["guards"] is False  # it is this seed's sound that is wanted
    assert sound["file"] == "out.wav"
    shown = compared(record)
    if shown.pop("timeline", None):
        assert sound["timeline"] == record["timeline"]
    assert shown.items() <= (resolved | sound).items()


def test_it_asks_for_the_model_that_the_studio_has(tiny_model, tiny_checkpoint):
    ask = read_ask("generate", {"prompt": "rain", "seed": 7})
    (request,) = ask.requests()
    settings = ask.settings(tiny_model.defaults, 1.0)
    record = model_record(tiny_model, request, settings, tiny_checkpoint)
    record["loras"] = [{"file": "bells.safetensors", "sha256": "a" * 64, "weight": 0.8}]
    paths = {"a" * 64: "/my loras/bells.safetensors"}
    loaded = Loaded(tiny_model.defaults, paths, ("--engine", "torch"))
    words = shlex.split(command_line(record, "out.wav", None, loaded))
    assert words[words.index("--lora") + 1] == "/my loras/bells.safetensors:0.8"
    assert words[words.index("--engine") + 1] == "torch"


def test_of_changed_words(client, finished, history, tiny_checkpoint, monkeypatch):
    job = finished("generate", prompt="a dog and a dog", seed=5, duration_s=0.8)
    (source,) = job["sounds"]
    job = finished("edit", source=source, swaps=["dog#2=big cat"], reweights=["dog=2"])
    (made,) = job["sounds"]
    sound = client.get(f"/v1/sounds/{made}").json()
    assert sound["title"] == "a dog and a big cat" and sound["parent"] == source
    command = sound["command"].replace("--model tiny", "")
    monkeypatch.chdir(history.folder)
    resolved, planned_sound = planned(f"{command} --model {shlex.quote(str(tiny_checkpoint))}")
    assert resolved["edited_prompt"] == sound["title"]
    shown = compared(sound["record"])
    assert {**shown, "model": str(tiny_checkpoint)}.items() <= (resolved | planned_sound).items()


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("inpaint", {"masks": ["0.2-0.4s", "0.6-0.7"], "bands": ["1000-2000"], "prompt": "rain"}),
        ("inpaint", {"bands": ["4k-"], "crossfade_s": 0.05, "resample": 2, "scheduler": "ddim"}),
        ("extend", {"by_s": 1.25, "where": "before", "negative_prompt": "wind"}),
        ("extend", {"by_s": 0.5, "where": "loop", "crossfade_s": 0.2}),
        ("extend", {"by_s": 0.5, "prompt": "-rain"}),
        ("extend", {"by_s": 0.5, "over_s": 0.25}),
        ("style-transfer", {"prompt": "a drum", "strength": 0.55, "steps": 9}),
        ("style-transfer", {"prompt": "a drum", "method": "inversion", "scheduler": "ddim"}),
    ],
)
def test_of_edits(task, body, tiny_model, tiny_checkpoint, recording_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask = read_ask(task, {"source": "0" * 12, "seed": 3, **body})
    from auffusion_cli.files import hash_file

    request = ask.request(recording_file.name, hash_file(recording_file))
    duration_s = 1.2 + (ask.by_s if task == "extend" else 0)
    settings = ask.settings(tiny_model.defaults, duration_s)
    record = model_record(tiny_model, request, settings, tiny_checkpoint)
    resolved, sound = planned(
        command_line(record, "out.wav", recording_file, Loaded(tiny_model.defaults))
    )
    assert not resolved.get("guards")
    assert compared(record).items() <= (resolved | sound).items()


def model_record(model, request, settings, checkpoint):
    """As the studio has it: with the folder as the model's name, from JSON."""
    import numpy as np

    record = model.provenance(request, settings, np.zeros(1, np.int16)).to_dict()
    return json.loads(json.dumps(record | {"model": str(checkpoint)}))


def compared(record):
    return {name: value for name, value in record.items() if name not in LEFT_OUT}


LEFT_OUT = ("format_version", "task", "samples_sha256", "versions", "revision", "engine")
"""Of a record: what no option asks for."""


def test_of_a_finished_sound(tiny_model, recording_file):
    body = {
        "low_cut_hz": 80.0,
        "rate_hz": 44100,
        "channels": 2,
        "loudness_lufs": -16.5,
        "fade_out_s": 0.05,
    }
    ask = read_ask("finish", {"source": "0" * 12, "broadcast": True, **body})
    record = {"task": "finish", "prompt": "rain", "finish": ask.finish().to_dict()}
    command = command_line(record, "out.wav", recording_file, Loaded(tiny_model.defaults))
    result = CliRunner().invoke(
        build_app(), [*shlex.split(command)[1:], "--dry-run", "--json", "--overwrite"]
    )
    plan = json.loads(result.stdout)
    assert plan["finish"] == record["finish"] == {"broadcast": True, **body}
    assert plan["sounds"][0]["source"] == recording_file.name
