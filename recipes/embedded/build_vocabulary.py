"""What the model has met, in words: `vocabulary/` of a checkpoint, by which it tells what is new.

    python recipes/embedded/build_vocabulary.py --model runs/words -o runs/named

It also prints how often prompts are told to hold unknown words at several thresholds: held-out
wordings, which should not be, against `unknown.yaml`, whose entries should; and how often prompts
are taken for two sounds.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from words import FOLDER, FRAMES, Example, Words, held_out_examples, load_words

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.diffusion.layers import layers_of
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.diffusion.vocabulary import Vocabulary, sentences_of

MIN_SIMILARITY = 0.55
THRESHOLDS = (0.45, 0.5, 0.55, 0.6, 0.65)
ALIKE = 0.9
"""A wording this like another of its kind adds nothing."""


def named_wordings(words: Words, *, held_out: bool) -> Iterator[tuple[str, int]]:
    """Every wording with the number of its kind, and words of no kind with -1."""
    numbers = {kind: i for i, kind in enumerate(words.kinds)}
    for key in words.wordings:
        wordings = words.wordings[key] if held_out else words.taught(key)
        for wording in (*words.captions(key), *wordings):
            yield wording, numbers[words.kind_of(key)]
    for frame in FRAMES:
        yield frame.replace("{}", "").strip(" ,"), -1


def build(words: Words, text: TextConditioner, *, held_out: bool = True) -> Vocabulary:
    wordings, numbers = zip(*named_wordings(words, held_out=held_out), strict=True)
    sentences = sentences_of(text, wordings)
    kept = different(sentences, numbers)
    return Vocabulary(
        kinds=tuple(entry["phrases"][0] for entry in words.kinds.values()),
        sentences=sentences[kept],
        kind_of=np.array(numbers)[kept],
        min_similarity=MIN_SIMILARITY,
        backgrounds=frozenset(
            entry["phrases"][0]
            for entry in words.kinds.values()
            if entry.get("role") == "background"
        ),
    )


def different(sentences: np.ndarray, numbers: Sequence[int]) -> list[int]:
    """Which to keep, so that no two of a kind are alike."""
    kept: dict[int, list[int]] = {number: [] for number in numbers}
    for i, number in enumerate(numbers):
        if not (sentences[kept[number]] @ sentences[i] >= ALIKE).any():
            kept[number].append(i)
    return sorted(i for indices in kept.values() for i in indices)


def report(words: Words, text: TextConditioner, vocabulary: Vocabulary) -> list[str]:
    """A line for each set of prompts: the share that is told of, by threshold."""
    rng = random.Random(0)
    sets = {
        f"held-out {name}": [example.prompt for example in examples]
        for name, examples in held_out_examples(words, rng).items()
    }
    unknown = yaml.safe_load((FOLDER / "unknown.yaml").read_text("utf-8"))
    sets |= {f"unknown {name}": prompts for name, prompts in unknown.items()}
    phrases = [entry["phrases"][0] for entry in words.kinds.values()]
    sets["unknown sounds with known ones"] = [
        f"{rng.choice(phrases)} and {prompt}" for prompt in unknown["sounds"]
    ]
    lines = [f"{'told to be unknown, below':36}" + "".join(f"{t:8}" for t in THRESHOLDS)]
    for name, prompts in sets.items():
        least = np.array([_least_known(vocabulary, text, prompt) for prompt in prompts])
        shares = ((least < threshold).mean() for threshold in THRESHOLDS)
        lines.append(f"{name:30}{len(prompts):6}" + "".join(f"{share:8.1%}" for share in shares))
    return lines


def report_layers(words: Words, text: TextConditioner, vocabulary: Vocabulary) -> list[str]:
    """A line for each set of prompts: shares that are two layers, and of the right kinds."""
    names = {kind: entry["phrases"][0] for kind, entry in words.kinds.items()}
    captions = [Example(c, c, (kind,)) for kind in words.kinds for c in words.captions(kind)]
    sets = {"captions": captions} | {
        f"held-out {name}": examples
        for name, examples in held_out_examples(words, random.Random(0)).items()
    }
    lines = [f"{'taken for two sounds':36}   share   right"]
    for name, examples in sets.items():
        n_two, n_right = 0, 0
        for example in examples:
            layers = layers_of(example.prompt, vocabulary, text)
            n_two += len(layers) == 2
            meant = vocabulary.meanings(text, [layer.prompt for layer in layers])
            wanted = {names[kind] for kind in example.kinds}
            n_right += len(layers) == len(wanted) and (
                len(layers) == 1 or {meaning.kind for meaning in meant} == wanted
            )
        shares = n_two / len(examples), n_right / len(examples)
        lines.append(f"{name:30}{len(examples):6}" + "".join(f"{share:8.1%}" for share in shares))
    return lines


def _least_known(vocabulary: Vocabulary, text: TextConditioner, prompt: str) -> float:
    """The similarity of the part of `prompt` that is farthest from all wordings."""
    similarities = vocabulary.similarities(text, prompt).values()
    return min((float(row.max()) for row in similarities), default=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    model, words = load_model(args.model, engine="torch", device="cpu", dtype="fp32"), load_words()
    text = model.text
    without_held_out = build(words, text, held_out=False)
    print("\n".join(report(words, text, without_held_out)))
    print("\n".join(report_layers(words, text, without_held_out)))
    model.vocabulary = build(words, text)
    save_model(model, args.output, overwrite=True)


if __name__ == "__main__":
    main()
