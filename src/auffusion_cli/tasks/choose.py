"""The best of several sounds of a request, and guards that have a faulty one made again."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from auffusion_cli.evaluation.judge import Judge, KindJudge, asks_for_voices
from auffusion_cli.requests.request import MAX_SEED, GenerateRequest, line_seed
from auffusion_cli.requests.selection import MAX_RETRIES, Choosing, Rejected, Selection
from auffusion_cli.signal.guards import find_fault
from auffusion_cli.tasks.generate import GenerateFailure, GenerateResult

Make = Callable[[Iterable[GenerateRequest]], Iterator[GenerateResult | GenerateFailure]]
"""`generate_each` or `generate` with all but the requests."""
SPEECH = "speech"


class Chooser:
    """Chooses among the sounds of a request as `asked`, by `judge`; `ear` is who hears speech."""

    def __init__(self, asked: Choosing, judge: Judge | None, ear: KindJudge | None) -> None:
        self.asked, self.judge, self.ear = asked, judge, ear

    def choose_each(
        self, make: Make, requests: Iterable[GenerateRequest]
    ) -> Iterator[list[GenerateResult] | GenerateFailure]:
        """For each of `requests`, in order: its candidates, the best one first, or why there is
        none. Without `--best-of` there is one candidate, made again where it has a fault.
        """
        pulled: deque[GenerateRequest] = deque()

        def candidates() -> Iterator[GenerateRequest]:
            for request in requests:
                pulled.append(request)
                for n in range(self.asked.best_of):
                    yield dataclasses.replace(request, seed=(request.seed + n) % (MAX_SEED + 1))

        made: list[GenerateResult | GenerateFailure] = []
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

    def _guarded(
        self, make: Make, request: GenerateRequest, result: GenerateResult
    ) -> list[GenerateResult] | GenerateFailure:
        """`result`, or one with another seed where the guards find fault with it."""
        rejected: list[Rejected] = []
        while (fault := self.fault_of(result)) and len(rejected) < MAX_RETRIES:
            rejected.append(Rejected(result.request.seed, fault))
            seed = line_seed(request.seed, len(rejected))  # that of no other sound of the run
            (again,) = make([dataclasses.replace(request, seed=seed)])
            if isinstance(again, GenerateFailure):
                return again
            result = again
        if rejected:
            result = _selected(result, Selection(request.seed, tuple(rejected), fault))
        return [result]

    def _ranked(
        self, request: GenerateRequest, results: Sequence[GenerateResult]
    ) -> list[GenerateResult]:
        """`results`, the best one first: those without a fault, then by the judge's score."""
        words = words_of(request)
        judged = [
            (self.fault_of(result), self._score(result, words), n, result)
            for n, result in enumerate(results)
        ]
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

    def _score(self, result: GenerateResult, words: str) -> float | None:
        return self.judge.score(result.waveform, words) if self.judge else None

    def fault_of(self, result: GenerateResult) -> str | None:
        """What the guards find in a sound that its words do not ask for."""
        if not self.asked.guards:
            return None
        waveform, words = result.waveform, words_of(result.request)
        if fault := find_fault(waveform, words):
            return fault
        if self.ear and not asks_for_voices(words) and self.ear.hears_speech(waveform):
            return SPEECH
        return None


def words_of(request: GenerateRequest) -> str:
    """All words that a sound is made of."""
    return f"{request.prompt}\n{getattr(request, 'timeline', '')}"


def _selected(result: GenerateResult, selection: Selection) -> GenerateResult:
    record = dataclasses.replace(result.provenance, selection=selection)
    return dataclasses.replace(result, provenance=record)
