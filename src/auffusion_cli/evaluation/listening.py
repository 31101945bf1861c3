"""A listening test: its key, the answers of listeners, and what they say about the systems.

Listeners rate each sound from 1 to 100 twice: overall quality (OVL) and relevance to the words
(REL), as AudioGen (Kreuk et al. 2023, section 4) and the papers after it do. Answers are files that
anybody could have written: whatever does not belong to the test refuses the file.

Listeners and clips are both samples, so both are resampled at once (Owen
2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.evaluation.bootstrap import draws, interval, n_resamples
from auffusion_cli.parsing import decode, read_json

Question = Literal["OVL", "REL"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
LOWEST, HIGHEST = 1, 100
"""Rating."""
MAX_ANSWERS_BYTES = 2_000_000
MAX_KEY_BYTES = 100_000_000
MIN_ANSWERED_SHARE = 0.5
MAX_FAILED_SHARE = 0.25
"""Of the catch trials that a listener saw."""
TOLERANCE = 2
"""Of a rating that was asked for, as sliders are not exact."""
MAX_SECONDS = 1e7
SEED = 0


# --- the key and the answers


@dataclass(frozen=True)
class Trial:
    """One sound that is rated."""

    id: str
    """By which pages and answers name it; says nothing of the system."""
    kind: Literal["sound", "noise", "instruction"]
    """A sound of a system; noise, of less quality than any; words that ask for a rating."""
    clip: str
    """Name that the clip has in all systems."""
    system: str | None = None
    """None for a catch trial."""
    rating: int | None = None
    """That an instruction asks for."""


@dataclass(frozen=True)
class Key:
    """What the page of a test keeps from the listeners: which sound is whose."""

    test: str
    title: str
    systems: tuple[str, ...]
    trials: tuple[Trial, ...]
    n_given: int
    """Trials that one listener is given."""
    format: Literal["auffusion-listening-key-1"] = "auffusion-listening-key-1"

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    @cached_property
    def clips(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(t.clip for t in self.trials if t.system is not None))


@dataclass(frozen=True)
class Answer:
    """Both ratings of one trial."""

    trial: str
    ovl: int
    rel: int
    seconds: float = 0.0
    """Spent on it."""

    def __post_init__(self) -> None:
        for name, rating in (("ovl", self.ovl), ("rel", self.rel)):
            if not LOWEST <= rating <= HIGHEST:
                raise ValueError(f"{name} is {rating:.6g}, not {LOWEST} to {HIGHEST}")
        if not 0 <= self.seconds <= MAX_SECONDS:
            raise ValueError(f"seconds is {self.seconds:g}, not 0 to {MAX_SECONDS:.0f}")


@dataclass(frozen=True)
class Answers:
    """What one listener answered."""

    test: str
    listener: str
    answers: tuple[Answer, ...]
    format: Literal["auffusion-listening-answers-1"]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{32}", self.listener):
            raise ValueError("listener is not 32 hexadecimal digits")


def read_key(path: Path) -> Key:
    """The key of a test. Raises UsageError where it is none."""
    where = f"--key {path}"
    value = read_json(path, raising=UsageError, where=where, max_bytes=MAX_KEY_BYTES)
    try:
        key = decode(Key, value)
    except ValueError as error:
        raise UsageError(f"{where}: is not the key of a listening test: {error}") from None
    strangers = {t.system for t in key.trials} - {*key.systems, None}
    if strangers or len(key.by_id) != len(key.trials) or not key.clips:
        raise UsageError(f"{where}: is not the key of a listening test: its trials do not fit")
    return key


def read_answers(path: Path, key: Key) -> Answers:
    """The answers in a file that a listener sent.

    Raises:
        DataError: it cannot be read, is no such file, or does not belong to the test of `key`.
    """
    value = read_json(path, raising=DataError, max_bytes=MAX_ANSWERS_BYTES)
    try:
        answers = decode(Answers, value)
    except ValueError as error:
        raise DataError(f"{path}: holds no answers: {error}") from None
    if answers.test != key.test:
        raise DataError(f"{path}: answers another test, {answers.test[:32]!r}, not {key.test!r}")
    if len(answers.answers) > key.n_given:
        raise DataError(
            f"{path}: has {len(answers.answers):,} answers; a listener is given {key.n_given}"
        )
    ids = [answer.trial for answer in answers.answers]
    if unknown := next((i for i in ids if i not in key.by_id), None):
        raise DataError(f"{path}: rates {unknown[:32]!r}, which is no sound of the test")
    if len(set(ids)) < len(ids):
        raise DataError(f"{path}: rates a sound twice")
    return answers


# --- screening


@dataclass(frozen=True)
class Listener:
    """One file of answers, and whether it counts."""

    file: str
    listener: str | None
    """None where the file was refused."""
    n_answers: int
    excluded: str | None = None
    """The reason, where it does not count."""


def screen(answers: Answers, key: Key) -> str | None:
    """The reason why a listener does not count, by rules that do not look at the systems."""
    n = len(answers.answers)
    if n < MIN_ANSWERED_SHARE * key.n_given:
        return f"answered {n} of {key.n_given} sounds"
    rated = [a for a in answers.answers if key.by_id[a.trial].system is not None]
    if len(rated) > 1 and len({(a.ovl, a.rel) for a in rated}) == 1:
        return "gave all sounds the same ratings"
    if all(trial.system is not None for trial in key.trials):
        return None
    median = float(np.median([a.ovl for a in rated])) if rated else float(LOWEST)
    caught = [(a, key.by_id[a.trial]) for a in answers.answers]
    caught = [(a, trial) for a, trial in caught if trial.system is None]
    if not caught:
        return "answered no catch trial"
    failures = [why for a, trial in caught if (why := _failure(a, trial, median)) is not None]
    if len(failures) > MAX_FAILED_SHARE * len(caught):
        return f"failed {len(failures)} of {len(caught)} catch trials: {'; '.join(failures)}"
    return None


def _failure(answer: Answer, trial: Trial, median: float) -> str | None:
    if trial.kind == "noise" and answer.ovl > median:
        return f"noise rated OVL {answer.ovl}, above the listener's median {median:g}"
    if trial.rating is None:
        return None
    if max(abs(answer.ovl - trial.rating), abs(answer.rel - trial.rating)) > TOLERANCE:
        return f"asked for {trial.rating}, gave OVL {answer.ovl} and REL {answer.rel}"
    return None


# --- statistics


@dataclass(frozen=True)
class Score:
    """The mean rating of one system."""

    question: Question
    system: str
    mean: float | None
    ci_95: tuple[float, float] | None
    """None with fewer than two listeners or clips."""
    n_ratings: int


@dataclass(frozen=True)
class Preference:
    """Two systems compared on the clips that the same listeners rated of both."""

    question: Question
    first: str
    second: str
    difference: float | None
    """Mean of first minus second."""
    ci_95: tuple[float, float] | None
    n_better: int
    """Clips of which listeners rated the first higher, on average."""
    n_worse: int
    n_equal: int
    p: float
    """Two-sided sign test over clips."""
    p_holm: float
    """The same, for all pairs of a question together (Holm 1979)."""


@dataclass(frozen=True)
class Outcome:
    """The result of a listening test."""

    test: str
    title: str
    n_clips: int
    n_listeners: int
    """That count."""
    scores: tuple[Score, ...]
    preferences: tuple[Preference, ...]
    agreement: Mapping[Question, float | None]
    """Krippendorff's alpha of interval data over all sounds; None where there is none."""
    listeners: tuple[Listener, ...] = field(default=())


