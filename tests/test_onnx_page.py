"""The Python and the JavaScript of docs/onnx.md make a sound; the first without torch.

The second needs Node.js and `npm install --global onnxruntime-web`, or it is skipped.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.checkpoints.text import load_tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "onnx.md"
FROM_DISK = """
import { readFile, writeFile } from "node:fs/promises";
globalThis.fetch = async (path) => new Response(await readFile(path));
"""
"""What a server does for a browser."""


def shown(language):
    page = PAGE.read_text("utf-8")
    [code] = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return code


def test_the_shown_python_makes_a_sound(tmp_path):
    code = shown("python")
    (tmp_path / "model").symlink_to(embedded_folder())
    code += '\nimport sys\nassert not {"torch", "diffusers", "transformers"} & sys.modules.keys()\n'
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    samples, rate_hz = soundfile.read(tmp_path / "dog.wav")
    assert (len(samples), rate_hz) == (512 * 160, 16_000)
    assert np.abs(samples).max() > 0.99 and np.std(samples) > 0.01


@pytest.fixture
def node_modules():
    """The folder of the packages that are installed for all of Node.js."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no Node.js")
    root = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, check=True)
    folder = Path(root.stdout.strip())
    if not (folder / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web")
    return folder


def test_the_shown_javascript_makes_a_sound(tmp_path, node_modules):
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / "model").symlink_to(embedded_folder())
    code = FROM_DISK + shown("js") + 'await writeFile("dog.f32", sound);\n'
    (tmp_path / "dog.mjs").write_text(code, "utf-8")
    done = subprocess.run(
        ["node", "dog.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    samples = np.fromfile(tmp_path / "dog.f32", "<f4")
    assert len(samples) == 512 * 160
    assert np.abs(samples).max() == 1 and np.std(samples) > 0.01


def test_the_tokens_of_the_javascript_are_those_of_its_prompt():
    [(numbers, prompt)] = re.findall(r"tokens = \[([\dn, ]+)\]; // (.*)", PAGE.read_text("utf-8"))
    rules = load_tokenizer(embedded_folder() / "text_encoder_0").rules
    assert [int(number.strip(" n")) for number in numbers.split(",")] == rules.encode(prompt).ids
