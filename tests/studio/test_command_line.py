"""The command line to copy asks for what the record says: it is parsed by the command itself."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.studio.asks import read_ask
from auffusion_cli.studio.command_line import command_line


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
        {"prompt": "rain", "seed": 7, "steps": 9, "guidance_scale": 2.5, "scheduler": "euler"},
    ],
)
def test_of_sounds_from_words(body, tiny_model, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask = read_ask("generate", body)
    settings = ask.settings(tiny_model.defaults, ask.duration_s)
    (request,) = ask.requests()
    record = model_record(tiny_model, request, settings, tiny_checkpoint)
    resolved, sound = planned(command_line(record, "out.wav", None, tiny_model.defaults))
    assert resolved["guards"] is False  # it is this seed's sound that is wanted
    assert sound["file"] == "out.wav" and compared(record).items() <= (resolved | sound).items()


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("inpaint", {"masks": ["0.2-0.4s", "0.6-0.7"], "bands": ["1000-2000"], "prompt": "rain"}),
        ("inpaint", {"bands": ["4k-"], "crossfade_s": 0.05, "resample": 2, "scheduler": "ddim"}),
        ("extend", {"by_s": 1.25, "where": "before", "negative_prompt": "wind"}),
        ("extend", {"by_s": 0.5, "where": "loop", "crossfade_s": 0.2}),
        ("extend", {"by_s": 0.5, "prompt": "-rain"}),
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
    resolved, sound = planned(command_line(record, "out.wav", recording_file, tiny_model.defaults))
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
    body = {"rate_hz": 44100, "channels": 2, "loudness_lufs": -16.5, "fade_out_s": 0.05}
    ask = read_ask("finish", {"source": "0" * 12, "broadcast": True, **body})
    record = {"task": "finish", "prompt": "rain", "finish": ask.finish().to_dict()}
    command = command_line(record, "out.wav", recording_file, tiny_model.defaults)
    result = CliRunner().invoke(
        build_app(), [*shlex.split(command)[1:], "--dry-run", "--json", "--overwrite"]
    )
    plan = json.loads(result.stdout)
    assert plan["finish"] == record["finish"] == {"broadcast": True, **body}
    assert plan["sounds"][0]["source"] == recording_file.name
