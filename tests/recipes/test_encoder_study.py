"""The encoder study, on tiny random models: two cells of two steps."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from auffusion_cli.checkpoints.text import load_tokenizer
from auffusion_cli.checkpoints.text_encoders import load_text_encoder
from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.result import Evaluation
from auffusion_cli.signal.sound_file import read_record
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.encoding import SoundEncoder
from small_data import write_sound

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "encoder-study"))

import by_wording
import study as recipe
import test_set as composed
import word_vectors

PROMPTS = ("a dog barks", "rain and thunder")


@pytest.fixture
def study_file(tiny_checkpoint, tmp_path, monkeypatch) -> Path:
    """A study of the tiny checkpoint's own text encoder, and of the same without pretraining."""
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(PROMPTS):
        write_sound(tmp_path / "data" / f"{number}.wav", seed=number, duration_s=1.0)
        (tmp_path / "data" / f"{number}.txt").write_text(text)
        write_sound(tmp_path / "real" / f"{number}.wav", seed=10 + number, duration_s=1.0)
    rows = [("name", "prompt"), *((str(n), text) for n, text in enumerate(PROMPTS))]
    with (tmp_path / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    training = {
        "diffusion": {"init_from": str(tiny_checkpoint)},
        "scenes": {"duration_s": 1.28},
        "loop": {"batch_size": 2, "max_steps": 2, "checkpoint_every_steps": 1},
    }
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(training))
    encoder = {"path": str(tiny_checkpoint / "text_encoder_0"), "max_length": 8}
    content = {
        "training": "training.yaml",
        "data": "data",
        "prompts": "prompts.csv",
        "reference": "real",
        "attention": ["a dog barks"],
        "encoders": {"clip": encoder, "untrained": encoder | {"pretrained": False}},
        "cells": {"clip": ["clip"], "both": ["clip", "untrained"]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_study_trains_generates_measures_and_draws_and_is_not_made_twice(
    study_file, tmp_path, capsys, monkeypatch
):
    encoded, encode = [], SoundEncoder.__call__
    with monkeypatch.context() as patch:
        patch.setattr(SoundEncoder, "__call__", lambda *a: encoded.append(len(a[1])) or encode(*a))
        recipe.main([str(study_file), "-o", "out", "--device", "cpu"])
    assert encoded == [len(PROMPTS)]  # once for both cells
    folder = tmp_path / "out"
    for cell, n_encoders in (("clip", 1), ("both", 2)):
        conditions = json.loads((folder / "cells" / cell / "condition_config.json").read_text())
        assert len(conditions) == n_encoders
        sounds = sorted((folder / "sounds" / cell).glob("*.flac"))
        assert [sound.stem for sound in sounds] == ["0", "1"]
        assert read_record(sounds[1]).to_dict()["prompt"] == PROMPTS[1]
    result = Evaluation.load(folder / "results" / "embedded.json")
    assert [system.name for system in result.systems] == ["clip", "both"]
    assert result.systems[0].metric("KL-tagger", "2 events").n == 1
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("data:image/png") == 1 and "KL-tagger" in page
    capsys.readouterr()

    asked = []
    run = recipe.auffusion

    def listen(*arguments):
        asked.append(arguments[0])
        if arguments[0] != "evaluate":  # whose features would be computed again without a cache
            run(*arguments)

    monkeypatch.setattr(recipe, "auffusion", listen)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("sounds/*/*.flac")}
    recipe.main([str(study_file), "-o", "out", "--device", "cpu"])
    assert asked == ["generate", "generate", "evaluate"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_dry_run_says_the_hours_and_writes_nothing(study_file, tmp_path, capsys):
    recipe.main([str(study_file), "-o", "out", "--device", "cpu", "--dry-run"])
    printed = capsys.readouterr().out
    assert "clip + untrained" in printed and "hours for 2 cells" in printed
    assert not (tmp_path / "out").exists()


def test_without_pretraining_only_the_weights_differ(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint / "text_encoder_0"
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe.forget(str(source), tmp_path / name, seed)
    own, a, b, c = (
        load_text_encoder(folder, torch.float32).state_dict()
        for folder in (source, *(tmp_path / name for name in "abc"))
    )
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in a.items()}
    name = next(name for name in own if name.endswith("token_embedding.weight"))
    assert torch.equal(a[name], b[name])
    assert not torch.equal(a[name], own[name]) and not torch.equal(a[name], c[name])
    rules = [load_tokenizer(folder).rules for folder in (source, tmp_path / "a")]
    assert rules[0].encode("a dog").ids == rules[1].encode("a dog").ids


def test_a_cell_of_an_unknown_encoder_is_refused(study_file):
    content = yaml.safe_load(study_file.read_text())
    content["cells"]["other"] = ["clap"]
    study_file.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="other: no encoder is called 'clap'"):
        recipe.Study.read(study_file)


@pytest.mark.parametrize("name", ["embedded", "paper"])
def test_the_studies_and_their_settings_can_be_read(name, monkeypatch):
    folder = Path(recipe.__file__).parent
    monkeypatch.chdir(folder.parents[1])
    study = recipe.Study.read(folder / f"{name}.yaml")
    recipe.load_config(Path(study.training), {})
    assert any(len(encoders) > 1 for encoders in study.cells.values())
    assert any(not encoder.pretrained for encoder in study.encoders.values())


def test_word_vectors_are_looked_up(golden, tmp_path):
    tokenizer = golden / "tiny-auffusion" / "text_encoder_0"
    rules = load_tokenizer(tokenizer).rules
    vectors = torch.randn(rules.get_vocab_size(), 4, generator=torch.Generator().manual_seed(0))
    package, folder = tmp_path / "package", tmp_path / "encoder"
    for name in (word_vectors.WEIGHTS, word_vectors.RULES):
        (package / name).parent.mkdir(parents=True)
    folder.mkdir()
    save_file({"embedding.weight": vectors.half()}, package / word_vectors.WEIGHTS)
    rules.save(str(package / word_vectors.RULES))
    word_vectors.convert(package, folder)
    assert load_file(folder / "model.safetensors")["shared.weight"].dtype == torch.float32
    ids = load_tokenizer(folder).rules.encode("a dog").ids
    states = load_text_encoder(folder, torch.float32)(torch.tensor([ids])).last_hidden_state[0]
    rows = vectors.half().float()[ids]
    scale = rows.square().mean(dim=1, keepdim=True).sqrt()
    assert torch.allclose(states, rows / scale, atol=1e-4)


def test_the_test_set_has_prompts_of_one_to_three_kinds(tmp_path, monkeypatch):
    """Clips are constants: a sound is the sum of the layers that its prompt names."""
    levels = dict(zip("abcd", (1.0, 2.0, 4.0, 8.0), strict=True))
    kinds = {
        name: composed.Kind([n], [f"known {name}"], [f"new {name}"])
        for n, name in enumerate(levels)
    }

    def lay_alone(store, scenes, seed, clip):
        return SimpleNamespace(waveform=torch.full((1600,), list(levels.values())[clip]))

    written = {}
    monkeypatch.setattr(composed, "lay_alone", lay_alone)
    monkeypatch.setattr(
        composed, "write_audio", lambda path, sound, rate: written.update({path.stem: sound})
    )
    store = SimpleNamespace(sample_rate_hz=16000)
    scenes = SceneConfig(duration_s=1.28)
    assert composed.compose_all(tmp_path, store, scenes, kinds, (8, 8, 8), seed=0) == 24
    with (tmp_path / "prompts.csv").open() as file:
        prompts = {row["name"]: row["prompt"] for row in csv.DictReader(file)}
    assert set(prompts) == set(written)
    assert all(np.abs(sound).max() == pytest.approx(composed.PEAK) for sound in written.values())
    assert prompts["known-1-000"] == "known a" and prompts["new-1-004"] == "new a"
    of_three = prompts["new-3-007"]
    assert of_three.startswith("new d, new ") and of_three.count("new") == 3
    named = [word for word in of_three.replace(",", "").split() if word in levels]
    assert len(set(named)) == 3


def test_scores_are_split_by_wording_and_compared_by_prompt():
    """The second cell is 1 worse on every prompt in new words: an interval of one point."""

    def row(name, score):
        return SimpleNamespace(name=name, scores={"KL": score})

    names = {"known-1": 0.5, "known-2": 1.5, "new-1": 2.0, "new-2": 4.0}
    cells = {
        "a": [row(name, score) for name, score in names.items()],
        "b": [row(name, score + name.startswith("new")) for name, score in names.items()],
    }
    systems = [SimpleNamespace(name=name, rows=rows) for name, rows in cells.items()]
    lines = [line.split() for line in by_wording.table(SimpleNamespace(systems=systems))[1:]]
    assert [line[:4] for line in lines] == [
        ["KL", "known", "a", "1.00"],
        ["KL", "known", "b", "1.00"],
        ["KL", "new", "a", "3.00"],
        ["KL", "new", "b", "4.00"],
    ]
    assert lines[3][-4:] == ["1.00", "(1.00", "to", "1.00)"]
