"""Requests of each task, checked before anything heavy is loaded. No torch.

Command line, Python and the records inside sound files all pass through the checks here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from auffusion_cli.config import (
    MAX_DURATION_S,
    SETTING_LIMITS,
    Limits,
)
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.checks import (
    check_flag,
    check_limits,
    check_seed,
    check_source,
    check_text,
    check_texts,
    check_words,
    shown,
)
from auffusion_cli.requests.settings import GenerateSettings as GenerateSettings
from auffusion_cli.requests.timeline import LONGEST, parse_timeline
from auffusion_cli.requests.word_edits import WordEdit, edit_words

MAX_MASKS = 100
CROSSFADE = Limits(0.0, 1.0, unit=" s")
RESAMPLE = Limits(1, 100, whole=True)
SHARE = Limits(0.0, 1.0)
DECIBELS = Limits(0.0, 60.0, unit=" dB")
FADE = Limits(0.0, 60.0, unit=" s")
SAMPLES = Limits(0, 2**40, whole=True)
STYLE_METHODS = ("sdedit", "inversion")
EXTEND_WHERE = ("after", "before", "loop")
"""Loop: the new part leads from the end to the start."""
MAX_WORD_EDITS = 100


@dataclass(frozen=True)
class GenerateRequest:
    """One sound: prompt and seed. The same request gives the same sound in any batch."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    """Description of what the sound should not be like; "" is none."""
    trim: bool = field(default=False, kw_only=True)
    """Of what fills the model's window keep the part with the sound rather than its start."""
    one_shot: bool = field(default=False, kw_only=True)
    """Of the sound keep one event, as long as it lasts, though no longer than the duration."""
    loop: bool = field(default=False, kw_only=True)
    """The sound is played again and again, and has no seam."""
    near_seed: int | None = field(default=None, kw_only=True)
    """Seed of a sound that this one is to be like, if of any."""
    nearness: float = field(default=0.0, kw_only=True)
    """How far the noise that it starts from is turned towards that sound's; 1 is the same noise."""
    task: ClassVar[str] = "generate"

    def __post_init__(self) -> None:
        check_words(self.prompt, self.negative_prompt)
        check_seed(self.seed)
        check_flag("--trim", self.trim)
        check_flag("--one-shot", self.one_shot)
        check_flag("--loop", self.loop)
        if self.loop and self.one_shot:
            raise UsageError("--loop does not work with --one-shot, which ends")
        if self.loop and self.trim:
            raise UsageError("--loop does not work with --trim, which fades the sound's end")
        if self.one_shot and not self.trim:
            raise UsageError("--one-shot does not work with --no-trim, which keeps the start")
        self._check_nearness()

    def _check_nearness(self) -> None:
        check_limits("--nearness", self.nearness, SHARE)
        if self.near_seed is not None:
            check_seed(self.near_seed, "--near")
        elif self.nearness:
            raise UsageError(
                f"--nearness {self.nearness:g} is to no sound", hint="Add --near SEED."
            )


@dataclass(frozen=True)
class TimelineRequest(GenerateRequest):
    """One sound whose prompt changes in time; `prompt` holds below all of it, and may be empty."""

    timeline: str = ""
    """Regions, as `timeline.parse_timeline` reads them."""
    task: ClassVar[str] = "timeline"

    def __post_init__(self) -> None:
        check_text("--timeline", self.timeline)
        parse_timeline(self.timeline, MAX_DURATION_S, LONGEST)
        if self.trim:
            raise UsageError("--trim does not work with --timeline, whose times are fixed")
        if self.one_shot:
            raise UsageError("--one-shot does not work with --timeline, whose times are fixed")
        if self.loop:
            raise UsageError("--loop does not work with --timeline")
        check_words(self.prompt, self.negative_prompt, may_be_empty=True)
        check_seed(self.seed)
        self._check_nearness()


