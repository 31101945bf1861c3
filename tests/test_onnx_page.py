"""The Python of docs/onnx.md makes a sound, without torch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.checkpoints.text import load_tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "onnx.md"


def test_the_shown_python_makes_a_sound(tmp_path):
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "model").symlink_to(embedded_folder())
    code += '\nimport sys\nassert not {"torch", "diffusers", "transformers"} & sys.modules.keys()\n'
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    samples, rate_hz = soundfile.read(tmp_path / "dog.wav")
    assert (len(samples), rate_hz) == (512 * 160, 16_000)
    assert np.abs(samples).max() > 0.99 and np.std(samples) > 0.01


def test_the_tokens_of_the_javascript_are_those_of_its_prompt():
    [(numbers, prompt)] = re.findall(r"tokens = \[([\dn, ]+)\]; // (.*)", PAGE.read_text("utf-8"))
    rules = load_tokenizer(embedded_folder() / "text_encoder_0").rules
    assert [int(number.strip(" n")) for number in numbers.split(",")] == rules.encode(prompt).ids
