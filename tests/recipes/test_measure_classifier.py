"""Sounds of another collection: what counts as right, and what is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from auffusion_cli.errors import DataError
from auffusion_cli.evaluation.judge import load_kind_judge
from auffusion_cli.evaluation.tagger import Tagger

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))
import measure_classifier

TABLE = {"dog": ["dog_barking"], "calf": ["cow_mooing", "rain"], "kazoo": ["kazoo"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noises")
    for name in TABLE:
        noise = 0.1 * np.random.default_rng(0).standard_normal(22_050)
        soundfile.write(folder / f"{name}.ogg", noise, 44_100)
    return folder


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    """Hears rain in everything, then a dog, and a cow last."""
    tagger = Tagger(["cow_mooing", "dog_barking", "rain", "wind"]).eval()
    with torch.no_grad():
        tagger.head[1].weight.zero_()
        tagger.head[1].bias.copy_(torch.tensor([0.0, 2.0, 3.0, 1.0]))
    return tagger


def test_the_first_right_kind_counts_of_those_that_the_classifier_has(tagger, folder):
    heard = measure_classifier.hear_all(tagger, folder, TABLE)
    assert heard == {"dog": (2, "rain"), "calf": (1, "rain")}


def test_a_sound_that_is_missing_is_named(tagger, folder):
    with pytest.raises(DataError, match=r"lacks fox\.ogg"):
        measure_classifier.hear_all(tagger, folder, {"fox": ["dog_barking"]})


def test_a_row_has_both_proportions():
    assert measure_classifier.row("x", 10, [8, 10]) == (
        "| x | 10 | 80.0% (49% to 94%) | 100.0% (72% to 100%) |"
    )


def test_the_kinds_of_the_table_are_the_judges():
    kinds = {
        kind
        for right in yaml.safe_load(measure_classifier.TABLE.read_text()).values()
        for kind in right
    }
    assert kinds <= set(load_kind_judge().kinds)
