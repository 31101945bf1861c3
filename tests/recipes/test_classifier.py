"""The classifier recipe learns to tell tones apart; the measurement asks, judges and counts."""

import json
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.tagger import Tagger
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.data import load_clips

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded"
sys.path.insert(0, str(RECIPE))

import classifier  # noqa: E402
import measure  # noqa: E402

RATE_HZ = 16000
KINDS = {"low": ("event", 200), "high": ("event", 3000), "hiss": ("background", 0)}
SCENES = SceneConfig(duration_s=1.28, kinds=tuple(KINDS), max_repeats=2, pitch_range=0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three kinds, three clips of each to train on and two held out."""
    folder = tmp_path_factory.mktemp("data")
    rng = torch.Generator().manual_seed(0)
    for split, n_clips in (("train", 3), ("test", 2)):
        (folder / split).mkdir()
        rows = []
        for kind, (role, frequency_hz) in KINDS.items():
            for index in range(n_clips):
                time_s = torch.arange(RATE_HZ // 2) / RATE_HZ
                tone = torch.sin(2 * torch.pi * frequency_hz * (1 + index / 30) * time_s)
                noise = torch.randn(len(time_s), generator=rng)
                waveform = 0.3 * tone if frequency_hz else 0.1 * noise
                name = f"{kind}_{index}.wav"
                soundfile.write(folder / split / name, waveform.numpy(), RATE_HZ)
                phrases = [f"{kind} sound", f"a {kind} sound"]
                rows.append(
                    {"file_name": name, "text": f"It is {kind}.", "phrases": phrases}
                    | {"kind": kind, "role": role}
                )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / split / "metadata.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The classifier's script, run on these clips."""
    folder = tmp_path_factory.mktemp("classifier")
    config = folder / "config.yaml"
    scenes = {"duration_s": 1.28, "kinds": list(KINDS), "max_repeats": 2, "pitch_range": 0.05}
    config.write_text(yaml.safe_dump({"stage": "diffusion", "scenes": scenes}))
    arguments = ["--data", data, "--kinds-from", config, "-o", folder / "out"]
    limits = ["--windows-per-kind", 16, "--max-steps", 300]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["classifier.py", *map(str, arguments + limits)])
        classifier.main()
    return folder / "out"


def test_held_out_tones_are_recognised(trained):
    report = json.loads((trained / "report.json").read_text())
    assert report["overall"]["n"] == 6
    assert report["overall"]["top1"] >= 5 / 6
    assert set(report["by_kind"]) == set(KINDS)
    assert report["n_steps"] == 300


def test_a_saved_classifier_is_the_same_again(trained, tmp_path):
    model, scenes = classifier.load_classifier(trained)
    assert model.kinds == tuple(KINDS)
    assert scenes == SCENES
    classifier.save_classifier(model, scenes, tmp_path)
    again, _ = classifier.load_classifier(tmp_path)
    features = torch.rand(2, 64, 128)
    assert torch.equal(model(features), again(features))


def test_training_stops_in_time():
    windows, labels = torch.rand(8, 64, 128).half(), torch.arange(8) % 2
    _, n_steps = classifier.train(windows, labels, ("a", "b"), 10**6, max_minutes=0.01, seed=0)
    assert n_steps < 1000


def test_features_know_no_level():
    noise = torch.randn(1, RATE_HZ, generator=torch.Generator().manual_seed(0))
    features = classifier.TaggerFeatures()
    loud, soft = features(noise * 0.5), features(noise * 0.05)
    assert loud.shape == (1, 64, 25)
    assert loud.max() == 1
    assert loud.min() >= 0
    assert torch.allclose(loud, soft, atol=1e-3)
    assert torch.equal(features(torch.zeros(1, RATE_HZ)), torch.ones(1, 64, 25))


def test_augmentation_stays_in_range_and_mixing_keeps_whole_targets():
    rng = torch.Generator().manual_seed(0)
    features = torch.rand(64, 64, 128, generator=rng)
    augmented = classifier.augment(features, rng)
    assert augmented.shape == features.shape
    assert (augmented == 0).any()
    targets = torch.eye(4).repeat(16, 1)
    mixed, shared = classifier.mix(features, targets, rng)
    assert torch.allclose(shared.sum(1), torch.ones(64))
    louder = (mixed != features).flatten(1).any(1)
    assert 5 < louder.sum() < 35  # 20 % of 64, a few of them with themselves
    assert (mixed >= features).all()


