"""Scores of single clips: divergence from a partner, alignment with a prompt, classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from auffusion_cli.evaluation import measure
from auffusion_cli.evaluation.clips import SoundFolder
from auffusion_cli.evaluation.embedders import Embedder, TextEmbedder
from auffusion_cli.evaluation.events import Complexity
from auffusion_cli.evaluation.measure import FolderFeatures
from auffusion_cli.evaluation.metrics import Activation, clap_scores, probabilities
from auffusion_cli.evaluation.protocols import Protocol
from auffusion_cli.evaluation.result import ClassProbability, Metric
from auffusion_cli.evaluation.rows import blocks

PAIRED_SHARE = 0.99
"""KL is computed where more than this share of the names of both folders match."""
N_TOP_CLASSES = 5


def divergences(
    folder: SoundFolder,
    classes: FolderFeatures,
    real: SoundFolder,
    real_classes: FolderFeatures,
    activation: Activation,
) -> dict[str, float]:
    """clip name -> KL to its partner, of the clips that have one."""
    row = {clip.name: n for n, clip in enumerate(real.clips)}
    paired = [(n, clip.name) for n, clip in enumerate(folder.clips) if clip.name in row]
    if not paired:
        return {}
    values = measure.divergences(
        classes, real_classes, [(n, row[name]) for n, name in paired], activation
    )
    return {name: float(value) for (_, name), value in zip(paired, values, strict=True)}


def mean_divergence(
    name: str,
    backbone: str,
    divergences: Mapping[str, float],
    groups: Mapping[str, Complexity],
    folder: SoundFolder,
    real: SoundFolder,
) -> list[Metric]:
    """The mean of `divergences`, and of each group's; absent where too few clips have partners."""
    n_paired, n_made, n_real = len(divergences), len(folder.clips), len(real.clips)
    if n_paired <= PAIRED_SHARE * max(n_made, n_real):
        why = (
            f"{n_paired} of {n_made} generated and {n_real} reference files have a partner of the"
            f" same name; it takes more than {PAIRED_SHARE:.0%}"
        )
        return [measure.absent(name, backbone, "lower", n_paired, why, "nats")]
    return measure.mean_score(name, backbone, "lower", "nats", divergences, groups)


def alignments(
    network: TextEmbedder, sounds: FolderFeatures, folder: SoundFolder, prompts: Mapping[str, str]
) -> dict[str, float]:
    """clip name -> CLAP score, of the clips that have a prompt."""
    asked = [(n, clip.name) for n, clip in enumerate(folder.clips) if clip.name in prompts]
    if not asked:
        return {}
    alignments = {}
    for block in blocks(len(asked)):
        part = asked[block]
        texts = network.embed_texts([prompts[name] for _, name in part])
        values = clap_scores(sounds.rows[np.array([n for n, _ in part])], texts)
        alignments |= {name: float(value) for (_, name), value in zip(part, values, strict=True)}
    return alignments


def mean_alignment(
    backbone: str,
    alignments: Mapping[str, float],
    groups: Mapping[str, Complexity],
    folder: SoundFolder,
) -> list[Metric]:
    """The mean CLAP score of `alignments`, and of each group's; absent without prompts."""
    if not alignments:
        why = "no prompts: the files carry none, and no list was given"
        return [measure.absent("CLAP", backbone, "higher", 0, why, "cosine")]
    n_without = len(folder.clips) - len(alignments)
    note = f"{n_without} clips have no prompt and are not in it" if n_without else ""
    return measure.mean_score("CLAP", backbone, "higher", "cosine", alignments, groups, note)


def top_classes(
    folder: SoundFolder, features: FolderFeatures, classifier: Embedder, protocol: Protocol
) -> dict[str, tuple[ClassProbability, ...]]:
    """clip name -> its most probable classes, where they have names."""
    names = classifier.class_names
    if names is None:
        return {}
    activation: Activation = "sigmoid" if protocol.has_several_classes else "softmax"
    found = {}
    for block in blocks(len(folder.clips)):
        rows = probabilities(features.logits[block], activation)
        for clip, row in zip(folder.clips[block], rows, strict=True):
            first = np.argsort(-row, kind="stable")[:N_TOP_CLASSES]
            found[clip.name] = tuple(ClassProbability(names[i], float(row[i])) for i in first)
    return found
