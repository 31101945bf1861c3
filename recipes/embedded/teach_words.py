"""Teach the text adapter of a trained model wordings that its UNet has not met.

    python recipes/embedded/teach_words.py --model weights/embedded -o runs/words

Text alone, UNet and text encoder untouched: a prompt's conditioning is to *do* in the UNet what the
captions do that it was trained with (`words.py` pairs the two). What a conditioning does is what
the cross-attention layers give for queries that the UNet really asks, and the pooled text in the
time embedding; token by token two wordings could not be compared. Beside the squared error of these
effects there is a contrast between kinds, so that near ones stay apart. A model that was taught
already goes on from there.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from words import (
    Example,
    Words,
    composed_examples,
    held_out_examples,
    known_examples,
    load_words,
    single_examples,
)

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.diffusion.adapter import ConditionAdapter
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import generate

N_LAYERS = 2
N_QUERIES = 32
"""Of each cross-attention layer."""
N_QUERY_PROMPTS = 8
QUERY_STEPS = 6
FRAMES_EACH = 1
N_COMPOSED = 5000
KNOWN_REPEATS = 6
"""Captions must keep their meaning: so often are they among the examples."""
CONTRAST_WEIGHT = 0.1
TEMPERATURE = 0.2
"""Of the contrast, in mean squared distance between kinds."""


class Effects(nn.Module):
    """(B, T, D) conditioning -> (B, E): what it does in the UNet, in units of the kinds' spread.

    The last of the T rows is padding, and stands for all the padding up to `n_rows`.
    """

    def __init__(
        self, unet: UNet2DConditionModel, queries: Mapping[str, Tensor], n_rows: int
    ) -> None:
        super().__init__()
        self.layers = [(unet.get_submodule(name), q) for name, q in queries.items()]
        self.pooled = unet.add_embedding
        self.n_rows = n_rows
        self.scales = [1.0] * (len(self.layers) + 1)

    def parts(self, conditioning: Tensor) -> list[Tensor]:
        n_padded = self.n_rows - conditioning.shape[1]
        bias = torch.zeros(conditioning.shape[1])
        bias[-1] = math.log(1 + n_padded)  # as so many equal rows in a softmax
        attended = [_attend(layer, q, conditioning, bias) for layer, q in self.layers]
        padding = conditioning[:, -1:].expand(-1, n_padded, -1)
        return [*attended, self.pooled(torch.cat([conditioning, padding], dim=1))]

    def fit(self, conditioning: Tensor) -> None:
        """Every layer counts alike: by the spread of its effects over these B, one of each kind."""
        self.scales = [
            (part.numel() / len(part)) ** 0.5 * part.var(dim=0).mean().sqrt()
            for part in self.parts(conditioning)
        ]

    def forward(self, conditioning: Tensor) -> Tensor:
        parts = zip(self.parts(conditioning), self.scales, strict=True)
        return torch.cat([part / scale for part, scale in parts], dim=1) / len(self.scales) ** 0.5


def _attend(layer: Attention, queries: Tensor, conditioning: Tensor, bias: Tensor) -> Tensor:
    """(Q, inner) queries, (B, T, D), (T,) -> (B, Q * C), as the layer's own processor does it."""
    q = queries.unflatten(-1, (layer.heads, -1)).transpose(0, 1)
    k, v = (
        project(conditioning).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for project in (layer.to_k, layer.to_v)
    )
    out = F.scaled_dot_product_attention(
        q.expand(len(k), *q.shape), k, v, attn_mask=bias[None], scale=layer.scale
    )
    return layer.to_out[0](out.transpose(1, 2).flatten(2)).flatten(1)


