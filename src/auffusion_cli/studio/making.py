"""From an ask to sounds in the history: what the worker of a studio does, with one warm model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import AudioError, AuffusionWarning, UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.selection import Choosing, Selection
from auffusion_cli.studio.asks import (
    ANY_SHA256,
    AnyAsk,
    Ask,
    EditAsk,
    ExtendAsk,
    FinishAsk,
    GenerateAsk,
    InpaintAsk,
    StyleTransferAsk,
    WordsAsk,
)
from auffusion_cli.studio.history import History, Sound
from auffusion_cli.studio.jobs import Job

if TYPE_CHECKING:
    from auffusion_cli.evaluation.judge import Judge
    from auffusion_cli.model import Model
    from auffusion_cli.requests.request import Request
    from auffusion_cli.tasks.choose import Chooser
    from auffusion_cli.tasks.edits import EditResult
    from auffusion_cli.tasks.finish import FinishResult
    from auffusion_cli.tasks.generate import GenerateResult

    Result = GenerateResult | EditResult | FinishResult

Report = Callable[[int, int], None]
"""Called with the number of denoising steps done and of all; raises Cancelled."""


class Maker:
    """The work of a studio; `load` is called on the worker's thread, `work` after it.

    Args:
        load_model_of_words: called for the first change of words with the model that is loaded;
            gives the same with an engine whose attention can be changed.
    """

    def __init__(
        self,
        load_model: Callable[[], Model],
        defaults: GenerationDefaults,
        history: History,
        load_model_of_words: Callable[[Model], Model] = lambda model: model,
    ) -> None:
        self.defaults = defaults
        self.history = history
        self._load_model = load_model
        self._load_model_of_words = load_model_of_words
        self._model_of_words: Model | None = None
        self._model: Model | None = None
        self._judge: Judge | None = None
        self._chooser: Chooser | None = None

    def load(self) -> None:
        """Load the model, and what judges and guards sounds."""
        from auffusion_cli.evaluation.judge import load_judge
        from auffusion_cli.tasks.choose import Chooser

        self._model = self._load_model()
        self._judge = load_judge()
        self._chooser = Chooser.load(Choosing())

    def check(self, ask: AnyAsk) -> None:
        """Raise the error that `ask` would end in, where that can be known.

        Raises:
            UsageError: settings or masks are impossible.
            UnknownSoundError: its source is not in the history.
        """
        from auffusion_cli.tasks.finish import check_finish

        if isinstance(ask, GenerateAsk):
            ask.settings(self.defaults, ask.lasting_s())
        elif isinstance(ask, FinishAsk):
            source = self.history.find(ask.source)
            if source.is_loop and (ask.fade_in_s or ask.fade_out_s):
                raise UsageError("a loop has no fades")
            check_finish(ask.finish(), source.sample_rate_hz, "the sound")
        elif isinstance(ask, WordsAsk):
            source = self.history.find(ask.source)
            ask.request(_made_from_words(source).request, source.file, ANY_SHA256)
        else:
            self._check_edit(ask, self.history.find(ask.source))

    def _check_edit(self, ask: EditAsk, source: Sound) -> None:
        from auffusion_cli.config import SpectrogramConfig
        from auffusion_cli.tasks.extend import check_over
        from auffusion_cli.tasks.inpaint import check_resample, parse_masks
        from auffusion_cli.tasks.style_transfer import check_method

        added_s = ask.by_s if isinstance(ask, ExtendAsk) else 0.0
        settings = ask.settings(self.defaults, source.duration_s + added_s)
        request = ask.request(source.file, ANY_SHA256)
        if isinstance(ask, InpaintAsk):
            parse_masks(request, source.duration_s, SpectrogramConfig.fmax_hz)
            check_resample(request, settings)
        elif isinstance(ask, StyleTransferAsk):
            check_method(request, settings)
        elif isinstance(ask, ExtendAsk):
            check_over(request, source.duration_s)

    def work(self, job: Job, report: Report) -> None:
        """Make what `job` asks for; each sound is in the history as soon as it is made."""
        assert self._model is not None and self._judge is not None
        with _caught_warnings(job):
            self._remark_on_words(job)
            if isinstance(job.ask, GenerateAsk):
                self._generate(job, report)
            elif isinstance(job.ask, FinishAsk):
                self._finish(job)
            elif isinstance(job.ask, WordsAsk):
                self._change_words(job, report)
            else:
                self._edit(job, report)

    def _generate(self, job: Job, report: Report) -> None:
        from auffusion_cli.tasks.generate import generate
        from auffusion_cli.tasks.hear import heard_in

        ask: GenerateAsk = job.ask
        settings = ask.settings(self.defaults, ask.lasting_s())
        requests = ask.requests()

        def on_step(batch, step) -> None:
            n_made = len(job.sounds)
            share = (step.index + 1) * len(batch)
            report(n_made * step.n_steps + share, len(requests) * step.n_steps)

        for result in generate(self._model, requests, settings, on_step=on_step):
            heard = heard_in(result)
            sound = self.history.add(
                result.save,
                title=ask.title,
                task=result.provenance.request.task,
                record=result.provenance.to_dict(),
                remarks=job.remarks,
                score=self._judge.score(heard.waveform, heard.words),
            )
            job.sounds.append(sound.id)

    def _edit(self, job: Job, report: Report) -> None:
        from auffusion_cli.signal.recording import read_recording
        from auffusion_cli.tasks.choose import choose_edit
        from auffusion_cli.tasks.extend import faded_s

        ask: EditAsk = job.ask
        source = self.history.find(ask.source)
        path = self.history.path(source)
        recording = read_recording(path)
        request = ask.request(path.name, recording.sha256)
        if isinstance(ask, ExtendAsk) and ask.over_s is None:
            record = _record_of(source)
            request = replace(request, over_s=faded_s(recording, record, ask.where))
            if request.over_s:
                job.remarks.append(f"the fade of {request.over_s:g} s was made anew")
        added_s = ask.by_s if isinstance(ask, ExtendAsk) else 0.0
        settings = ask.settings(self.defaults, recording.duration_s + added_s)
        task = self._task(ask)

        def edit(each: Request) -> EditResult:
            return task(self._model, recording, each, settings, on_progress=report)

        (result,) = choose_edit(self._chooser, edit, request)
        if selection := result.provenance.selection:
            job.remarks += _told(selection)
        self._keep_version(job, source, result)

    def _change_words(self, job: Job, report: Report) -> None:
        from auffusion_cli.files import hash_file
        from auffusion_cli.tasks.edit import edit, is_unlike

        ask: WordsAsk = job.ask
        source = self.history.find(ask.source)
        made, path = _made_from_words(source), self.history.path(source)
        request = ask.request(made.request, path.name, hash_file(path))
        if self._model_of_words is None:
            self._model_of_words = self._load_model_of_words(self._model)
        if (engine := self._model_of_words.networks.engine) != self._model.networks.engine:
            job.remarks.append(f"made with {engine}, which changes of words need")
        result = edit(self._model_of_words, request, made.settings, on_progress=report)
        if is_unlike(result.source.provenance, made):
            job.remarks.append("the sound before, made again, was not the same sample for sample")
        self._keep_version(job, source, result.edited, title=request.word_edit.prompt)

    def _finish(self, job: Job) -> None:
        from auffusion_cli.signal.recording import read_recording
        from auffusion_cli.tasks.finish import finish_recording

        ask: FinishAsk = job.ask
        source = self.history.find(ask.source)
        path = self.history.path(source)
        recording = read_recording(path)
        prompt = (source.record or {}).get("prompt", "")
        request = ask.request(path.name, recording.sha256, title=prompt, loop=source.is_loop)
        self._keep_version(job, source, finish_recording(recording, request, ask.finish()))

    def _task(self, ask: EditAsk) -> Callable[..., EditResult]:
        from auffusion_cli.tasks.extend import extend
        from auffusion_cli.tasks.inpaint import inpaint
        from auffusion_cli.tasks.style_transfer import style_transfer

        tasks = {"inpaint": inpaint, "extend": extend, "style-transfer": style_transfer}
        return tasks[ask.task]

    def _keep_version(
        self, job: Job, source: Sound, result: Result, *, title: str | None = None
    ) -> None:
        sound = self.history.add(
            result.save,
            title=title or job.ask.title or source.title,
            task=job.ask.task,
            suffix=".flac" if source.file.endswith(".flac") else ".wav",
            parent=source.id,
            record=result.provenance.to_dict(),
            remarks=job.remarks,
        )
        job.sounds.append(sound.id)

    def _remark_on_words(self, job: Job) -> None:
        """Tell of words that the model was not taught."""
        if not isinstance(job.ask, Ask) or not job.ask.prompt:
            return
        for unknown in self._model.unknown(job.ask.prompt):
            job.remarks.append(
                f"the model does not know “{unknown.words}”; nearest: {', '.join(unknown.nearest)}"
            )


def _told(selection: Selection) -> list[str]:
    """What the guards did, in lines."""
    told = [f"made again with another seed: {one.fault}" for one in selection.rejected]
    return [*told, f"may be {selection.fault}"] if selection.fault else told


def _made_from_words(sound: Sound) -> Provenance:
    """The record of a sound whose words can be changed.

    Raises:
        UsageError: it is no such sound.
    """
    record = sound.record or {}
    is_other = record.get("loop") or record.get("loras") or record.get("near_seed") is not None
    if record.get("task") != "generate" or is_other:
        raise UsageError(
            "only the words of a sound that was made from one prompt can be changed",
            hint="Not those of a recording, a version, a loop, a timeline or a variation, nor of a"
            " model with a LoRA.",
        )
    return Provenance.from_dict(record)


def _record_of(sound: Sound) -> Provenance | None:
    """The record of a sound; None where it has none that can be used."""
    with suppress(AudioError):
        return Provenance.from_dict(sound.record)
    return None


@contextmanager
def _caught_warnings(job: Job) -> Iterator[None]:
    """Within it warnings for the user become remarks of the job, and others are nobody's."""

    def remark(message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, AuffusionWarning):
            job.remarks.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", AuffusionWarning)
        warnings.showwarning = remark
        yield
