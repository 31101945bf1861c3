"""What can be asked of a studio, a dataclass a task: the bodies of the API's POST requests.

Each is decoded from JSON, then checked by building the request and settings that it stands for,
before it waits in the queue. Sources are ids of the history, never paths.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from auffusion_cli.config import GenerationDefaults, SchedulerName
from auffusion_cli.errors import UsageError
from auffusion_cli.parsing import decode
from auffusion_cli.requests.finish import Finish
from auffusion_cli.requests.request import (
    EditRequest,
    ExtendRequest,
    FinishRequest,
    GenerateRequest,
    GenerateSettings,
    InpaintRequest,
    StyleTransferRequest,
    TimelineRequest,
)
from auffusion_cli.requests.seeds import draw_seed, seed_after
from auffusion_cli.requests.timeline import parse_timeline, timeline_duration

MAX_CANDIDATES = 64
MAX_SOUND_S = 600.0
"""Of what is made, or brought in: one job is not to keep the others waiting for an hour."""
ANY_SHA256 = "0" * 64
"""Stands for the source's while an ask is checked, before the file is read."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What all tasks share; None is the model's default, or a seed that is drawn."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    scheduler: SchedulerName | None = None
    task: ClassVar[str]

    @property
    def title(self) -> str:
        return " ".join(self.prompt.split())

    def settings(self, defaults: GenerationDefaults, duration_s: float | None) -> GenerateSettings:
        """Settings of a sound of `duration_s`.

        Raises:
            UsageError: one is impossible, or it is too long for the studio.
        """
        names = ("steps", "guidance_scale", "guidance_rescale", "scheduler")
        asked = {name: getattr(self, name) for name in names}
        settings = GenerateSettings.from_defaults(defaults, duration_s=duration_s, **asked)
        if settings.duration_s > MAX_SOUND_S:
            raise UsageError(
                f"{settings.duration_s:g} s are too long for the studio",
                hint=f"Valid: up to {MAX_SOUND_S:g} s; the command line makes longer sounds.",
            )
        return settings


@dataclass(frozen=True, kw_only=True)
class GenerateAsk(Ask):
    """Candidates from words, or of a timeline; each has a seed of its own."""

    n: int = 1
    """Number of candidates."""
    duration_s: float | None = None
    near_seed: int | None = None
    """Seed of a sound of the same words that these are to be like."""
    nearness: float = 0.0
    """0 to 1: how like that."""
    trim: bool = True
    """Of a sound shorter than the model's window keep the part with the sound; of a loop or a
    timeline all is kept."""
    one_shot: bool = False
    """Keep one event, as long as it lasts."""
    loop: bool = False
    """Without a seam, to be played again and again."""
    timeline: str = ""
    """Sounds at their times over the prompt, which may then be empty: 0-3s a dog; 2-6s rain."""
    task: ClassVar[str] = "generate"

    @property
    def title(self) -> str:
        return " ".join(f"{self.prompt} {self.timeline}".split())

    def lasting_s(self) -> float | None:
        """The duration that is asked for, or follows from the timeline; None is the model's.

        Raises:
            UsageError: the timeline cannot be read, or lies outside of the duration.
        """
        if not self.timeline:
            return self.duration_s
        if self.duration_s is None:
            return timeline_duration(self.timeline, MAX_SOUND_S)
        parse_timeline(self.timeline, self.duration_s)
        return self.duration_s

    def requests(self) -> list[GenerateRequest]:
        """One a candidate, of seeds that follow each other, as `auffusion generate -n` has them."""
        if not 1 <= self.n <= MAX_CANDIDATES:
            raise UsageError(
                f"{self.n} candidates are not possible", hint=f"Valid: 1 to {MAX_CANDIDATES}."
            )
        near = {"near_seed": self.near_seed, "nearness": self.nearness}
        if self.timeline:
            whole = {"one_shot": self.one_shot, "loop": self.loop}
            own = {"timeline": self.timeline, **whole, **near}
            return [
                TimelineRequest(self.prompt, seed, self.negative_prompt, **own)
                for seed in self._seeds()
            ]
        own = {"trim": self.trim and not self.loop, "one_shot": self.one_shot, "loop": self.loop}
        return [
            GenerateRequest(self.prompt, seed, self.negative_prompt, **own, **near)
            for seed in self._seeds()
        ]

    def _seeds(self) -> list[int]:
        return [seed_after(self.seed, i) for i in range(self.n)]


@dataclass(frozen=True, kw_only=True)
class EditAsk(Ask):
    """What all changes of a recording share."""

    source: str
    """Id of a sound of the history."""


@dataclass(frozen=True, kw_only=True)
class InpaintAsk(EditAsk):
    """New sound for a part of a recording."""

    masks: tuple[str, ...] = ()
    """Spans of time, such as 2-4s; none is the whole."""
    bands: tuple[str, ...] = ()
    """Bands of frequency, such as 4k-8k; none is all."""
    crossfade_s: float = 0.02
    resample: int = 1
    task: ClassVar[str] = "inpaint"

    def request(self, name: str, sha256: str) -> InpaintRequest:
        return InpaintRequest(
            source=name,
            source_sha256=sha256,
            seed=self.seed,
            masks=self.masks,
            bands=self.bands,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            crossfade_s=self.crossfade_s,
            resample=self.resample,
        )