def collect_queries(model: Model, prompts: Sequence[str]) -> dict[str, Tensor]:
    """(N_QUERIES, inner) of each cross-attention layer, from the way to some sounds."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str):
        return lambda _module, _inputs, output: seen.setdefault(name, []).append(
            output.flatten(0, -2)[torch.randperm(output[..., 0].numel())[:N_QUERIES]]
        )

    hooks = [
        module.to_q.register_forward_hook(keep(name))
        for name, module in model.networks.unet.named_modules()
        if name.endswith("attn2")
    ]
    settings = GenerateSettings.from_defaults(model.defaults, steps=QUERY_STEPS)
    requests = [GenerateRequest(prompt, seed) for seed, prompt in enumerate(prompts)]
    for _ in generate(model, requests, settings, batch_size=len(requests)):
        pass
    for hook in hooks:
        hook.remove()
    chosen = {name: torch.cat(rows) for name, rows in seen.items()}
    return {
        name: rows[torch.randperm(len(rows))[:N_QUERIES]].clone() for name, rows in chosen.items()
    }


@dataclass(frozen=True)
class Lessons:
    """Examples with what is computed of them once."""

    examples: list[Example]
    states: dict[str, Tensor]
    """Of each prompt, (tokens, D_i) without the padding, fp16."""
    goals: dict[str, Tensor]
    """Of each caption its effect (E,), fp16."""

    def batch(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, D_i) and goals (B, E)."""
        return (
            padded([self.states[example.prompt] for example in examples]),
            torch.stack([self.goals[example.caption] for example in examples]).float(),
        )


def padded(states: Sequence[Tensor]) -> Tensor:
    """(B, T, D_i): one row more than the longest has, so that all end with padding."""
    n_rows = 1 + max(map(len, states))
    return torch.stack([F.pad(s.float(), (0, 0, 0, n_rows - len(s))) for s in states])


def encode(model: Model, texts: Sequence[str]) -> dict[str, Tensor]:
    texts = sorted(dict.fromkeys(texts), key=len)
    states: dict[str, Tensor] = {}
    for start in range(0, len(texts), 512):
        some = texts[start : start + 512]
        rows = torch.from_numpy(model.text.hidden_states(0, some)).half()
        states |= {text: r[r.any(dim=-1)].clone() for text, r in zip(some, rows, strict=True)}
    return states


@torch.no_grad()
def effects_of(
    captions: Sequence[str],
    states: Mapping[str, Tensor],
    adapter: ConditionAdapter,
    effects: Effects,
) -> dict[str, Tensor]:
    """(E,) of each caption, fp16"""
    goals: dict[str, Tensor] = {}
    captions = sorted(dict.fromkeys(captions), key=lambda caption: len(states[caption]))
    for start in range(0, len(captions), 64):
        some = captions[start : start + 64]
        found = effects(adapter(padded([states[caption] for caption in some]))).half()
        goals |= zip(some, found.clone(), strict=True)
    return goals


