"""The measurement of LoRAs, on sounds that say what they are."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.evaluation.tagger import Tagger
from auffusion_cli.training.data import load_clips

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import measure_lora


def test_the_clips_can_be_trained_on_and_differ(tmp_path):
    measure_lora.write_clips(SimpleNamespace(output=tmp_path))
    of_split = [load_clips(tmp_path / split).clips for split in ("train", "test")]
    assert [len(clips) for clips in of_split] == [10, 10]
    assert {clip.kind for clips in of_split for clip in clips} == {"theremin"}
    one, other = (measure_lora.theremin(seed) for seed in (0, 1000))
    assert not np.array_equal(one[:100], other[:100])
    assert np.abs(one).max() <= 0.5 and 4 <= len(one) / measure_lora.RATE_HZ <= 5


def test_a_tagger_guesses_and_embeds_each_sound():
    tagger = Tagger(["a", "b"]).eval()
    tagger.head[1].weight.data.zero_()
    tagger.head[1].bias.data[:] = tagger.head[1].bias.new_tensor([0.0, 1.0])
    noise = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    guesses, embeddings = measure_lora.judge(tagger, [noise, noise[:20_000]])
    assert guesses == ["b", "b"]
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1)


def test_what_is_learned_and_what_is_lost_is_counted(tmp_path, monkeypatch):
    """Sounds are names: the LoRA brings the theremin, and costs one kind of two."""
    measure_lora.write_clips(SimpleNamespace(output=tmp_path))
    places = {"dog": (1, 0, 0), "light_rain": (0, 1, 0), "theremin": (0, 0, 1)}
    asked = []

    def load_model(engine, loras):
        return SimpleNamespace(defaults=GenerationDefaults(), has_lora=bool(loras))

    def generate(model, requests, settings):
        for request in requests:
            asked.append((request.prompt, request.seed, settings.steps))
            made = request.prompt.replace(" ", "_")
            lost = "light_rain" if model.has_lora else "theremin"
            yield SimpleNamespace(waveform="dog" if made == lost else made)

    def judge(tagger, sounds):
        names = [sound if isinstance(sound, str) else "theremin" for sound in sounds]
        return names, np.array([places[name] for name in names], float)

    monkeypatch.setattr(measure_lora, "load_model", load_model)
    monkeypatch.setattr(measure_lora, "generate", generate)
    monkeypatch.setattr(measure_lora, "judge", judge)
    monkeypatch.setattr(
        measure_lora, "load_tagger", lambda folder: SimpleNamespace(kinds=("dog", "light_rain"))
    )
    output = tmp_path / "out.json"
    options = SimpleNamespace(
        **{"classifier": None, "kinds": 118, "held_out": tmp_path / "test", "lora": "x"},
        **{"sounds": 2, "new": 3, "steps": 2, "without": None, "output": output},
    )
    measure_lora.measure(options)
    result = json.loads(output.read_text())
    assert result["kinds"] == 2
    without, with_lora = result["without"], result["with"]
    assert (without["old_top1"], with_lora["old_top1"]) == (1, 0.5)
    assert (without["new_nearest_to_real"], with_lora["new_nearest_to_real"]) == (0, 1)
    assert asked[:7] == asked[7:] and {steps for _, _, steps in asked} == {2}
    assert asked[:4] == [(("dog", "light rain")[i % 2], i, 2) for i in range(4)]

    options.without, options.output = output, tmp_path / "again.json"
    measure_lora.measure(options)
    assert json.loads(options.output.read_text()) == result
    assert len(asked) == 3 * 7
    options.sounds = 1
    with pytest.raises(SystemExit, match="is not of"):
        measure_lora.measure(options)


def test_a_difference_has_the_scatter_of_kinds():
    before = np.array([[True, True, True, False], [True, True, False, False]])
    after = np.array([[True, False, True, False], [True, False, False, False]])
    found = measure_lora.difference(before, after)
    # Of the kinds 0, -1, 0, 0: a standard deviation of 1/2, and half of that of their mean.
    assert found["mean"] == pytest.approx(-0.25)
    assert found["high"] - found["mean"] == pytest.approx(1.96 / 4, rel=1e-4)
    assert found["mean"] - found["low"] == pytest.approx(1.96 / 4, rel=1e-4)