def test_accuracy_counts_firsts_and_fives():
    kinds = tuple("abcdefg")
    ranked = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 1, 6]])
    report = classifier.accuracy(ranked, torch.tensor([0, 1, 1]), kinds)
    overall = report["overall"]
    assert (overall["n"], overall["top1"], overall["top5"]) == (3, 1 / 3, 2 / 3)
    assert overall["top5_mean_over_kinds"] == 0.75
    assert set(report["by_kind"]) == {"a", "b"}
    assert report["confused"] == [{"kind": "b", "taken_for": "a", "times": 2}]


def test_interval_is_wilsons():
    # Known: 8 of 10 is 0.490 to 0.943.
    assert classifier.hit_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert classifier.hit_interval(0, 10)[0] == 0
    assert classifier.hit_interval(10, 10)[1] == 1


def test_phrases_are_asked_in_turn_with_a_seed_each(data):
    phrases = measure.phrases_by_kind(load_clips(data, "train").clips)
    assert phrases["low"] == ("low sound", "a low sound")
    requests = measure.kind_requests(phrases, ("low", "hiss"), per_kind=3, seed=7)
    prompts = ["low sound", "a low sound", "low sound", "hiss sound", "a hiss sound", "hiss sound"]
    assert [request.prompt for request in requests] == prompts
    assert [request.seed for request in requests] == list(range(7, 13))
    with pytest.raises(UsageError, match="bell"):
        measure.kind_requests(phrases, ("bell",), per_kind=1, seed=0)


def test_pairs_are_an_event_before_a_background(data):
    store = classifier.load_store(data, "test", tuple(KINDS))
    pairs = measure.compose_pairs(store, SCENES, n=2, seed=0)
    assert {scene.kinds for scene in pairs} == {("low", "hiss"), ("high", "hiss")}
    for scene in pairs:
        assert all(kind in scene.caption for kind in scene.kinds)


def test_sounds_made_by_formula_are_left_out(data, tmp_path):
    rows = (data / "test" / "metadata.jsonl").read_text().splitlines()
    made = json.loads(rows[0]) | {"source": "synthesised:low_000.flac"}
    (tmp_path / "test").mkdir()
    for path in (data / "test").glob("*.wav"):
        (tmp_path / "test" / path.name).symlink_to(path)
    lines = [json.dumps(made), *rows[1:]]
    (tmp_path / "test" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    whole = classifier.load_store(data, "test", tuple(KINDS))
    kept = classifier.load_store(tmp_path, "test", tuple(KINDS))
    names = [[clip.path.name for clip in store.clips] for store in (whole, kept)]
    assert sorted(set(names[0]) - set(names[1])) == [made["file_name"]]


def test_a_pair_is_recognised_when_both_are_near_and_one_is_first():
    kinds = tuple("abcdefg")
    judge = measure.Judge(Tagger(kinds))
    order = [0, 1, 2, 3, 4, 5, 6]
    asked = [("a", "b"), ("b", "c"), ("a", "g"), ("f", "g")]
    report = judge.accuracy_of_pairs(torch.tensor([order] * 4), asked)
    assert (report["both_among_5"], report["one_first"], report["recognised"]) == (0.5, 0.5, 0.25)


def test_measures_a_model(trained, data, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "measure.json"
    arguments = ["--model", tiny_checkpoint, "--data", data, "--classifier", trained]
    arguments += ["--per-kind", 2, "--pairs", 2, "--steps", 1, "--device", "cpu", "-o", output]
    arguments += ["--sounds", tmp_path / "sounds"]
    monkeypatch.setattr(sys, "argv", ["measure.py", *map(str, arguments)])
    measure.main()
    result = json.loads(output.read_text())
    assert result["settings"]["steps"] == 1
    assert result["real"]["overall"]["top1"] >= 5 / 6
    assert result["round_trip"]["overall"]["n"] == 6
    assert len(result["generated"]["samples"]) == 6
    assert result["generated"]["by_kind"]["hiss"]["n"] == 2
    pairs = result["generated_pairs"]
    assert pairs["n"] == result["real_pairs"]["n"] == len(pairs["samples"]) == 2
    kept = {folder.name: {p.name for p in folder.iterdir()} for folder in tmp_path.glob("sounds/*")}
    names = {f"{kind}-{i:02d}.wav" for kind in KINDS for i in range(2)}
    assert kept == {"real": names, "generated": names}
    seeds = [sample["seed"] for sample in result["generated"]["samples"] + pairs["samples"]]
    assert seeds == list(range(8))
    tables = output.with_suffix(".md").read_text()
    assert capsys.readouterr().out == tables
    assert "| Generated | 6 |" in tables
    assert "| hiss | 2 |" in tables