def collect(paths: Sequence[Path], key: Key) -> Outcome:
    """Read, screen and evaluate the answers in `paths`.

    Raises:
        DataError: the answers of no listener count.
    """
    listeners, counted = [], []
    seen: dict[str, str] = {}
    for path in paths:
        try:
            answers = read_answers(path, key)
        except DataError as error:
            why = error.message.removeprefix(f"{path}: ")
            listeners.append(Listener(str(path), None, 0, why))
            continue
        first = seen.setdefault(answers.listener, str(path))
        why = screen(answers, key) if first == str(path) else f"has the listener of {first}"
        listeners.append(Listener(str(path), answers.listener, len(answers.answers), why))
        if why is None:
            counted.append(answers)
    if not counted:
        reasons = "; ".join(f"{one.file}: {one.excluded}" for one in listeners[:2])
        raise DataError(f"none of {len(paths)} files of answers counts: {reasons}")
    ratings = _ratings(counted, key)
    return Outcome(
        test=key.test,
        title=key.title,
        n_clips=len(key.clips),
        n_listeners=len(counted),
        scores=tuple(_scores(ratings, key.systems)),
        preferences=tuple(
            one for question in QUESTIONS for one in _preferences(question, ratings, key.systems)
        ),
        agreement={question: agreement(ratings[question]) for question in QUESTIONS},
        listeners=tuple(listeners),
    )


