"""The public Python API, in one place; `import auffusion_cli` offers these names lazily."""

from __future__ import annotations

from typing import Any

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.model import Model
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import (
    MAX_DURATION_S,
    GenerateRequest,
    GenerateSettings,
    TimelineRequest,
)
from auffusion_cli.requests.seeds import draw_seed
from auffusion_cli.requests.timeline import timeline_duration
from auffusion_cli.tasks.generate import GenerateResult, OnStep
from auffusion_cli.tasks.generate import generate as generate_many

__all__ = [
    "GenerateRequest",
    "GenerateResult",
    "GenerateSettings",
    "Model",
    "Provenance",
    "TimelineRequest",
    "generate",
    "generate_many",
    "load_model",
]


def generate(
    model: Model,
    prompt: str = "",
    *,
    seed: int | None = None,
    negative_prompt: str = "",
    timeline: str | None = None,
    trim: bool = True,
    one_shot: bool = False,
    on_step: OnStep | None = None,
    **settings: Any,
) -> GenerateResult:
    """One sound from `prompt`; without a seed one is drawn (see `sound.request.seed`).

    With a `timeline` ("0-3s a dog barks; 2-6s rain") the words of its regions go over the prompt,
    which may then be empty; by default the sound lasts until the last region ends.

        sound = generate(load_model(), "dog barking in rain", seed=1, duration_s=4.0)
        sound.save("rain.wav")

    The model fills its window. Of a shorter sound `trim` keeps the part from an onset on with the
    most energy, its end faded and its peak at -1 dB, rather than the start; not on a timeline.
    `one_shot` keeps one event of it, as long as it lasts.

    `settings` are fields of `GenerateSettings` (duration_s, steps, guidance_scale,
    guidance_rescale, scheduler); the checkpoint's defaults stand for the others.

    Raises:
        UsageError: a value is impossible; the message says which are valid.
        AuffusionError: memory does not suffice, or the result is not finite.
    """
    seed = draw_seed() if seed is None else seed
    if timeline is None:
        request = GenerateRequest(prompt, seed, negative_prompt, trim=trim, one_shot=one_shot)
    else:
        request = TimelineRequest(prompt, seed, negative_prompt, timeline, one_shot=one_shot)
        settings.setdefault("duration_s", timeline_duration(timeline, MAX_DURATION_S))
    resolved = GenerateSettings.from_defaults(model.defaults, **settings)
    (sound,) = generate_many(model, [request], resolved, on_step=on_step)
    return sound