@dataclass(frozen=True)
class InpaintRequest:
    """A part of a recording, generated anew; the rest of it stays."""

    source: str
    """The recording's file name, without a folder."""
    source_sha256: str
    seed: int
    masks: tuple[str, ...] = ()
    """Spans of time, as `masks.parse_times` reads them; none is the whole clip."""
    bands: tuple[str, ...] = ()
    """Bands of frequency, as `masks.parse_bands` reads them; none is all frequencies."""
    prompt: str = ""
    """"" leaves it to the model what fits."""
    negative_prompt: str = ""
    crossfade_s: float = 0.02
    resample: int = 1
    """Times that each step is taken (RePaint, Lugmayr et al. 2022); 1 is off."""
    room_tone: bool = False
    """Fill the masks with the recording's background noise alone; no model is used."""
    extend_band: bool = False
    """Make for the new sound what the recording has above the model's highest frequency."""
    task: ClassVar[str] = "inpaint"

    def __post_init__(self) -> None:
        check_source(self.source, self.source_sha256)
        check_words(self.prompt, self.negative_prompt, may_be_empty=True)
        check_seed(self.seed)
        for option, name in (("--mask", "masks"), ("--band", "bands")):
            object.__setattr__(self, name, check_texts(option, getattr(self, name), MAX_MASKS))
        if not self.masks and not self.bands:
            raise UsageError(
                "neither --mask nor --band is given",
                hint="For example: --mask 2-4s, or --band 4k-8k.",
            )
        check_limits("--crossfade", self.crossfade_s, CROSSFADE)
        check_limits("--resample", self.resample, RESAMPLE)
        check_flag("--room-tone", self.room_tone)
        check_flag("--extend-band", self.extend_band)
        if self.room_tone and (self.prompt or self.negative_prompt):
            raise UsageError("--room-tone is background noise alone, and takes no prompt")


@dataclass(frozen=True)
class ExtendRequest:
    """A continuation of a recording: after its end, before its start, or from end to start."""

    source: str
    """The recording's file name, without a folder."""
    source_sha256: str
    seed: int
    by_s: float
    where: str = "after"
    """One of `EXTEND_WHERE`."""
    prompt: str = ""
    """"" leaves it to the model what fits."""
    negative_prompt: str = ""
    crossfade_s: float = 0.1
    over_s: float = 0.0
    """So much of the recording is made anew where it is extended, such as a fade."""
    extend_band: bool = False
    """Like `InpaintRequest.extend_band`."""
    task: ClassVar[str] = "extend"
    resample: ClassVar[int] = 1
    """Like `InpaintRequest.resample`."""

    def __post_init__(self) -> None:
        check_source(self.source, self.source_sha256)
        check_words(self.prompt, self.negative_prompt, may_be_empty=True)
        check_seed(self.seed)
        check_flag("--extend-band", self.extend_band)
        check_limits("--by", self.by_s, SETTING_LIMITS["duration_s"])
        check_limits("--over", self.over_s, FADE)
        if self.where not in EXTEND_WHERE:
            raise UsageError(
                f"extending {shown(self.where)} is not known",
                hint=f"Valid: {', '.join(EXTEND_WHERE)}.",
            )
        check_limits("--crossfade", self.crossfade_s, CROSSFADE)

    @property
    def new_s(self) -> float:
        """All that is made."""
        return self.by_s + self.over_s


@dataclass(frozen=True)
class StyleTransferRequest:
    """A recording turned into the sound of the prompt, with its own course in time."""

    source: str
    """The recording's file name, without a folder."""
    source_sha256: str
    prompt: str
    seed: int
    strength: float
    """The share of the steps that is taken: 1 leaves nothing of the recording."""
    negative_prompt: str = ""
    method: str = "sdedit"
    """The way from the recording to the noise it starts from: one of `STYLE_METHODS`."""
    extend_band: bool = False
    """Like `InpaintRequest.extend_band`."""
    task: ClassVar[str] = "style-transfer"

    def __post_init__(self) -> None:
        check_source(self.source, self.source_sha256)
        check_words(self.prompt, self.negative_prompt)
        check_seed(self.seed)
        check_flag("--extend-band", self.extend_band)
        check_limits("--strength", self.strength, SHARE)
        if self.method not in STYLE_METHODS:
            raise UsageError(
                f"--method {shown(self.method)} is not known",
                hint=f"Valid: {', '.join(STYLE_METHODS)}.",
            )

    def first_step(self, steps: int) -> int:
        """The step of `steps` to start at.

        Raises:
            UsageError: not even one step would be taken.
        """
        n_taken = int(steps * self.strength)
        if n_taken == 0:
            raise UsageError(
                f"--strength {self.strength:g} of {steps} steps is less than one step",
                hint=f"Valid: {1 / steps:.3g} to 1; or more --steps.",
            )
        return steps - n_taken