def _ratings(counted: Sequence[Answers], key: Key) -> dict[Question, np.ndarray]:
    """question -> (listeners, systems, clips) ratings, NaN where there is none."""
    shape = len(counted), len(key.systems), len(key.clips)
    ratings = {question: np.full(shape, np.nan) for question in QUESTIONS}
    systems = {name: i for i, name in enumerate(key.systems)}
    clips = {name: i for i, name in enumerate(key.clips)}
    for i, answers in enumerate(counted):
        for answer in answers.answers:
            trial = key.by_id[answer.trial]
            if trial.system is not None:
                place = i, systems[trial.system], clips[trial.clip]
                ratings["OVL"][place], ratings["REL"][place] = answer.ovl, answer.rel
    return ratings


def _scores(ratings: Mapping[Question, np.ndarray], systems: Sequence[str]) -> Iterator[Score]:
    for question in QUESTIONS:
        for i, system in enumerate(systems):
            cells = ratings[question][:, i]
            mean, ci_95 = mean_with_interval(cells)
            if ci_95 is not None:
                ci_95 = max(ci_95[0], float(LOWEST)), min(ci_95[1], float(HIGHEST))
            yield Score(question, system, mean, ci_95, int(np.isfinite(cells).sum()))


def mean_with_interval(cells: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
    """The mean of (listeners, clips) numbers, NaN where there is none, and its 95 % interval."""
    known = np.isfinite(cells)
    if not known.any():
        return None, None
    values = np.where(known, cells, 0.0)
    mean = float(values.sum() / known.sum())
    if known.any(axis=1).sum() < 2 or known.any(axis=0).sum() < 2:
        return mean, None
    n = n_resamples(4.0 * cells.size)
    resamples = zip(draws(len(cells), n, SEED), draws(cells.shape[1], n, SEED + 1), strict=True)
    replicates = [
        (listeners @ values @ clips) / n_drawn
        for listeners, clips in resamples
        if (n_drawn := listeners @ known @ clips)
    ]
    return mean, interval(mean, replicates)


def _preferences(
    question: Question, ratings: Mapping[Question, np.ndarray], systems: Sequence[str]
) -> list[Preference]:
    pairs = list(itertools.combinations(range(len(systems)), 2))
    differences = [ratings[question][:, i] - ratings[question][:, j] for i, j in pairs]
    signs = [np.sign(np.nansum(cells, axis=0))[np.isfinite(cells).any(axis=0)]
             for cells in differences]  # fmt: skip
    counts = [tuple(int((s == sign).sum()) for sign in (1, -1, 0)) for s in signs]
    p = [sign_test(better, worse) for better, worse, _ in counts]
    return [
        Preference(
            question, systems[i], systems[j], *mean_with_interval(cells), *n, p_alone, p_holm
        )
        for (i, j), cells, n, p_alone, p_holm in zip(
            pairs, differences, counts, p, holm(p), strict=True
        )
    ]


def sign_test(n_better: int, n_worse: int) -> float:
    """Two-sided p of a sign test, exact: of the binomial distribution; ties are left out."""
    n = n_better + n_worse
    tail = sum(math.comb(n, k) for k in range(min(n_better, n_worse) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p: Sequence[float]) -> list[float]:
    """p of several tests, adjusted by Holm's step-down method (1979)."""
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def check_installed() -> None:
    """Raise a UsageError where the package that `agreement` is computed by is missing."""
    if find_spec("krippendorff") is None:
        raise UsageError(
            "the agreement of listeners needs krippendorff, which is not installed",
            hint="Install it: pip install 'auffusion[listen]'.",
        )


def agreement(ratings: np.ndarray) -> float | None:
    """Krippendorff's alpha of (listeners, systems, clips) ratings as interval data.

    None with one listener, without a sound that two have rated, or with one and the same rating.
    """
    import krippendorff

    units = ratings.reshape(len(ratings), -1)
    shared = units[:, np.isfinite(units).sum(axis=0) > 1]
    if len(np.unique(shared[np.isfinite(shared)])) < 2:
        return None
    return float(krippendorff.alpha(shared, level_of_measurement="interval"))
