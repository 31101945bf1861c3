"""From an ask to sounds in the history: what the worker of a studio does, with one warm model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import AuffusionWarning, UsageError
from auffusion_cli.requests.selection import Choosing, Selection
from auffusion_cli.studio.asks import (
    AnyAsk,
    EditAsk,
    ExtendAsk,
    FinishAsk,
    GenerateAsk,
    InpaintAsk,
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

Report = Callable[[int, int], None]
"""Called with the number of denoising steps done and of all; raises Cancelled."""


class Maker:
    """The work of a studio; `load` is called on the worker's thread, `work` after it."""

    def __init__(
        self, load_model: Callable[[], Model], defaults: GenerationDefaults, history: History
    ) -> None:
        self.defaults = defaults
        self.history = history
        self._load_model = load_model
        self._model: Model | None = None
        self._judge: Judge | None = None
        self._chooser: Chooser | None = None

    def load(self) -> None:
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
        if isinstance(ask, GenerateAsk):
            ask.settings(self.defaults, ask.duration_s)
        elif isinstance(ask, FinishAsk):
            source = self.history.find(ask.source)
            if source.is_loop and (ask.fade_in_s or ask.fade_out_s):
                raise UsageError("a loop has no fades")
        else:
            self._check_edit(ask, self.history.find(ask.source))

    def _check_edit(self, ask: EditAsk, source: Sound) -> None:
        from auffusion_cli.config import SpectrogramConfig
        from auffusion_cli.requests.masks import parse_bands, parse_times

        added_s = ask.by_s if isinstance(ask, ExtendAsk) else 0.0
        settings = ask.settings(self.defaults, source.duration_s + added_s)
        if isinstance(ask, InpaintAsk):
            if ask.masks:
                parse_times(ask.masks, source.duration_s)
            if ask.bands:
                parse_bands(ask.bands, SpectrogramConfig.fmax_hz)
            if ask.resample > 1 and settings.scheduler != "ddim":
                raise UsageError("resample above 1 works with the scheduler ddim only")

    def work(self, job: Job, report: Report) -> None:
        """Make what `job` asks for; each sound is in the history as soon as it is made."""
        assert self._model is not None and self._judge is not None
        with _caught_warnings(job):
            self._remark_on_words(job)
            if isinstance(job.ask, GenerateAsk):
                self._generate(job, report)
            elif isinstance(job.ask, FinishAsk):
                self._finish(job)
            else:
                self._edit(job, report)

    def _generate(self, job: Job, report: Report) -> None:
        from auffusion_cli.tasks.generate import generate

        ask: GenerateAsk = job.ask
        settings = ask.settings(self.defaults, ask.duration_s)
        requests = ask.requests()

        def on_step(batch, step) -> None:
            n_made = len(job.sounds)
            share = (step.index + 1) * len(batch)
            report(n_made * step.n_steps + share, len(requests) * step.n_steps)

        for result in generate(self._model, requests, settings, on_step=on_step):
            sound = self.history.add(
                result.save,
                title=ask.title,
                task=ask.task,
                record=result.provenance.to_dict(),
                remarks=job.remarks,
                score=self._judge.score(result.waveform, ask.prompt),
            )
            job.sounds.append(sound.id)

    def _edit(self, job: Job, report: Report) -> None:
        from auffusion_cli.signal.recording import read_recording
        from auffusion_cli.tasks.choose import choose_edit

        ask: EditAsk = job.ask
        source = self.history.find(ask.source)
        path = self.history.path(source)
        recording = read_recording(path)
        request = ask.request(path.name, recording.sha256)
        added_s = ask.by_s if isinstance(ask, ExtendAsk) else 0.0
        settings = ask.settings(self.defaults, recording.duration_s + added_s)
        task = self._task(ask)

        def edit(each: Request) -> EditResult:
            return task(self._model, recording, each, settings, on_progress=report)

        (result,) = choose_edit(self._chooser, edit, request)
        if selection := result.provenance.selection:
            job.remarks += _told(selection)
        self._keep_version(job, source, result)

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

    def _keep_version(self, job: Job, source: Sound, result: EditResult | FinishResult) -> None:
        sound = self.history.add(
            result.save,
            title=job.ask.title or source.title,
            task=job.ask.task,
            suffix=".flac" if source.file.endswith(".flac") else ".wav",
            parent=source.id,
            record=result.provenance.to_dict(),
            remarks=job.remarks,
        )
        job.sounds.append(sound.id)

    def _remark_on_words(self, job: Job) -> None:
        """Tell of words that the model was not taught."""
        if not job.ask.title or self._model is None:
            return
        for unknown in self._model.unknown(job.ask.prompt):
            job.remarks.append(
                f"the model does not know “{unknown.words}”; nearest: {', '.join(unknown.nearest)}"
            )


def _told(selection: Selection) -> list[str]:
    """What the guards did, in lines."""
    told = [f"made again with another seed: {one.fault}" for one in selection.rejected]
    return [*told, f"may be {selection.fault}"] if selection.fault else told


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
