"""The answers of listeners: what counts, and the numbers, against ones made by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.evaluation.listening import (
    Answers,
    Key,
    Trial,
    agreement,
    collect,
    holm,
    mean_with_interval,
    read_answers,
    read_key,
    screen,
    sign_test,
)
from auffusion_cli.parsing import plain
from listening_sets import answers_of, attentive

CLIPS = ("dog", "rain")
TRIALS = (
    *(Trial(f"{s}-{c}", "sound", c, s) for c in CLIPS for s in ("a", "b")),
    Trial("noise", "noise", "dog"),
    Trial("asked", "instruction", "rain", rating=37),
)
KEY = Key("test", "Title", ("a", "b"), TRIALS, n_given=len(TRIALS))
RATINGS = {"a": (60, 80), "b": (50, 20)}


def good(listener=1, ratings=RATINGS):
    return answers_of(KEY, listener, lambda trial: attentive(trial, ratings))


def with_answer(answers, trial, **changes):
    changed = (
        dataclasses.replace(a, **changes) if a.trial == trial else a for a in answers.answers
    )
    return dataclasses.replace(answers, answers=tuple(changed))


@pytest.fixture
def write(tmp_path):
    def write(answers, name="answers.json"):
        value = plain(answers) if isinstance(answers, Answers) else answers
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return tmp_path / name

    return write


# --- numbers


def test_an_exact_sign_test():
    assert sign_test(8, 2) == sign_test(2, 8) == 2 * (1 + 10 + 45) / 2**10
    assert sign_test(5, 5) == sign_test(0, 0) == 1.0
    assert sign_test(2000, 0) == pytest.approx(0, abs=1e-300)


def test_holm_adjusts_for_several_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_has_the_scatter_of_listeners_and_of_clips():
    listeners, clips = np.array([0.0, 4, 8, 20, 3, 9]), np.array([10.0, 40, 35, 20, 60, 15, 22])
    cells = listeners[:, None] + clips
    mean, (low, high) = mean_with_interval(cells)
    assert mean == pytest.approx(cells.mean())
    # Of a sum of both, the variance of the mean is the sum of both variances of a mean.
    scatter = math.sqrt(listeners.var() / len(listeners) + clips.var() / len(clips))
    assert (high - low) / 2 == pytest.approx(1.96 * scatter, rel=0.1)
    assert (low + high) / 2 == pytest.approx(mean)


def test_missing_ratings_are_passed_over():
    cells = np.array([[10.0, np.nan, 30.0], [np.nan, 50.0, np.nan], [20.0, np.nan, np.nan]])
    mean, limits = mean_with_interval(cells)
    assert mean == pytest.approx(27.5) and limits is not None
    assert mean_with_interval(cells[:1]) == (20.0, None)
    assert mean_with_interval(cells[:, :1]) == (15.0, None)
    assert mean_with_interval(np.full((2, 2), np.nan)) == (None, None)


def test_agreement_is_the_published_alpha():
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D: 0.849."""
    x = np.nan
    data = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
            [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
        ]
    )
    assert agreement(data.reshape(4, 3, 4)) == pytest.approx(0.849, abs=5e-4)
    assert agreement(data[:1].reshape(1, 3, 4)) is None
    assert agreement(np.full((2, 2, 2), 5.0)) is None


def test_means_and_preferences_of_a_test(write):
    other = {"a": (80, 90), "b": (50, 95)}
    paths = [write(good(), "1.json"), write(good(2, other), "2.json")]
    outcome = collect(paths, KEY)
    means = {(one.question, one.system): one.mean for one in outcome.scores}
    assert means == {("OVL", "a"): 70, ("OVL", "b"): 50, ("REL", "a"): 85, ("REL", "b"): 57.5}
    assert [one.n_ratings for one in outcome.scores] == [4] * 4
    quality, relevance = outcome.preferences
    assert (quality.first, quality.second, quality.difference) == ("a", "b", 20)
    assert (quality.n_better, quality.n_worse, quality.n_equal) == (2, 0, 0)
    assert quality.p == quality.p_holm == 0.5
    assert relevance.difference == 27.5
    assert outcome.n_listeners == outcome.n_clips == 2
    assert all(one.excluded is None for one in outcome.listeners)