@dataclass(frozen=True)
class EditRequest:
    """A sound made from a prompt, with words of the prompt changed (prompt-to-prompt)."""

    prompt: str
    """Of the sound before the edit."""
    seed: int
    negative_prompt: str = ""
    swaps: tuple[str, ...] = ()
    """As `word_edits.edit_words` reads them, like the next two."""
    refine: str = ""
    reweights: tuple[str, ...] = ()
    cross_steps: float = 0.8
    """Share of the steps that keep the words' cross-attention of before the edit."""
    self_steps: float = 0.4
    """Share of the steps that keep the self-attention of before the edit."""
    source: str = ""
    """Name of the file that prompt, seed and settings were read from, if from any."""
    source_sha256: str = ""
    trim: bool = field(default=False, kw_only=True)
    """Cut both sounds as `GenerateRequest.trim` cuts the one before the edit."""
    one_shot: bool = field(default=False, kw_only=True)
    """The same of `GenerateRequest.one_shot`."""
    task: ClassVar[str] = "edit"

    def __post_init__(self) -> None:
        check_words(self.prompt, self.negative_prompt)
        check_seed(self.seed)
        check_flag("--trim", self.trim)
        check_flag("--one-shot", self.one_shot)
        for option, name in (("--swap", "swaps"), ("--reweight", "reweights")):
            texts = check_texts(option, getattr(self, name), MAX_WORD_EDITS)
            object.__setattr__(self, name, texts)
        check_text("--refine", self.refine)
        check_text("the edited prompt", self.word_edit.prompt)
        check_limits("--cross-steps", self.cross_steps, SHARE)
        check_limits("--self-steps", self.self_steps, SHARE)
        if self.source or self.source_sha256:
            check_source(self.source, self.source_sha256)

    @property
    def word_edit(self) -> WordEdit:
        """The prompt after the edits."""
        return edit_words(self.prompt, self.swaps, self.refine, self.reweights)


@dataclass(frozen=True)
class FinishRequest:
    """A sound file, or a part of one, finished; what is done to it stands in the record."""

    source: str
    """The file's name, without a folder."""
    source_sha256: str
    prompt: str = ""
    """Of the file's own record, if it has one."""
    loop: bool = False
    """The file is played again and again: it is finished across its seam."""
    first_sample: int = 0
    n_samples: int | None = None
    """None is all of the file from the first sample on."""
    task: ClassVar[str] = "finish"
    seed: ClassVar[int] = 0
    """Nothing is drawn."""

    def __post_init__(self) -> None:
        check_source(self.source, self.source_sha256)
        check_text("the prompt", self.prompt)
        check_flag("loop", self.loop)
        for name in ("first_sample", "n_samples"):
            value = getattr(self, name)
            if not (SAMPLES.allow(value) or (value is None and name == "n_samples")):
                raise UsageError(
                    f"{name} {shown(value)} is not possible", hint=f"Valid: {SAMPLES}."
                )


@dataclass(frozen=True)
class MixRequest:
    """A recording with a bed under it: another recording, or a sound made of words for it."""

    source: str
    """The recording's file name, without a folder."""
    source_sha256: str
    below_db: float
    """Loudness of the bed in pauses, below that of the recording."""
    duck_db: float
    """So much softer is the bed while the recording speaks."""
    fade_s: float
    under: str = ""
    """The bed's file name, without a folder; "" where it is made of `prompt`."""
    under_sha256: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    extend_band: bool = False
    """Make what the bed lacks above half of its rate."""
    task: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        check_source(self.source, self.source_sha256)
        if self.under:
            check_source(self.under, self.under_sha256)
        check_words(self.prompt, self.negative_prompt, may_be_empty=bool(self.under))
        check_seed(self.seed)
        check_flag("--extend-band", self.extend_band)
        check_limits("--below", self.below_db, DECIBELS)
        check_limits("--duck", self.duck_db, DECIBELS)
        check_limits("--fade", self.fade_s, FADE)


Request = (
    FinishRequest
    | MixRequest
    | GenerateRequest
    | TimelineRequest
    | InpaintRequest
    | ExtendRequest
    | StyleTransferRequest
    | EditRequest
)


def needs_model(request: Request) -> bool:
    """Whether a model makes the sound of `request`; room tone is the recording's own."""
    if isinstance(request, FinishRequest):
        return False
    if isinstance(request, MixRequest):
        return bool(request.prompt)
    return not (isinstance(request, InpaintRequest) and request.room_tone)


REQUESTS: dict[str, type[Request]] = {
    request.task: request
    for request in (
        GenerateRequest,
        TimelineRequest,
        InpaintRequest,
        ExtendRequest,
        StyleTransferRequest,
        EditRequest,
        FinishRequest,
        MixRequest,
    )
}
"""Task -> the class of its requests."""
