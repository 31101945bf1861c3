"""The rule that counts the sounds in a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.evaluation.events import complexity, count_events


@pytest.mark.parametrize(
    ("prompt", "n_events"),
    [
        ("a dog barks", 1),
        ("waves on a beach", 1),
        ("birds chirp, loudly and repeatedly", 1),
        ("a siren gets louder and louder", 1),
        ("water drips on and off, in the background", 1),
        ("dog barking in rain", 2),
        ("A man speaks while a bell rings.", 2),
        ("a woman talks with music in the background", 2),
        ("Thunder, then rain", 2),
        ("a dog barks and a man speaks followed by rain", 3),
        ("wind blows as a bell rings, then a car passes and people talk", 4),
        ("a dog barks & a cat meows", 2),
        ("dog + cat + rain", 3),
        ("an R&B song", 1),
        ("louder & louder", 1),
        ("and", 1),
        ("", 1),
        ("Hundegebell", 1),
    ],
)
def test_captions_of_the_usual_kind(prompt, n_events):
    assert count_events(prompt) == n_events


def test_complexity_has_three_groups():
    assert [complexity(n) for n in (1, 2, 3, 9)] == [
        "1 event",
        "2 events",
        "3 or more events",
        "3 or more events",
    ]


@given(st.lists(st.sampled_from(["a dog", "rain", "thunder", "a bell"]), min_size=1, max_size=8))
def test_each_named_sound_counts_once(sounds):
    assert count_events(", ".join(sounds)) == len(sounds)
    assert count_events(" then ".join(sounds)) == len(sounds)


@given(st.text(max_size=200))
def test_any_text_has_an_event(text):
    assert 1 <= count_events(text) <= 200
