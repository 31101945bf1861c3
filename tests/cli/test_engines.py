"""Both engines through the commands: the same sounds, and torch only where it is needed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.cli.app import build_app
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.sound_file import read_record
from auffusion_cli.tasks.generate import generate

WITHOUT_TORCH = """
import sys
from auffusion_cli.cli.app import main

COMMANDS = [
    "generate dog_barking_in_rain --seed 1 --steps 2 --device cpu -o a.wav",
    "generate --prompts list.txt --seed 1 --steps 2 --device cpu -o many",
    "generate rain>thunder --seed 1 --steps 2 --duration 6 --device cpu -o long.wav",
    "inpaint a.wav --mask 1s-2s --prompt thunder --seed 1 --steps 2 --device cpu -o b.wav",
    "extend a.wav --by 1s --seed 1 --steps 2 --device cpu -o c.wav",
    "style-transfer a.wav thunder --seed 1 --steps 4 --device cpu -o d.wav",
    "finish a.wav --loudness -20 --rate 48k --channels 2 --broadcast -o e.wav",
    "mix a.wav --under rain --seed 1 --steps 2 --device cpu -o f.wav",
    "generate rain --seed 1 --best-of 2 --loop --steps 2 --device cpu -o g.wav",
    "reproduce b.wav",
    "generate dog_barking_in_rain --seed 1 --dry-run --device cpu",
    "inpaint a.wav --mask 1s-2s --prompt thunder --dry-run --device cpu",
    "sweep rain --steps 1,2 --dry-run --device cpu",
    "info a.wav",
]
for command in COMMANDS:
    sys.argv = ["auffusion", *(word.replace("_", " ") for word in command.split())]
    try:
        main()
    except SystemExit as exit:
        assert not exit.code, (command, exit.code)
heavy = {"torch", "torchaudio", "transformers", "diffusers", "accelerate", "scipy"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def run(*words: object):
    return CliRunner().invoke(build_app(), list(map(str, words)))


def test_from_words_to_a_file_torch_is_not_imported(tmp_path):
    (tmp_path / "list.txt").write_text("rain\nthunder\n")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name for path in tmp_path.rglob("*.wav")}
    assert {"a.wav", "b.wav", "c.wav", "d.wav", "long.wav", "00001-rain.wav"} <= made
    engines = {path.name: read_record(path).engine for path in tmp_path.rglob("*.wav")}
    assert engines.pop("e.wav") == "none" and set(engines.values()) == {"onnx"}


@pytest.fixture(scope="module")
def both():
    """The embedded model in torch and in ONNX Runtime."""
    return [load_model("embedded", device="cpu", engine=name) for name in ("torch", "onnx")]


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ({"negative_prompt": "wind"}, {}),
        ({}, {"guidance_scale": 1.0, "scheduler": "euler"}),
        ({}, {"duration_s": 7.0, "steps": 4, "scheduler": "pndm", "windows_at_once": 1}),
        ({}, {"duration_s": 7.0, "steps": 4, "guidance_rescale": 0.5}),
    ],
)
def test_one_seed_is_one_sound_in_both_engines(both, words, settings):
    request = GenerateRequest("dog barking in rain", seed=7, **words)
    asked = GenerateSettings.from_defaults(both[0].defaults, **({"steps": 8} | settings))
    torchs, onnxs = (next(generate(model, [request], asked)) for model in both)
    np.testing.assert_allclose(onnxs.log_mel, torchs.log_mel, rtol=0, atol=1e-3)
    np.testing.assert_allclose(onnxs.waveform, torchs.waveform, rtol=0, atol=1e-3)
    assert (onnxs.provenance.engine, torchs.provenance.engine) == ("onnx", "torch")
    assert "onnxruntime" in onnxs.provenance.versions
    assert "torch" not in onnxs.provenance.versions


def test_a_sound_is_made_again_by_the_engine_that_made_it(tmp_path):
    path = tmp_path / "a.wav"
    words = ("generate", "rain", "--seed", 1, "--steps", 2, "--device", "cpu", "-o", path)
    assert run(*words, "--engine", "torch").exit_code == 0
    again = run("reproduce", path, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["identical"]
    record = read_record(path)
    assert record.engine == "torch"
    older = {name: value for name, value in record.to_dict().items() if name != "engine"}
    assert type(record).from_dict(older).engine == "torch"
    assert soundfile.info(path).frames


def test_the_engine_is_told(tmp_path):
    plan = json.loads(run("generate", "rain", "--seed", 1, "--dry-run", "--json").stdout)
    assert (plan["settings"]["engine"], plan["settings"]["engine_reason"]) == ("onnx", None)
    words = ("generate", "rain", "--seed", 1, "--steps", 1, "-o", tmp_path / "a.wav")
    forced = run(*words, "--dtype", "bf16")
    assert forced.exit_code == 0
    assert "loading embedded with torch: --dtype bf16 needs it" in forced.stderr
    refused = run(*words, "--dtype", "bf16", "--engine", "onnx", "--overwrite")
    assert refused.exit_code == 2 and "computes in fp32, not bf16" in refused.stderr


def test_a_checkpoint_without_graphs(tiny_checkpoint, tmp_path):
    words = ("generate", "rain", "--seed", 1, "-m", tiny_checkpoint, "-o", tmp_path / "a.wav")
    plan = json.loads(run(*words, "--dry-run", "--json").stdout)
    assert plan["settings"]["engine"] == "torch"
    assert "no graphs" in plan["settings"]["engine_reason"]
    refused = run(*words, "--engine", "onnx")
    assert refused.exit_code == 1 and "model.onnx: missing" in refused.stderr
    assert "models convert --to onnx" in refused.stderr
