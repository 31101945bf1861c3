"""Sounds by formula: repeatable, varied, inside full scale, and never part of the test half."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded"
sys.path.insert(0, str(RECIPE))

import attribution  # noqa: E402
import build_sounds  # noqa: E402
import synthesised  # noqa: E402


@pytest.mark.parametrize("kind", sorted(synthesised.KINDS))
def test_a_variation_is_a_sound_of_full_length(kind):
    sound = synthesised.variation(kind, 1)
    assert sound.shape == (synthesised.N,)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() == pytest.approx(synthesised.PEAK)
    assert sound[0] == sound[-1] == 0
    assert np.sqrt(np.mean(sound**2)) > 0.003


@pytest.mark.parametrize("kind", ["crickets", "siren"])
def test_a_seed_gives_its_variation_again_and_another_one_another(kind):
    sound = synthesised.variation(kind, 1)
    np.testing.assert_array_equal(sound, synthesised.variation(kind, 1))
    assert abs(np.corrcoef(sound, synthesised.variation(kind, 2))[0, 1]) < 0.9


def test_chosen_variations_are_of_the_kinds_of_the_table():
    chosen = json.loads(synthesised.CHOSEN.read_text("utf-8"))
    kinds = {kind.name: kind for kind in build_sounds.load_kinds(RECIPE / "kinds.yaml")}
    named = {name for name, kind in kinds.items() if synthesised.PACKAGE in kind.sources}
    assert chosen.keys() == synthesised.KINDS.keys() == named
    for kind, seeds in chosen.items():
        assert 0 < len(seeds) <= synthesised.N_CHOSEN, kind
        assert sorted(set(seeds)) == seeds and seeds[-1] < synthesised.N_TRIED, kind
        assert kinds[kind].limit >= synthesised.N_CHOSEN + build_sounds.CLIPS_PER_KIND, kind


def test_the_folder_is_complete_or_not_there(tmp_path, monkeypatch):
    chosen = tmp_path / "chosen.json"
    chosen.write_text('{"crickets": [3, 5], "siren": [0]}')
    monkeypatch.setattr(synthesised, "CHOSEN", chosen)
    synthesised.synthesise(tmp_path / "sounds")
    names = {path.name for path in (tmp_path / "sounds").iterdir()}
    assert names == {"crickets_003.flac", "crickets_005.flac", "siren_000.flac"}
    chosen.write_text('{"no_such_kind": [1]}')
    with pytest.raises(KeyError):
        synthesised.synthesise(tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_what_is_made_by_formula_is_never_held_out():
    kind = build_sounds.Kind("rain", {}, ["rain"], ["It rains."])
    silence = np.zeros(100, np.float32)

    def clip(package: str, name: str) -> build_sounds.Clip:
        return build_sounds.Clip(kind, silence, package, name, f"{package}:{name}", 0)

    recorded = [clip("pkg", f"rain-{i}") for i in range(10)]
    made = [clip(synthesised.PACKAGE, f"rain_{i:03d}") for i in range(80)]
    held = build_sounds.test_groups(recorded + made, core=True)
    assert held == build_sounds.test_groups(recorded, core=True) != set()


def test_made_sounds_are_credited(tmp_path):
    licences = attribution.Licences(tmp_path)
    credit, licence = licences.of(synthesised.PACKAGE, "rain_000.flac")
    assert "formulas" in credit and licence == "Apache-2.0"
    assert "Apache-2.0" in licences.document([f"{synthesised.PACKAGE}:rain_000.flac"])


def test_unheard_recordings_are_named_like_sources():
    lines = build_sounds.UNHEARD.read_text("utf-8").splitlines()
    assert lines == sorted(set(lines)) and len(lines) > 50
    assert all(line.count(":") >= 1 for line in lines)
