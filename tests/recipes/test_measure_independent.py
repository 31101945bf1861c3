import sys
from pathlib import Path

import numpy as np
import pytest

from auffusion_cli.errors import AuffusionError

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))
import measure_independent as measure

TABLE = measure.Table(
    classes={"rain": ["Rain", "Raindrop"], "dog_barking": ["Bark"]},
    noise_like=["rain"],
    pairs=[("dog_barking", "rain", "dog barking in rain")],
    umbrella=["Animal"],
)
NAMES = ["Animal", "Bark", "Raindrop", "Rain", "Truck"]


def judge_of(*scores):
    return measure.Judge(lambda windows: np.array(scores), NAMES, TABLE)


def sound(*kinds):
    return measure.Sound(kinds, np.random.default_rng(0).random(16_000) - 0.5, "here.wav")


def test_the_largest_score_of_all_windows_and_of_a_kinds_classes_counts():
    judge = judge_of([0.9, 0.1, 0.0, 0.2, 0.6], [0.9, 0.1, 0.7, 0.0, 0.1])
    verdict = judge.hear(sound("rain", "dog_barking"))
    assert verdict.ranks == (1, 4)  # the umbrella class has no rank
    assert verdict.first == ("Raindrop", "Truck", "Rain")


def test_a_class_that_the_judge_lacks_is_named():
    with pytest.raises(AuffusionError, match="'Rain'"):
        measure.Judge(lambda windows: windows, NAMES[:2], TABLE)


@pytest.mark.parametrize(
    ("n_samples", "n_windows"), [(100, 1), (15_600, 1), (15_601, 2), (80_000, 10)]
)
def test_windows_cover_the_sound(n_samples, n_windows):
    windows = measure.windows_of(np.full(n_samples, 0.1))
    assert windows.shape == (n_windows, 15_600)
    assert windows.max() == pytest.approx(0.95)
    assert (windows > 0).sum() >= n_samples


def test_the_summary_counts_kinds_and_pairs_apart():
    def verdict(kinds, *ranks):
        return measure.Verdict(kinds, ranks, (), "a prompt", 1)

    alone = [verdict(("rain",), 4), verdict(("dog_barking",), 1), verdict(("rain",), 6)]
    counts = measure.summary(alone, TABLE.noise_like)
    assert {name: (row["hits"], row["n"]) for name, row in counts.items()} == {
        "first 1": (1, 3),
        "first 5": (2, 3),
        "first 10": (3, 3),
        "noise-like, first 5": (1, 2),
    }
    both = [verdict(("dog_barking", "rain"), 2, 12), verdict(("dog_barking", "rain"), 9, 7)]
    pairs = measure.summary(both, TABLE.noise_like)
    assert {name: row["hits"] for name, row in pairs.items()} == {
        "both in first 10": 1,
        "either in first 5": 1,
    }
    table = measure.markdown({"real": counts, "pairs": pairs})
    assert "| real | 3 | 33% (" in table and "| pairs | 2 | 50% (" in table


def test_every_kind_of_the_table_has_prompts_and_pairs_are_of_its_kinds():
    table = measure.load_table()
    prompts = measure.prompts_of(table)
    for name in ("known", "other"):
        assert {kinds[0] for kinds, _ in prompts[name]} == set(table.classes)
    assert all({event, background} <= set(table.classes) for event, background, _ in table.pairs)
    assert set(table.noise_like) <= set(table.classes)
    words = measure.load_words()
    taught = {prompt for kind in table.classes for prompt in words.taught(kind)}
    assert not taught & {prompt for _, prompt in prompts["other"]}