class Teacher:
    """The adapter that learns, and what it is measured by."""

    def __init__(self, model: Model, words: Words, seed: int) -> None:
        rng = random.Random(seed)
        (encoder,), (given,) = model.text.encoders, model.networks.adapters
        sizes = given.proj.in_features, given.proj.out_features
        known = self.known = ConditionAdapter(*sizes)  # what the UNet was trained with
        known.load_state_dict(given.state_dict(), strict=False)
        known.requires_grad_(False)
        self.adapter = ConditionAdapter(*sizes, given.n_layers or N_LAYERS)
        self.adapter.load_state_dict(given.state_dict(), strict=False)
        for part in (self.adapter.proj, self.adapter.norm):
            part.requires_grad_(False)
        taught = [
            *single_examples(words, FRAMES_EACH, rng),
            *(KNOWN_REPEATS * list(known_examples(words))),
            *composed_examples(words, N_COMPOSED, rng),
        ]
        self.tests = held_out_examples(words, rng) | {"known": list(known_examples(words))[::4]}
        everything = [*taught, *(example for test in self.tests.values() for example in test)]
        kinds = [words.meaning(kind) for kind in words.kinds]
        texts = [example.prompt for example in everything]
        captions = [example.caption for example in everything] + kinds
        states = encode(model, texts + captions)
        queries = collect_queries(model, rng.sample(kinds, N_QUERY_PROMPTS))
        self.effects = Effects(model.networks.unet, queries, encoder.max_length)
        with torch.no_grad():
            self.effects.fit(known(padded([states[caption] for caption in kinds])))
        goals = effects_of(captions, states, known, self.effects)
        self.lessons = Lessons(taught, states, goals)
        self.kinds = {kind: i for i, kind in enumerate(words.kinds)}
        self.kind_goals = torch.stack([goals[caption] for caption in kinds]).float()
        self.rng = rng

    def batches(self, size: int) -> Iterator[list[Example]]:
        """Random ones, but of prompts about equally long: padding costs time."""
        while True:
            some = self.rng.sample(self.lessons.examples, 16 * size)
            some.sort(key=lambda example: len(self.lessons.states[example.prompt]))
            starts = range(0, len(some), size)
            for start in self.rng.sample(starts, len(starts)):
                yield some[start : start + size]

    def loss(self, examples: Sequence[Example]) -> Tensor:
        states, goals = self.lessons.batch(examples)
        found = self.effects(self.adapter(states))
        alone = [i for i, example in enumerate(examples) if len(example.kinds) == 1]
        kinds = torch.tensor([self.kinds[examples[i].kinds[0]] for i in alone], dtype=torch.long)
        scores = -_distances(found[alone], self.kind_goals) / TEMPERATURE
        error = (found - goals).square().sum(dim=1).mean()
        contrast = F.cross_entropy(scores, kinds, reduction="sum") / len(examples)
        return error + CONTRAST_WEIGHT * contrast

    @torch.no_grad()
    def measure(self, adapter: ConditionAdapter) -> dict[str, float]:
        """How far held-out prompts are from their goal, and how often their kind is nearest."""
        adapter.eval()
        result = {}
        for name, examples in self.tests.items():
            errors, hits = [], []
            for start in range(0, len(examples), 64):
                some = examples[start : start + 64]
                states, goals = self.lessons.batch(some)
                found = self.effects(adapter(states))
                errors.append((found - goals).square().sum(dim=1))
                if len(some[0].kinds) == 1:
                    nearest = _distances(found, self.kind_goals).argmin(dim=1)
                    kinds = torch.tensor([self.kinds[example.kinds[0]] for example in some])
                    hits.append((nearest == kinds).float())
            result[f"{name} error"] = torch.cat(errors).mean().item()
            if hits:
                result[f"{name} right"] = torch.cat(hits).mean().item()
        adapter.train()
        return result


def _distances(found: Tensor, goals: Tensor) -> Tensor:
    """(B, E), (K, E) -> (B, K), squared"""
    return found.square().sum(1, keepdim=True) - 2 * found @ goals.T + goals.square().sum(1)


def teach(
    teacher: Teacher, steps: int, batch_size: int, learning_rate: float, max_minutes: float
) -> None:
    learning = [p for p in teacher.adapter.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0.05)
    began_s = time.monotonic()
    batches = teacher.batches(batch_size)
    print("before", _shown(teacher.measure(teacher.known)), flush=True)
    total = 0.0
    for step in range(1, steps + 1):
        share = max(step / steps, (time.monotonic() - began_s) / (60 * max_minutes))
        for group in optimizer.param_groups:  # the rate falls with whichever ends sooner
            group["lr"] = learning_rate * min(1, step / 100) * max(0.02, 1 - share)
        loss = teacher.loss(next(batches))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        total += loss.item()
        if step % 200 == 0 or share >= 1:
            shown = _shown(teacher.measure(teacher.adapter))
            print(
                f"step {step} {time.monotonic() - began_s:.0f} s loss {total / 200:.3f} {shown}",
                flush=True,
            )
            total = 0.0
        if share >= 1:
            break
    teacher.adapter.eval()


def _shown(result: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in result.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model, taught")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = load_model(args.model, engine="torch", device="cpu", dtype="fp32")
    model.networks.unet.requires_grad_(False)
    teacher = Teacher(model, load_words(), args.seed)
    teach(teacher, args.steps, args.batch_size, args.learning_rate, args.max_minutes)
    model.networks.adapters[0] = teacher.adapter
    save_model(replace(model), args.output, overwrite=True)


if __name__ == "__main__":
    main()
