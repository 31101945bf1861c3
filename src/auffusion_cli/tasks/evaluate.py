"""Evaluate folders of generated sounds: check the files, embed them, measure, note cautions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from auffusion_cli.evaluation import bootstrap, clip_scores, measure
from auffusion_cli.evaluation.captions import match_captions
from auffusion_cli.evaluation.clips import (
    SoundFile,
    SoundFolder,
    clip_name,
    hash_pairs,
    in_reference,
    readable_sounds,
    scan_folder,
    without_partner,
)
from auffusion_cli.evaluation.embedders import Embedder, TextEmbedder, identity, no_tf32
from auffusion_cli.evaluation.events import complexity, count_events
from auffusion_cli.evaluation.features import extract
from auffusion_cli.evaluation.measure import FolderFeatures
from auffusion_cli.evaluation.metrics import (
    INCEPTION_SPLITS,
    Activation,
)
from auffusion_cli.evaluation.notes import caption_cautions, cautions
from auffusion_cli.evaluation.protocols import Backbone, Protocol
from auffusion_cli.evaluation.published import Unverified
from auffusion_cli.evaluation.result import (
    BackboneRecord,
    ClassProbability,
    Evaluation,
    Flag,
    Metric,
    ScoredClip,
    System,
)
from auffusion_cli.requests.provenance import current_versions
from auffusion_cli.requests.shards import Shard

METRIC_ORDER = ("FD", "FAD", "KL", "KL-sigmoid", "IS", "CLAP", "KAD", "FD-inf", "FAD-inf")

Scores = dict[str, dict[str, float]]
"""metric name -> clip name -> the clip's own score"""
OnProgress = Callable[[str, int, int], None]
"""(what is being done, clips done, clips in all)"""


@dataclass(frozen=True)
class Networks:
    """The networks of a protocol, loaded."""

    classifier: Embedder
    frames: Embedder | None = None
    text: TextEmbedder | None = None
    unverified: Mapping[str, Unverified] = field(default_factory=dict)
    """network name -> what to say of its weights, where they may not be the published ones"""


@dataclass(frozen=True)
class Features:
    """The features of one folder by all networks of a protocol."""

    classes: FolderFeatures
    frames: FolderFeatures | None
    sounds: FolderFeatures | None = None
    """By the network that embeds texts, too."""


def evaluate(
    systems: Mapping[str, Path],
    reference: Path | None,
    protocol: Protocol,
    networks: Networks,
    *,
    captions: Mapping[str, str] | None = None,
    cache: Path | None = None,
    on_progress: OnProgress = lambda what, n_done, n: None,
) -> Evaluation:
    """Measure each folder of generated sounds, against real ones where there is a `reference`.

    Args:
        systems: name -> folder of sounds.
        captions: clip name -> prompt; by default the prompt in each file's own record.
        cache: folder in which features are kept, by the content of the sound; None keeps none.

    Raises:
        DataError: a folder has no sounds that can be measured.
        UsageError: the captions fit none of them.
    """
    rate_hz = protocol.classifier.audio_input.sample_rate_hz

    def look(folder: Path) -> SoundFolder:
        return scan_folder(folder, rate_hz, lambda *done: on_progress(f"reading {folder}", *done))

    def embed(embedder: Embedder | None, folder: SoundFolder | None) -> FolderFeatures | None:
        if embedder is None or folder is None:
            return None
        what = f"embedding {folder.record.folder} with {embedder.name}"
        return _embed(embedder, folder.clips, cache, lambda *done: on_progress(what, *done))

    # All files are read before any network runs, so that flaws are reported at once.
    generated = {name: look(folder) for name, folder in systems.items()}
    real = None if reference is None else look(reference)
    prompts, unused = _prompts(generated, captions)

    reference_features = None
    if real is not None:
        classes, frames = embed(networks.classifier, real), embed(networks.frames, real)
        reference_features = Features(classes, frames)
    evaluated = []
    for name, folder in generated.items():
        features = Features(
            embed(networks.classifier, folder),
            None if real is None else embed(networks.frames, folder),
            embed(networks.text, folder),
        )
        on_progress(f"computing the numbers of {name}", len(folder.clips), len(folder.clips))
        metrics, scores = _measure(
            protocol, networks, folder, features, real, reference_features, prompts[name]
        )
        top = clip_scores.top_classes(folder, features.classes, networks.classifier, protocol)
        evaluated.append(_system(name, folder, real, prompts[name], metrics, scores, top))

    return Evaluation(
        protocol=protocol.name,
        settings={
            "bootstrap_seed": measure.SEED,
            "bootstrap_max_resamples": bootstrap.MAX_RESAMPLES,
            "inception_splits": INCEPTION_SPLITS,
            "prompts_from": "files" if captions is None else "list",
        },
        backbones=_describe_networks(protocol, networks),
        reference=real and real.record,
        systems=tuple(evaluated),
        versions=current_versions(),
        notes=(
            *cautions(protocol, networks.unverified.values(), evaluated, real and real.record),
            *caption_cautions(captions, unused, evaluated),
        ),
    )