@dataclass(frozen=True, kw_only=True)
class ExtendAsk(EditAsk):
    """More of a recording, or a loop of it."""

    by_s: float = 1.0
    where: Literal["after", "before", "loop"] = "after"
    crossfade_s: float = 0.1
    over_s: float | None = None
    """So much of the recording is made anew where it is extended; by default the fade that its
    record tells of."""
    task: ClassVar[str] = "extend"

    def request(self, name: str, sha256: str) -> ExtendRequest:
        return ExtendRequest(
            source=name,
            source_sha256=sha256,
            seed=self.seed,
            by_s=self.by_s,
            where=self.where,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            crossfade_s=self.crossfade_s,
            over_s=self.over_s or 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class StyleTransferAsk(EditAsk):
    """A recording turned into the sound of the words."""

    strength: float = 0.6
    """0 to 1: how far from the recording."""
    method: Literal["sdedit", "inversion"] = "sdedit"
    task: ClassVar[str] = "style-transfer"

    def request(self, name: str, sha256: str) -> StyleTransferRequest:
        return StyleTransferRequest(
            source=name,
            source_sha256=sha256,
            prompt=self.prompt,
            seed=self.seed,
            strength=self.strength,
            negative_prompt=self.negative_prompt,
            method=self.method,
        )


@dataclass(frozen=True, kw_only=True)
class WordsAsk:
    """A sound made from words, with some of its words swapped or weighed; its seed and settings
    stay."""

    source: str
    """Id of a sound of the history."""
    swaps: tuple[str, ...] = ()
    """Such as dog=cat; dog#2=cat is the second such word."""
    refine: str = ""
    """Such as … in a cathedral."""
    reweights: tuple[str, ...] = ()
    """Such as rain=2.0; of the words after the swaps."""
    cross_steps: float = 0.8
    self_steps: float = 0.4
    task: ClassVar[str] = "edit"
    title: ClassVar[str] = ""
    seed: ClassVar[int] = 0
    """The source's."""

    def check(self) -> None:
        """Raise a UsageError where nothing is asked for."""
        if not (self.swaps or self.refine or self.reweights):
            raise UsageError("no word is changed", hint='For example swaps of ["dog=cat"].')

    def request(self, source: GenerateRequest, name: str, sha256: str) -> EditRequest:
        """Of the sound that `source` asked for, in the file `name`."""
        return EditRequest(
            prompt=source.prompt,
            seed=source.seed,
            negative_prompt=source.negative_prompt,
            swaps=self.swaps,
            refine=self.refine,
            reweights=self.reweights,
            cross_steps=self.cross_steps,
            self_steps=self.self_steps,
            source=name,
            source_sha256=sha256,
            trim=source.trim,
            one_shot=source.one_shot,
        )


@dataclass(frozen=True, kw_only=True)
class FinishAsk:
    """A recording brought to a rate, number of channels and level; no model is used."""

    source: str
    """Id of a sound of the history."""
    low_cut_hz: float | None = None
    """What is below is taken away."""
    rate_hz: int | None = None
    channels: int | None = None
    """2 makes a stereo image of one channel."""
    loudness_lufs: float | None = None
    peak_db: float | None = None
    fade_in_s: float = 0.0
    fade_out_s: float = 0.0
    broadcast: bool = False
    extend_band: bool = False
    """With `rate_hz`: what is missing above half of the source's rate is made."""
    task: ClassVar[str] = "finish"
    title: ClassVar[str] = ""
    seed: ClassVar[int] = 0
    """Nothing is drawn."""

    def finish(self) -> Finish:
        """What is asked for.

        Raises:
            UsageError: nothing is, or something is impossible.
        """
        names = [field.name for field in fields(self) if field.name != "source"]
        asked = Finish(**{name: getattr(self, name) for name in names})
        if not asked.to_dict():
            raise UsageError("nothing is asked for", hint="For example a rate_hz of 48000.")
        return asked

    def request(
        self, name: str, sha256: str, *, title: str = "", loop: bool = False
    ) -> FinishRequest:
        """`title` and `loop` are those of the source's record."""
        self.finish()
        return FinishRequest(name, sha256, prompt=title, loop=loop)


AnyAsk = GenerateAsk | EditAsk | WordsAsk | FinishAsk
ASKS: dict[str, type[AnyAsk]] = {
    ask.task: ask
    for ask in (GenerateAsk, InpaintAsk, ExtendAsk, StyleTransferAsk, WordsAsk, FinishAsk)
}
"""Task -> the class of what can be asked of it."""


def read_ask(task: str, body: Any) -> AnyAsk:
    """The ask of a JSON body, with a seed; it is checked as far as that needs no source.

    Raises:
        UsageError: a field is not known, of the wrong type or impossible.
    """
    try:
        ask = decode(ASKS[task], body)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if ask.seed is None:
        ask = replace(ask, seed=draw_seed())
    if isinstance(ask, GenerateAsk):
        ask.requests()
        ask.lasting_s()
    elif isinstance(ask, WordsAsk):
        ask.check()
    else:
        ask.request("recording.wav", ANY_SHA256)
    return ask


def to_dict(ask: AnyAsk) -> dict[str, Any]:
    """The fields that were given or drawn."""
    defaults = {field.name: field.default for field in fields(ask)}
    return {name: value for name, value in asdict(ask).items() if value != defaults[name]}
