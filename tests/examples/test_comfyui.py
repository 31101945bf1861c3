"""The ComfyUI nodes, over a studio that listens."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auffusion_cli.signal.sound_file import read_record

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def nodes(monkeypatch):
    """As ComfyUI imports them: the folder is a package."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import comfyui

    yield comfyui.NODE_CLASS_MAPPINGS
    for name in ("comfyui", "comfyui.nodes"):
        sys.modules.pop(name, None)


def run(node, **values):
    """As ComfyUI runs it, with the defaults of what is not given."""
    inputs = node.INPUT_TYPES()
    assert set(values) <= set(inputs["required"]) | set(inputs["optional"])
    (audio,) = getattr(node(), node.FUNCTION)(**values)
    assert node.RETURN_TYPES == ("AUDIO",)
    return audio


def test_a_sound_is_made_and_a_part_of_it_anew(nodes, address, sounds):
    generated = run(
        nodes["AuffusionGenerate"], words="rain", seed=5, duration_s=0.8, server=address
    )
    assert generated["sample_rate"] == 16000 and generated["waveform"].shape == (1, 1, 12800)
    stereo = {"waveform": generated["waveform"].repeat(1, 2, 1), "sample_rate": 16000}
    asked = {"words": "a quiet dog", "seed": 1, "time": "0.2-0.4s", "server": address}
    filled = run(nodes["AuffusionInpaint"], audio=stereo, band="1000-2000", **asked)
    assert filled["waveform"].shape == (1, 2, 12800)
    changed = ~torch.isclose(filled["waveform"], stereo["waveform"], atol=1e-6)
    assert changed[..., 3200:6400].any() and not changed[..., :3199].any()
    (path,) = sounds.glob("a-quiet-dog*.wav")
    request = read_record(path).request
    assert (request.masks, request.bands) == (("0.2-0.4s",), ("1000-2000",))


def test_what_fails_is_told(nodes, address):
    with pytest.raises(RuntimeError, match="the prompt is empty"):
        run(nodes["AuffusionGenerate"], words="", seed=5, duration_s=0.8, server=address)
    with pytest.raises(RuntimeError, match="start `auffusion studio`"):
        run(
            nodes["AuffusionGenerate"],
            words="a",
            seed=5,
            duration_s=1.0,
            server="http://127.0.0.1:9",
        )


def test_sounds_of_comfyui_survive_as_wav(nodes):
    from comfyui.nodes import from_wav, to_wav

    samples = np.random.default_rng(0).integers(-32768, 32768, (2, 500))
    waveform = torch.from_numpy(samples / np.float32(32768)).float()[None]
    back = from_wav(to_wav({"waveform": waveform, "sample_rate": 44100}))
    assert back["sample_rate"] == 44100 and torch.equal(back["waveform"], waveform)