def listen(
    systems: Iterable[Path],
    reference: Path | None,
    networks: Networks,
    share: Shard,
    cache: Path,
    *,
    on_progress: OnProgress = lambda what, n_done, n: None,
) -> None:
    """Embed a share of the sounds, for an `evaluate` that finds their features in `cache`."""
    rate_hz = networks.classifier.audio_input.sample_rate_hz
    frames = None if reference is None else networks.frames
    tasks = [(folder, (networks.classifier, frames, networks.text)) for folder in systems]
    if reference is not None:
        tasks.append((reference, (networks.classifier, frames)))
    for folder, embedders in tasks:
        clips = readable_sounds(folder, share, rate_hz)
        for embedder in filter(None, embedders):
            what = f"embedding {folder} with {embedder.name}"
            if clips:
                _embed(embedder, clips, cache, lambda *done, what=what: on_progress(what, *done))


def _embed(
    embedder: Embedder,
    clips: Sequence[SoundFile],
    cache: Path | None,
    on_clip: Callable[[int, int], None],
) -> FolderFeatures:
    def counted() -> Iterator:
        features = extract(
            [clip.path for clip in clips],
            embedder,
            cache=cache,
            sha256s=[clip.sha256 for clip in clips],
        )
        for n_done, of_clip in enumerate(features, 1):
            on_clip(n_done, len(clips))
            yield of_clip

    with no_tf32():
        return FolderFeatures.collect(counted())


