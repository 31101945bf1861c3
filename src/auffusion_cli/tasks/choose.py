"""The best of several sounds of a request, and guards that have a faulty one made again: of sounds
from words, and of the new parts of recordings."""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from auffusion_cli.errors import AuffusionAdvice
from auffusion_cli.evaluation.judge import (
    Judge,
    KindJudge,
    asks_for_voices,
    load_judge,
    load_kind_judge,
)
from auffusion_cli.requests.request import (
    ExtendRequest,
    GenerateRequest,
    InpaintRequest,
    StyleTransferRequest,
)
from auffusion_cli.requests.seeds import line_seed, seed_after
from auffusion_cli.requests.selection import MAX_RETRIES, Choosing, Rejected, Selection
from auffusion_cli.signal.guards import find_fault
from auffusion_cli.tasks.edits import EditResult
from auffusion_cli.tasks.generate import GenerateFailure, GenerateResult
from auffusion_cli.tasks.hear import Heard, heard_in

EditsRecording = InpaintRequest | ExtendRequest | StyleTransferRequest
Asked = GenerateRequest | EditsRecording
Made = GenerateResult | EditResult
Make = Callable[[Iterable[Asked]], Iterator[Made | GenerateFailure]]
"""`generate_each`, `generate` or an edit, with all but the requests."""
SPEECH = "speech"
FAULTS_WITHOUT_WORDS = ("clipped", SPEECH)
"""What fits into a recording, which no words say, may well be silence, a hum or noise."""


class Chooser:
    """Chooses among the sounds of a request as `asked`, by `judge`; `ear` is who hears speech."""

    def __init__(self, asked: Choosing, judge: Judge | None, ear: KindJudge | None) -> None:
        self.asked, self.judge, self.ear = asked, judge, ear

    @classmethod
    def load(cls, asked: Choosing) -> Chooser:
        """With the judge and the ear that are needed."""
        judge = load_judge() if asked.best_of > 1 else None
        return cls(asked, judge, load_kind_judge() if asked.guards else None)

    def choose_each(
        self, make: Make, requests: Iterable[Asked]
    ) -> Iterator[list[Made] | GenerateFailure]:
        """For each of `requests`, in order: its candidates, the best one first, or why there is
        none. Without `--best-of` there is one candidate, made again where it has a fault.
        """
        pulled: deque[Asked] = deque()

        def candidates() -> Iterator[Asked]:
            for request in requests:
                pulled.append(request)
                for n in range(self.asked.best_of):
                    yield dataclasses.replace(request, seed=seed_after(request.seed, n))

        made: list[Made | GenerateFailure] = []
        for result in make(candidates()):
            made.append(result)
            if len(made) == self.asked.best_of:
                request = pulled.popleft()
                results = [each for each in made if not isinstance(each, GenerateFailure)]
                if not results:
                    yield GenerateFailure(request, made[0].error)
                elif self.asked.best_of == 1:
                    yield self._guarded(make, request, results[0])
                else:
                    yield self._ranked(request, results)
                made = []

    def _guarded(self, make: Make, request: Asked, result: Made) -> list[Made] | GenerateFailure:
        """`result`, or one with another seed where the guards find fault with it."""
        rejected: list[Rejected] = []
        while (fault := self.fault_of(result)) and len(rejected) < MAX_RETRIES:
            rejected.append(Rejected(result.provenance.request.seed, fault))
            seed = line_seed(request.seed, len(rejected))  # that of no other sound of the run
            (again,) = make([dataclasses.replace(request, seed=seed)])
            if isinstance(again, GenerateFailure):
                return again
            result = again
        if rejected:
            result = _selected(result, Selection(request.seed, tuple(rejected), fault))
        return [result]

    def _ranked(self, request: Asked, results: Sequence[Made]) -> list[Made]:
        """`results`, the best one first: those without a fault, then by the judge's score."""
        judged = []
        for n, result in enumerate(results):
            heard = heard_in(result)
            score = self.judge.score(heard.waveform, heard.words) if self.judge else None
            judged.append((self._fault_in(heard), score, n, result))
        judged.sort(key=lambda each: (each[0] is not None, -(each[1] or 0.0), each[2]))
        return [
            _selected(
                result,
                Selection(
                    request.seed,
                    fault=fault,
                    best_of=self.asked.best_of,
                    rank=rank,
                    judge=None if score is None else self.judge.name,
                    score=None if score is None else round(score, 4),
                ),
            )
            for rank, (fault, score, _, result) in enumerate(judged, 1)
        ]

    def fault_of(self, result: Made) -> str | None:
        """What the guards find in a sound that its words do not ask for; nor does the recording
        that it is a part of, where it has the same."""
        return self._fault_in(heard_in(result))

    def _fault_in(self, heard: Heard) -> str | None:
        if not self.asked.guards:
            return None
        fault = self._fault_in_waveform(heard.waveform, heard.words)
        if fault is None or not len(heard.rest):
            return fault
        if not heard.words and fault not in FAULTS_WITHOUT_WORDS:
            return None
        return None if self._fault_in_waveform(heard.rest, heard.words) == fault else fault

    def _fault_in_waveform(self, waveform: np.ndarray, words: str) -> str | None:
        if fault := find_fault(waveform, words):
            return fault
        if self.ear and self.ear.hears_speech(waveform) and not asks_for_voices(words):
            return SPEECH
        return None


def choose_edit(
    chooser: Chooser, edit: Callable[[EditsRecording], EditResult], request: EditsRecording
) -> list[EditResult]:
    """What `edit` makes of `request` and of the same with other seeds, the best one first.

    Advice about the request is given once.
    """

    def make(requests: Iterable[EditsRecording]) -> Iterator[EditResult]:
        for each in requests:
            with warnings.catch_warnings():
                if each.seed != request.seed:
                    warnings.simplefilter("ignore", AuffusionAdvice)
                result = edit(each)
            yield result

    (chosen,) = chooser.choose_each(make, [request])
    return chosen


def _selected(result: Made, selection: Selection) -> Made:
    record = dataclasses.replace(result.provenance, selection=selection)
    return dataclasses.replace(result, provenance=record)
