"""Requests and settings of each task, checked before anything heavy is loaded. No torch.

Command line, Python and the records inside sound files all pass through the checks here.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from auffusion_cli.config import (
    MAX_DURATION_S,
    SCHEDULERS,
    SETTING_LIMITS,
    GenerationDefaults,
    Limits,
)
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.timeline import LONGEST, parse_timeline
from auffusion_cli.requests.word_edits import WordEdit, edit_words

MAX_PROMPT_CHARACTERS = 10_000
MAX_SEED = 2**63 - 1
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


def draw_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


def line_seed(seed: int, line: int) -> int:
    """Seed of a line of a list, from the list's seed and the line's number alone.

    With one seed for all lines their sounds would be alike in time: the same noise has its events
    at the same moments, whatever the prompt.
    """
    digest = hashlib.sha256(f"{seed}:{line}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class GenerateRequest:
    """One sound: prompt and seed. The same request gives the same sound in any batch."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    """Description of what the sound should not be like; "" is none."""
    trim: bool = field(default=False, kw_only=True)
    """Of what fills the model's window keep the part with the sound rather than its start."""
    task: ClassVar[str] = "generate"

    def __post_init__(self) -> None:
        _check_words(self.prompt, self.negative_prompt)
        _check_seed(self.seed)
        _check_flag("--trim", self.trim)


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
        _check_words(self.prompt, self.negative_prompt, may_be_empty=True)
        _check_seed(self.seed)


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
    task: ClassVar[str] = "inpaint"

    def __post_init__(self) -> None:
        _check_source(self.source, self.source_sha256)
        _check_words(self.prompt, self.negative_prompt, may_be_empty=True)
        _check_seed(self.seed)
        for option, name in (("--mask", "masks"), ("--band", "bands")):
            texts = getattr(self, name)
            if not isinstance(texts, list | tuple) or len(texts) > MAX_MASKS:
                raise UsageError(f"{option}: not a list of up to {MAX_MASKS}")
            for text in texts:
                check_text(option, text)
            object.__setattr__(self, name, tuple(texts))  # a record in a file has lists
        if not self.masks and not self.bands:
            raise UsageError(
                "neither --mask nor --band is given",
                hint="For example: --mask 2-4s, or --band 4k-8k.",
            )
        _check_limits("--crossfade", self.crossfade_s, CROSSFADE)
        _check_limits("--resample", self.resample, RESAMPLE)
        _check_flag("--room-tone", self.room_tone)
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
    task: ClassVar[str] = "extend"
    resample: ClassVar[int] = 1
    """Like `InpaintRequest.resample`."""

    def __post_init__(self) -> None:
        _check_source(self.source, self.source_sha256)
        _check_words(self.prompt, self.negative_prompt, may_be_empty=True)
        _check_seed(self.seed)
        _check_limits("--by", self.by_s, SETTING_LIMITS["duration_s"])
        if self.where not in EXTEND_WHERE:
            raise UsageError(
                f"extending {_shown(self.where)} is not known",
                hint=f"Valid: {', '.join(EXTEND_WHERE)}.",
            )
        _check_limits("--crossfade", self.crossfade_s, CROSSFADE)


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
    task: ClassVar[str] = "style-transfer"

    def __post_init__(self) -> None:
        _check_source(self.source, self.source_sha256)
        _check_words(self.prompt, self.negative_prompt)
        _check_seed(self.seed)
        _check_limits("--strength", self.strength, SHARE)
        if self.method not in STYLE_METHODS:
            raise UsageError(
                f"--method {_shown(self.method)} is not known",
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
    task: ClassVar[str] = "edit"

    def __post_init__(self) -> None:
        _check_words(self.prompt, self.negative_prompt)
        _check_seed(self.seed)
        _check_flag("--trim", self.trim)
        for option, name in (("--swap", "swaps"), ("--reweight", "reweights")):
            texts = getattr(self, name)
            if not isinstance(texts, list | tuple) or len(texts) > MAX_WORD_EDITS:
                raise UsageError(f"{option}: not a list of up to {MAX_WORD_EDITS}")
            for text in texts:
                check_text(option, text)
            object.__setattr__(self, name, tuple(texts))  # a record in a file has lists
        check_text("--refine", self.refine)
        check_text("the edited prompt", self.word_edit.prompt)
        _check_limits("--cross-steps", self.cross_steps, SHARE)
        _check_limits("--self-steps", self.self_steps, SHARE)
        if self.source or self.source_sha256:
            _check_source(self.source, self.source_sha256)

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
        _check_source(self.source, self.source_sha256)
        check_text("the prompt", self.prompt)
        _check_flag("loop", self.loop)
        for name in ("first_sample", "n_samples"):
            value = getattr(self, name)
            if not (SAMPLES.allow(value) or (value is None and name == "n_samples")):
                raise UsageError(
                    f"{name} {_shown(value)} is not possible", hint=f"Valid: {SAMPLES}."
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
    task: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        _check_source(self.source, self.source_sha256)
        if self.under:
            _check_source(self.under, self.under_sha256)
        _check_words(self.prompt, self.negative_prompt, may_be_empty=bool(self.under))
        _check_seed(self.seed)
        _check_limits("--below", self.below_db, DECIBELS)
        _check_limits("--duck", self.duck_db, DECIBELS)
        _check_limits("--fade", self.fade_s, FADE)


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


SETTING_OPTIONS = {
    "duration_s": "--duration",
    "steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_rescale": "--guidance-rescale",
}


@dataclass(frozen=True)
class GenerateSettings:
    """Sampling settings with nothing left open, shared by the requests of a run."""

    duration_s: float
    steps: int
    guidance_scale: float
    guidance_rescale: float
    scheduler: str

    def __post_init__(self) -> None:
        for name, option in SETTING_OPTIONS.items():
            _check_limits(option, getattr(self, name), SETTING_LIMITS[name])
        if self.scheduler not in tuple(SCHEDULERS):  # it may be unhashable
            raise UsageError(
                f"--scheduler {_shown(self.scheduler)} is not known",
                hint=f"Valid: {', '.join(SCHEDULERS)}.",
            )

    @classmethod
    def from_defaults(cls, defaults: GenerationDefaults, **asked: Any) -> GenerateSettings:
        """The checkpoint's defaults, but for the values `asked`; None is not asked.

        Raises:
            UsageError: a value is impossible.
        """
        values = {name: getattr(defaults, name) for name in cls.__dataclass_fields__}
        values |= {name: value for name, value in asked.items() if value is not None}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _check_words(prompt: Any, negative_prompt: Any, *, may_be_empty: bool = False) -> None:
    is_empty = not isinstance(prompt, str) or not prompt.strip()
    if is_empty and not (may_be_empty and prompt == ""):
        raise UsageError("the prompt is empty", hint='Try "dog barking in rain".')
    check_text("the prompt", prompt)
    check_text("--negative", negative_prompt)


def _check_seed(seed: Any) -> None:
    if not _is_int(seed) or not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed {_shown(seed)} is not a whole number from 0 to 2^63 - 1")


def _check_source(name: Any, sha256: Any) -> None:
    check_text("the source's name", name)
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise UsageError(f"the source {_shown(name)} is not a file name")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError("the source's SHA-256 is not 64 hexadecimal digits")


def check_text(name: str, text: Any) -> None:
    """Raise a UsageError unless `text` is reasonable text without control characters.

    Prompts come from files too, and are printed: an escape sequence must not reach a terminal.
    """
    if not isinstance(text, str):
        raise UsageError(f"{name} is not text: {_shown(text)}")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UsageError(
            f"{name} is too long: {len(text):,} characters",
            hint=f"There can be {MAX_PROMPT_CHARACTERS:,}.",
        )
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise UsageError(f"{name} has a character that is not text: U+{ord(character):04X}")


def _check_limits(option: str, value: Any, limits: Limits) -> None:
    if not limits.allow(value):
        raise UsageError(f"{option} {_shown(value)} is not possible", hint=f"Valid: {limits}.")


def _shown(value: Any) -> str:
    """`value` in a message, which it may not fill: a record can hold anything."""
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        shown = f"of type {type(value).__name__}"
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _check_flag(option: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{option} {_shown(value)} is not possible", hint="Valid: true or false.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
