"""Provenance: the record inside every sound, enough to make it again. No torch.

`write_audio(provenance=record.to_dict())` puts it into the file, `sound_file.read_provenance`
takes it out; `Provenance.from_dict` checks it, because a file may come from anyone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.errors import AudioError, UsageError
from auffusion_cli.parsing import decode
from auffusion_cli.requests.finish import Finish
from auffusion_cli.requests.loras import MAX_LORAS, LoraRecord
from auffusion_cli.requests.request import REQUESTS, GenerateSettings, Request
from auffusion_cli.requests.selection import Selection

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 1
MAX_FIELD_CHARACTERS = 1_000
MAX_LAYERS = 10
RATES_HZ = range(1, 384_001)
NO_MODEL = "none"
DEFAULT_ENGINE = "torch"
"""Of records that name none: there was no other."""
ENGINE_LIBRARIES = {
    DEFAULT_ENGINE: ("torch", "diffusers", "transformers"),
    "onnx": ("onnxruntime",),
}


def current_versions(engine: str = DEFAULT_ENGINE) -> dict[str, str]:
    """Versions of this program and of the libraries that its numbers depend on."""
    from auffusion_cli import __version__

    libraries = ("numpy", *ENGINE_LIBRARIES.get(engine, ()))
    return {"auffusion": __version__} | {name: metadata.version(name) for name in libraries}


@dataclass(frozen=True)
class Provenance:
    """Record of one sound: request, settings, model and versions."""

    request: Request
    settings: GenerateSettings
    model: str
    """A known name, a Hub id, or a folder."""
    revision: str | None
    """The commit on the Hub; None for a folder."""
    vocoder: str
    device: str
    dtype: str
    samples_sha256: str
    """Of the samples as 16-bit integers, before the file format compressed them; of an edit in the
    form that its source has them in: see `signal.recording`."""
    gain_reduction_db: float | None = None
    """The largest reduction of the new part of a recording, so as not to be louder than the
    recording, or than full scale; None if it was not reduced."""
    finish: Finish | None = None
    """What was done to the sound once it was made; `samples_sha256` is of the finished one."""
    selection: Selection | None = None
    """How it came to be this sound, where it is not simply that of the seed asked for."""
    engine: str = DEFAULT_ENGINE
    """What computed the networks."""
    loras: tuple[LoraRecord, ...] = ()
    """What was merged into the model's UNet, in this order."""
    layers: tuple[str, ...] = ()
    """The prompts of the sounds that its words name, where each was made by itself, at once or one
    after the other; they follow from the model and the prompt."""
    model_rate_hz: int = SpectrogramConfig.sample_rate_hz
    """The sample rate that the model works at."""
    versions: dict[str, str] = field(default_factory=current_versions)

    @classmethod
    def without_model(
        cls, request: Request, duration_s: float, samples: np.ndarray, **own: Any
    ) -> Provenance:
        """The record of a sound of no model: the fields that are about one say that there is none.

        `own` are further fields.
        """
        settings = GenerateSettings(
            duration_s, steps=1, guidance_scale=1.0, guidance_rescale=0.0, scheduler="ddim"
        )
        return cls(
            request=request,
            settings=settings,
            model=NO_MODEL,
            revision=None,
            vocoder=NO_MODEL,
            device="cpu",
            dtype="fp32",
            samples_sha256=hash_samples(samples),
            engine=NO_MODEL,
            versions=current_versions(NO_MODEL),
            **own,
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat and JSON-serialisable."""
        own = {name: getattr(self, name) for name in _OWN_FIELDS}
        if self.gain_reduction_db is not None:
            own["gain_reduction_db"] = self.gain_reduction_db
        if self.loras:
            own["loras"] = [asdict(lora) for lora in self.loras]
        if self.layers:
            own["layers"] = list(self.layers)
        if self.model_rate_hz != SpectrogramConfig.sample_rate_hz:
            own["model_rate_hz"] = self.model_rate_hz
        if self.finish is not None:
            own["finish"] = self.finish.to_dict()
        if self.selection is not None:
            own["selection"] = self.selection.to_dict()
        return {
            "format_version": FORMAT_VERSION,
            "task": self.request.task,
            **asdict(self.request),
            **asdict(self.settings),
            **own,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: str = "the record") -> Provenance:
        """The reverse of `to_dict`, trusting nothing.

        Raises:
            AudioError: a field is missing, of the wrong type, or out of range; names `source`.
        """
        if not isinstance(record, Mapping):
            raise AudioError(f"{source}: the record of how it was made is not an object")
        version, task = record.get("format_version"), record.get("task")
        if version != FORMAT_VERSION or task not in tuple(REQUESTS):  # it may be unhashable
            raise AudioError(
                f"{source}: a record of format {version!r} for {task!r} is not known",
                hint=f"This version reads format {FORMAT_VERSION} for {', '.join(REQUESTS)}.",
            )
        request_class = REQUESTS[task]
        try:
            versions = record["versions"]
            if not isinstance(versions, Mapping) or len(versions) > 20:
                raise ValueError("versions is not a short list of names")
            for name, value in versions.items():
                _check_field(name, name)
                _check_field(f"versions.{name}", value)
            own_model = record.get("model") != NO_MODEL
            record = {"engine": DEFAULT_ENGINE if own_model else NO_MODEL, **record}
            own = {name: record[name] for name in _OWN_FIELDS}
            for name, value in own.items():
                if not (name == "revision" and value is None):
                    _check_field(name, value)
            gain_reduction_db = record.get("gain_reduction_db", record.get("turned_down_db"))
            if not (gain_reduction_db is None or _is_positive(gain_reduction_db)):
                raise ValueError("gain_reduction_db is not a number above 0")
            loras = record.get("loras", [])
            if not isinstance(loras, list) or len(loras) > MAX_LORAS:
                raise ValueError("loras is not a short list")
            layers = record.get("layers", [])
            if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
                raise ValueError("layers is not a short list")
            for layer in layers:
                _check_field("layers", layer)
            rate_hz = record.get("model_rate_hz", SpectrogramConfig.sample_rate_hz)
            if not isinstance(rate_hz, int) or rate_hz not in RATES_HZ:
                raise ValueError("model_rate_hz is not a whole number from 1 to 384,000")
            finish = record.get("finish")
            if finish is None and task == "finish":
                raise KeyError("finish")
            selection = record.get("selection")
            return cls(
                selection=None if selection is None else decode(Selection, selection, "selection"),
                finish=None if finish is None else decode(Finish, finish, "finish"),
                request=request_class(**_pick(record, request_class)),
                settings=GenerateSettings(**_pick(record, GenerateSettings)),
                versions=dict(versions),
                gain_reduction_db=gain_reduction_db,
                loras=tuple(decode(LoraRecord, each, "loras") for each in loras),
                layers=tuple(layers),
                model_rate_hz=rate_hz,
                **own,
            )
        except KeyError as error:
            raise AudioError(f"{source}: its record lacks {error.args[0]!r}") from None
        except (UsageError, ValueError) as error:
            raise AudioError(f"{source}: its record is not usable: {error}") from None

    def matches(
        self,
        request: Request,
        settings: GenerateSettings,
        *,
        model: str,
        revision: str | None,
        vocoder: str,
        any_seed: bool = False,
        finish: Finish | None = None,
        best_of: int = 1,
        rank: int = 1,
        loras: tuple[LoraRecord, ...] = (),
    ) -> bool:
        """Whether this is the record of the sound that is asked for.

        Device, precision and libraries are not compared; with `any_seed` neither is the seed.
        """
        made, chosen = self.request, self.selection
        if chosen is not None:
            made = replace(made, seed=chosen.first_seed)
        if any_seed:
            request = replace(request, seed=made.seed)
        asked = (request, settings, model, revision, vocoder, loras, finish)
        mine = (self.model, self.revision, self.vocoder, self.loras, self.finish)
        own = (made, self.settings, *mine)
        if chosen is None:
            return asked == own and best_of == 1
        return asked == own and (chosen.best_of, chosen.rank) == (best_of, rank)

    def differences(self, other: Provenance) -> dict[str, tuple[str, str]]:
        """Differences in model, device and libraries: name -> (in self, in other)."""
        names = sorted(self.versions.keys() | other.versions.keys())
        pairs = {
            name: (getattr(self, name), getattr(other, name))
            for name in (*_CIRCUMSTANCES, "gain_reduction_db")
        }
        pairs["loras"] = (_described(self.loras), _described(other.loras))
        pairs |= {name: (self.versions.get(name), other.versions.get(name)) for name in names}
        return {
            name: (str(mine), str(theirs))
            for name, (mine, theirs) in pairs.items()
            if mine != theirs
        }


_LATER_FIELDS = (
    *("trim", "one_shot", "loop", "room_tone", "near_seed", "nearness", "extend_band", "over_s"),
    *("guidance_until", "windows_at_once"),
)
"""Fields of requests and settings that the first records lack: their defaults are what was done."""
_CIRCUMSTANCES = ("model", "revision", "vocoder", "engine", "device", "dtype")
_OWN_FIELDS = (*_CIRCUMSTANCES, "samples_sha256")


def _described(loras: tuple[LoraRecord, ...]) -> str:
    shown = [f"{lora.file}:{lora.weight:g} (SHA-256 {lora.sha256[:12]})" for lora in loras]
    return ", ".join(shown) or "none"


def hash_samples(samples: np.ndarray) -> str:
    """SHA-256 of samples of any type, in little-endian order on every machine."""
    little_endian = samples.dtype.newbyteorder("<")
    return hashlib.sha256(samples.astype(little_endian, "C", copy=False).data).hexdigest()


def _pick(record: Mapping[str, Any], owner: type) -> dict[str, Any]:
    return {
        field.name: record[field.name]
        for field in fields(owner)
        if field.name in record or field.name not in _LATER_FIELDS
    }


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _check_field(name: Any, value: Any) -> None:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_FIELD_CHARACTERS:
        raise ValueError(f"{str(name)[:40]!r} is not a short line of text")