# --- screening


def test_who_listens_counts():
    assert screen(good(), KEY) is None
    within = with_answer(good(), "asked", ovl=38, rel=35)
    assert screen(within, KEY) is None


@pytest.mark.parametrize(
    "answers, reason",
    [
        (dataclasses.replace(good(), answers=good().answers[:2]), "answered 2 of 6 sounds"),
        (dataclasses.replace(good(), answers=good().answers[:4]), "answered no catch trial"),
        (good(ratings={"a": (50, 50), "b": (50, 50)}), "gave all sounds the same ratings"),
        (
            with_answer(good(), "noise", ovl=56),
            "failed 1 of 2 catch trials: noise rated OVL 56, above the listener's median 55",
        ),
        (
            with_answer(good(), "asked", rel=80),
            "failed 1 of 2 catch trials: asked for 37, gave OVL 37 and REL 80",
        ),
    ],
)
def test_who_does_not_listen_is_excluded_with_a_reason(answers, reason):
    assert screen(answers, KEY) == reason


def test_a_listener_counts_once_and_bad_files_are_named(write):
    paths = [write(good(), "1.json"), write(good(), "2.json"), write("[]", "3.json")]
    outcome = collect(paths, KEY)
    assert outcome.n_listeners == 1
    reasons = [one.excluded for one in outcome.listeners]
    assert reasons[0] is None
    assert reasons[1] == f"has the listener of {paths[0]}"
    assert "not an object" in reasons[2]
    with pytest.raises(DataError, match=r"none of 1 files of answers counts: .*3\.json"):
        collect(paths[2:], KEY)


# --- hostile answers


def changed(**changes):
    return plain(good()) | changes


def changed_answer(**changes):
    value = plain(good())
    value["answers"][0] |= changes
    return value


@pytest.mark.parametrize(
    "value, problem",
    [
        ("", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (changed(test="other"), "answers another test, 'other'"),
        (changed(listener="../../etc"), "listener is not 32 hexadecimal digits"),
        (changed(format="2"), "format is"),
        (changed(extra=1), "extra: unknown name"),
        (changed(answers=plain(good().answers) * 2), "has 12 answers; a listener is given 6"),
        (changed(answers=plain(good().answers[:1]) * 2), "rates a sound twice"),
        (changed_answer(trial="\x1b[31m"), r"rates '\\x1b\[31m', which is no sound"),
        (changed_answer(ovl=0), "ovl is 0, not 1 to 100"),
        (changed_answer(rel=101), "rel is 101, not 1 to 100"),
        (changed_answer(rel=10**300), "rel is 1e\\+300"),
        (changed_answer(ovl=True), "not a whole number"),
        (changed_answer(ovl=50.5), "not a whole number"),
        (changed_answer(seconds=-1), "seconds is -1"),
        (changed_answer(seconds=math.nan), "not a finite number"),
        (" " * 2_000_001, "larger than"),
    ],
)
def test_answers_that_do_not_belong_to_the_test_are_refused(write, value, problem):
    with pytest.raises(DataError, match=problem) as error:
        read_answers(write(value), KEY)
    assert len(str(error.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["test", "listener", "answers", "trial", "ovl"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_refused_as_data(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any-answers.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError):
        read_answers(path, KEY)


def test_the_key_comes_back(write):
    assert read_key(write(plain(KEY))) == KEY
    stranger = plain(KEY) | {"systems": ["a"]}
    for value in ({}, stranger, plain(KEY) | {"trials": []}, plain(good())):
        with pytest.raises(UsageError, match="is not the key of a listening test"):
            read_key(write(value))
