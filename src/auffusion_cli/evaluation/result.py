"""The result of an evaluation and its JSON form. No torch.

It holds everything that a table, a page or a comparison shows, and everything that is needed to
believe it: which files were measured (by content), with which networks, under which protocol.
The same files and settings give the same result, but for the last digits of its numbers, which
depend on the order in which threads and batches add them up.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from auffusion_cli.errors import DataError
from auffusion_cli.files import write_text
from auffusion_cli.parsing import decode, parse_json, read_text

FORMAT_VERSION = 1
MAX_FILE_BYTES = 200_000_000

Flag = Literal[
    "unreadable",
    "silent",
    "constant",
    "clipped",
    "too-short",
    "wrong-rate",
    "several-channels",
    "duplicate",
    "in-reference",
    "same-name",
    "no-partner",
]
"""A flaw of a file; `clips.py` defines each."""


@dataclass(frozen=True)
class BackboneRecord:
    """A network behind some of the metrics."""

    name: str
    """"cnn14", "vggish", "clap", or "tagger", the one that comes with this package."""
    weights: str
    """Their published name."""
    weights_sha256: str
    identity: str
    """Changes with everything on which its features depend (`embedders.identity`)."""
    sample_rate_hz: int


@dataclass(frozen=True)
class Metric:
    """One number of one system."""

    name: str
    """"FD", "FAD" …: the paper's, from published networks; "FD-tagger" …: the embedded network's,
    comparable to nothing but themselves."""
    value: float | None
    """None where it cannot be computed; the reason is in `note`."""
    ci_95: tuple[float, float] | None
    """Bootstrap interval over clips (`bootstrap.interval`)."""
    n_resamples: int
    """Number of resamples behind the interval."""
    n: int
    """Clips that went into it; pairs, where it compares pairs."""
    better: Literal["higher", "lower"]
    unit: str
    """"nats", "cosine"; empty where it has none."""
    backbone: str
    """The key of `Evaluation.backbones`."""
    subset: str = ""
    """Empty: all clips; else which ones, such as "2 events"."""
    note: str = ""
    """A caution about this number."""


@dataclass(frozen=True)
class FlaggedFile:
    """One flaw that a guard found in one file."""

    flag: Flag
    path: str
    """Relative to the folder of the set."""
    detail: str
    """In words: "the same sound as a.wav"."""
    excluded: bool
    """True: the file was left out of every number."""


@dataclass(frozen=True)
class ClipSet:
    """The files of one folder."""

    folder: str
    """The folder as the user named it."""
    n_files: int
    """Number of sound files found."""
    n_used: int
    """Number of files that were measured."""
    sha256: str
    """Checksum of the sorted names and contents of the files used: equal for equal sets."""
    findings: tuple[FlaggedFile, ...]


@dataclass(frozen=True)
class WordAttention:
    """Attention to one word of a prompt; `tasks/evaluate_attention.py` defines the numbers."""

    word: str
    entropy: float
    level: float
    counted: bool
    """True: the clip's scores include it, for it names something, or no word does."""


@dataclass(frozen=True)
class ClassProbability:
    """The probability of one class of the classifier."""

    name: str
    probability: float


@dataclass(frozen=True)
class ScoredClip:
    """One generated sound."""

    name: str
    """The path without its suffix, by which clips are paired."""
    path: str
    """Relative to the folder of its set."""
    sha256: str
    """Checksum of the file."""
    duration_s: float
    reference_path: str | None
    """The file it is paired with, relative to the folder of the reference."""
    prompt: str | None
    n_events: int | None
    """Counted in the prompt by `events.count_events`; None without a prompt."""
    scores: dict[str, float]
    """Metric name -> the clip's own part in it, for metrics that have such: KL, CLAP."""
    flags: tuple[Flag, ...]
    words: tuple[WordAttention, ...] = ()
    """Words of the prompt that the model reads, where their attention was measured."""
    classes: tuple[ClassProbability, ...] = ()
    """The most probable classes, where the classifier's have names."""


@dataclass(frozen=True)
class System:
    """The scores of one folder of generated sounds."""

    name: str
    clips: ClipSet
    prompts_sha256: str | None
    """Checksum of the sorted names and prompts; None where no clip has a prompt."""
    metrics: tuple[Metric, ...]
    rows: tuple[ScoredClip, ...]
    """The clips used, sorted by name."""
    reference_without_partner: tuple[str, ...]
    """Files of the reference that no clip is paired with."""

    def metric(self, name: str, subset: str = "") -> Metric | None:
        """The metric of that name; None if it was not computed."""
        return next((m for m in self.metrics if (m.name, m.subset) == (name, subset)), None)


@dataclass(frozen=True)
class Evaluation:
    """A whole evaluation: several systems against one reference."""

    protocol: str
    settings: dict[str, str | int | float | bool]
    """Settings that the protocol leaves open: resamples, seeds."""
    backbones: dict[str, BackboneRecord]
    reference: ClipSet | None
    systems: tuple[System, ...]
    versions: dict[str, str]
    format_version: int = FORMAT_VERSION
    notes: tuple[str, ...] = field(default=())
    """Cautions about all of it."""

    def to_json(self) -> str:
        """Standard JSON: without NaN or infinity."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Evaluation:
        """The reverse of `to_json`, trusting nothing. Raises DataError, naming `source`."""
        content = parse_json(text, raising=DataError, where=source)
        try:
            if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
                raise ValueError(f"it is not an evaluation of format {FORMAT_VERSION}")
            return decode(cls, content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: not a result of `auffusion evaluate`: {error}") from None

    def save(self, path: Path) -> None:
        """Write `path` atomically."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """The result in a file. Raises DataError: missing, too large, or not a result."""
        return cls.from_json(
            read_text(path, max_bytes=MAX_FILE_BYTES, raising=DataError), str(path)
        )