def _prompts(
    generated: Mapping[str, SoundFolder], captions: Mapping[str, str] | None
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """system -> clip name -> prompt, of the clips that have one; and captions of no clip."""
    prompts: dict[str, dict[str, str]] = {}
    unused = dict.fromkeys(captions or ())
    for system, folder in generated.items():
        if captions is None:
            prompts[system] = {c.name: c.prompt for c in folder.clips if c.prompt is not None}
            continue
        names = [clip.name for clip in folder.clips]
        left_out = [clip_name(each.path) for each in folder.record.findings if each.excluded]
        matches = match_captions(captions, names + left_out, Path(folder.record.folder))
        prompts[system] = {n: captions[matches[n]] for n in names if n in matches}
        for caption in matches.values():
            unused.pop(caption, None)
    return prompts, list(unused)


# --- the numbers


def _measure(
    protocol: Protocol,
    networks: Networks,
    folder: SoundFolder,
    features: Features,
    real: SoundFolder | None,
    reference: Features | None,
    prompts: Mapping[str, str],
) -> tuple[list[Metric], Scores]:
    """The numbers of one folder, and the scores of its clips."""
    groups = {clip: complexity(count_events(text)) for clip, text in prompts.items()}
    named, backbone = _names(protocol), networks.classifier.name
    metrics, scores = [measure.inception(named("IS"), backbone, features.classes)], {}
    if reference is not None:
        both = (features.classes, reference.classes)
        metrics += measure.frechet(named("FD"), named("FD-inf"), backbone, *both)
        metrics.append(measure.kernel(named("KAD"), backbone, *both))
        for kl, activation in _divergences_of(protocol).items():
            scores[kl] = clip_scores.divergences(
                folder, features.classes, real, reference.classes, activation
            )
            metrics += clip_scores.mean_divergence(kl, backbone, scores[kl], groups, folder, real)
    if features.frames is not None:
        both = (features.frames, reference.frames)
        metrics += measure.frechet("FAD", "FAD-inf", networks.frames.name, *both)
    if features.sounds is not None:
        scores["CLAP"] = clip_scores.alignments(networks.text, features.sounds, folder, prompts)
        metrics += clip_scores.mean_alignment(networks.text.name, scores["CLAP"], groups, folder)
    return metrics, scores


def _names(protocol: Protocol) -> Callable[[str], str]:
    """The papers' names for the papers' networks; others put theirs behind it: "FD-tagger"."""
    suffix = "" if protocol.comparable_with_papers else f"-{protocol.classifier.name}"
    return lambda name: name + suffix


def _divergences_of(protocol: Protocol) -> dict[str, Activation]:
    """metric name -> activation, for the kinds of KL that the classifier has."""
    names = _names(protocol)
    kinds: dict[str, Activation] = {names("KL"): "softmax"}
    return kinds | {names("KL-sigmoid"): "sigmoid"} if protocol.has_several_classes else kinds


# --- the result


def _system(
    name: str,
    folder: SoundFolder,
    real: SoundFolder | None,
    prompts: Mapping[str, str],
    metrics: Sequence[Metric],
    scores: Scores,
    top_classes: Mapping[str, tuple[ClassProbability, ...]],
) -> System:
    findings = list(folder.record.findings)
    partners, alone = {}, ()
    if real is not None:
        partners = {clip.name: clip.relative for clip in real.clips}
        made = {clip.name for clip in folder.clips}
        alone = tuple(clip.relative for clip in real.clips if clip.name not in made)
        findings += in_reference(folder, real) + without_partner(folder, real)
    flags: dict[str, list[Flag]] = {}
    for finding in findings:
        flags.setdefault(finding.path, []).append(finding.flag)
    rows = tuple(
        ScoredClip(
            name=clip.name,
            path=clip.relative,
            sha256=clip.sha256,
            duration_s=clip.duration_s,
            reference_path=partners.get(clip.name),
            prompt=prompts.get(clip.name),
            n_events=count_events(prompts[clip.name]) if clip.name in prompts else None,
            scores={
                metric: of_clips[clip.name]
                for metric, of_clips in scores.items()
                if clip.name in of_clips
            },
            flags=tuple(flags.get(clip.relative, ())),
            classes=top_classes.get(clip.name, ()),
        )
        for clip in folder.clips
    )
    return System(
        name=name,
        clips=replace(folder.record, findings=tuple(findings)),
        prompts_sha256=hash_pairs(prompts.items()) if prompts else None,
        metrics=tuple(sorted(metrics, key=_place)),
        rows=rows,
        reference_without_partner=alone,
    )


def _place(metric: Metric) -> tuple[int, bool]:
    """Sort key of a metric in a table: the order of papers, groups after all clips."""
    return METRIC_ORDER.index(metric.name.removesuffix(f"-{metric.backbone}")), bool(metric.subset)


def _describe_networks(protocol: Protocol, networks: Networks) -> dict[str, BackboneRecord]:
    roles = (
        (protocol.classifier, networks.classifier),
        (protocol.frames, networks.frames),
        (protocol.text, networks.text),
    )
    return {
        embedder.name: BackboneRecord(
            name=embedder.name,
            weights=_weights(backbone, networks),
            weights_sha256=embedder.weights_sha256,
            identity=identity(embedder),
            sample_rate_hz=embedder.audio_input.sample_rate_hz,
        )
        for backbone, embedder in roles
        if backbone is not None and embedder is not None
    }


def _weights(backbone: Backbone, networks: Networks) -> str:
    unverified = networks.unverified.get(backbone.name)
    return backbone.weights if unverified is None else unverified.weights
