"""How the words of generated sounds were heard: each sound is made again, and watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from auffusion_cli.audio import read_provenance
from auffusion_cli.errors import AudioError, AuffusionError
from auffusion_cli.evaluation import measure
from auffusion_cli.evaluation.events import complexity, names_something
from auffusion_cli.evaluation.metrics import attention_entropy, level_at_peak
from auffusion_cli.evaluation.result import Backbone, Clip, Evaluation, System
from auffusion_cli.files import folder_of
from auffusion_cli.model import Model
from auffusion_cli.plot_attention import AttentionColumn, save_attention
from auffusion_cli.provenance import Provenance
from auffusion_cli.request import GenerateRequest
from auffusion_cli.tasks.attention import AttentionResult, generate_with_attention
from auffusion_cli.tasks.evaluate import OnProgress

ENTROPY, LEVEL = "attention-entropy", "attention-level"
GENERATOR = "generator"
"""What `Evaluation.backbones` calls the models that made the sounds."""

LoadModel = Callable[[Provenance, Path], Model]
"""The model that made a file; an AuffusionError where it is not to be used."""


@dataclass(frozen=True)
class Watched:
    """One sound, made again."""

    scores: dict[str, float]
    model: str
    is_same: bool
    """Whether its samples are those of the file."""


def add_attention(
    evaluation: Evaluation,
    load_model: LoadModel,
    pictures: Path,
    on_progress: OnProgress = lambda what, n_done, n: None,
) -> Evaluation:
    """`evaluation` with two more numbers for each sound that `generate` made.

    attention-entropy: how spread out the attention to a word is, 0 to 1; attention-level: how loud
    the sound is where it is greatest, 0 to 1 with 0.5 for chance. A sound's score is the mean over
    the words of its prompt that name something. A picture of each goes to
    `pictures/SYSTEM/CLIP.png`.
    """
    systems, models, notes = [], set(), []
    for system in evaluation.systems:
        watched: dict[str, Watched] = {}
        reasons: Counter[str] = Counter()
        for n_done, clip in enumerate(system.rows):
            on_progress(f"watching {system.name} being made again", n_done, len(system.rows))
            path = Path(system.clips.folder) / clip.path
            try:
                picture = pictures / system.name / f"{clip.name}.png"
                watched[clip.name] = _watch(path, load_model, picture)
            except AuffusionError as error:
                reasons[error.message.removeprefix(f"{path}: ").removeprefix(f"{path} ")] += 1
        models |= {each.model for each in watched.values()}
        systems.append(_with_scores(system, watched))
        notes += _notes(system.name, watched, reasons)
    generator = Backbone(GENERATOR, ", ".join(sorted(models)), "", "", 16_000)
    return replace(
        evaluation,
        systems=tuple(systems),
        backbones=evaluation.backbones | {GENERATOR: generator},
        notes=(*evaluation.notes, *notes),
    )


def _watch(path: Path, load_model: LoadModel, picture: Path) -> Watched:
    record = read_provenance(path)
    if record is None:
        raise AudioError(f"{path}: does not say how it was made")
    recorded = Provenance.from_dict(record, str(path))
    if type(recorded.request) is not GenerateRequest:
        raise AudioError(f"{path}: was made by {recorded.request.task}, not by one prompt")
    model = load_model(recorded, path)
    result = generate_with_attention(model, recorded.request, recorded.settings)
    _draw(result, model, picture)
    return Watched(
        scores=attention_scores(result),
        model=recorded.model,
        is_same=result.sound.provenance.samples_sha256 == recorded.samples_sha256,
    )


def attention_scores(result: AttentionResult) -> dict[str, float]:
    """The means over the words that name something, or over all where none does."""
    log_mel = result.sound.log_mel.float().cpu().numpy()
    maps = list(zip(result.words, result.maps.float().cpu().numpy(), strict=True))
    heard = [(word, attention) for word, attention in maps if attention.max() > 0]
    if not heard:
        raise AuffusionError("the model reads no word of the prompt")
    naming = [attention for word, attention in heard if names_something(word)]
    chosen = naming or [attention for _, attention in heard]
    return {
        ENTROPY: float(np.mean([attention_entropy(attention) for attention in chosen])),
        LEVEL: float(np.mean([level_at_peak(attention, log_mel) for attention in chosen])),
    }


def _draw(result: AttentionResult, model: Model, picture: Path) -> None:
    title = f"{result.sound.request.prompt}, seed {result.sound.request.seed}"
    column = AttentionColumn(title, result.sound.log_mel, result.maps, result.shares)
    with folder_of(picture):
        save_attention(result.words, [column], picture, model.codec.spectrogram_config)


def _with_scores(system: System, watched: dict[str, Watched]) -> System:
    metrics = list(system.metrics)
    groups = {clip.name: complexity(clip.n_events) for clip in system.rows if clip.n_events}
    for name, better in ((ENTROPY, "lower"), (LEVEL, "higher")):
        if watched:
            scores = {clip: each.scores[name] for clip, each in watched.items()}
            metrics += measure.mean_score(name, GENERATOR, better, "", scores, groups)
        else:
            why = "no sound could be made again"
            metrics.append(measure.absent(name, GENERATOR, better, 0, why))

    def with_scores(clip: Clip) -> Clip:
        more = watched[clip.name].scores if clip.name in watched else {}
        return replace(clip, scores=clip.scores | more)

    return replace(system, metrics=tuple(metrics), rows=tuple(map(with_scores, system.rows)))


def _notes(name: str, watched: dict[str, Watched], reasons: Counter[str]) -> Iterator[str]:
    for reason, n in reasons.most_common():
        yield f"{name}: {n} sounds were not watched: {reason}"
    if n_others := sum(not each.is_same for each in watched.values()):
        yield (
            f"{name}: {n_others} of {len(watched)} sounds come out otherwise here than in their"
            " files; the attention is that of the ones made here"
        )
