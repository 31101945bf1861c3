r"""Train the network that says how loud a sound is above 8 kHz.

    python recipes/bandwidth/train_upper_band.py --levels data/full-band-levels.npz \
        -o weights/bandwidth

Its loss is the likelihood of the levels under a Laplace distribution whose spread it tells as well,
so that what cannot be known weighs less. A tenth of the recordings (by group) is kept from the
gradient, and only measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import Tensor, nn

from auffusion_cli.checkpoints.upper_band import FILE
from auffusion_cli.codec.upper_band import (
    DECIBELS,
    DILATIONS,
    HIGH_EDGES,
    KERNEL,
    RANGE_DB,
    network_input,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "embedded"))
from checksums import write_checksums

BIN_HZ = 93.75
WIDTH = 64
N_FRAMES = 128
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
EMA_DECAY = 0.99
TILT_DB = 4.0
"""Recordings are coloured at random, by up to this from the lowest band to the highest."""


class Network(nn.Module):
    """Convolutions over time with growing dilation; see `codec.upper_band`, which computes it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_in, WIDTH, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=d * (KERNEL // 2), dilation=d)
            for d in DILATIONS
        )
        self.last = nn.Conv1d(WIDTH, 2 * n_out, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n_in, T) -> levels and logarithms of their spreads, each (B, n_out, T)."""
        h = F.relu(self.first(x))
        for block in self.blocks:
            h = h + F.relu(block(h))
        level, log_spread = self.last(h).chunk(2, dim=1)
        return level, log_spread.clamp(-4, 3)


class Recordings:
    """Inputs and targets of recordings, and crops of them."""

    def __init__(self, levels: Path) -> None:
        table = np.load(levels)
        bounds = np.cumsum(table["n_frames"])[:-1]
        self.inputs: list[tuple[np.ndarray, ...]] = []  # of the recording, and of its round trip
        self.targets: list[np.ndarray] = []
        high_db = np.split(table["high_db"], bounds)
        variants = [np.split(table[name], bounds) for name in ("low_db", "coded_db")]
        for low_db, coded_db, of_high in zip(*variants, high_db, strict=True):
            pairs = [network_input(db.astype(np.float32)) for db in (low_db, coded_db)]
            x, reference = pairs[0]
            floor = low_db.max() - RANGE_DB
            target = (np.maximum(of_high.astype(np.float32), floor) - reference) / DECIBELS
            # The round trip's levels are another's in each frame; its target is the same in dB.
            self.inputs.append((x, pairs[1][0]))
            shift = (reference - pairs[1][1]) / DECIBELS
            self.targets.append((target, target + shift))
        centres = (np.array(HIGH_EDGES[1:]) * BIN_HZ)[None]
        self.there = centres <= table["edge_hz"][:, None]
        held = [int(hashlib.sha256(g.encode()).hexdigest(), 16) % 10 == 0 for g in table["group"]]
        self.held = np.array(held)

    def crop(self, index: int, coded: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Input (n_in, T), target (n_out, T) and which of the targets are known."""
        x, y = self.inputs[index][coded], self.targets[index][coded]
        start = rng.integers(max(len(x) - N_FRAMES, 0) + 1)
        x, y = x[start : start + N_FRAMES], y[start : start + N_FRAMES]
        known = np.broadcast_to(self.there[index], y.shape)
        n = N_FRAMES - len(x)
        return tuple(np.pad(a, ((0, n), (0, 0))).T for a in (x, y, known))

    def batch(self, members: np.ndarray, rng: np.random.Generator) -> list[Tensor]:
        sizes = np.array([min(len(self.inputs[i][0]), 1500) for i in members]) ** 0.5
        chosen = rng.choice(members, BATCH_SIZE, p=sizes / sizes.sum())
        crops = [self.crop(i, rng.integers(2), rng) for i in chosen]
        return [
            torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*crops, strict=True)
        ]


def tilted(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same sounds through a random tone control."""
    tilt = torch.from_numpy(rng.uniform(-TILT_DB, TILT_DB, (len(x), 1, 1)).astype(np.float32))
    low = torch.linspace(-0.5, 0, x.shape[1] - 1)[None, :, None]
    high = torch.linspace(0, 0.5, y.shape[1])[None, :, None]
    x = torch.cat([x[:, :-1] + tilt / DECIBELS * low, x[:, -1:]], dim=1)
    return x, y + tilt / DECIBELS * high


def loss(network: nn.Module, x: Tensor, y: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood, and the mean error in dB."""
    level, log_spread = network(x)
    error = (level - y).abs()
    nll = error * torch.exp(-log_spread) + log_spread
    return (nll * known).sum() / known.sum(), DECIBELS * (error * known).sum() / known.sum()


def train(data: Recordings, n_steps: int, seed: int) -> tuple[Network, float]:
    """The network's moving average, and its mean error in dB on what was kept from it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Network(data.inputs[0][0].shape[1], data.targets[0][0].shape[1])
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, n_steps)
    seen, kept = np.flatnonzero(~data.held), np.flatnonzero(data.held)
    fixed = np.random.default_rng(0)
    validation = [data.batch(kept, fixed) for _ in range(10)]
    for step in range(1, n_steps + 1):
        x, y, known = data.batch(seen, rng)
        x, y = tilted(x, y, rng)
        nll, _ = loss(network, x, y, known)
        optimizer.zero_grad()
        nll.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        if step % 250 == 0 or step == n_steps:
            with torch.no_grad():
                measured = [loss(average, *batch) for batch in validation]
            error_db = float(torch.stack([m[1] for m in measured]).mean())
            print(
                f"{step} training {nll:.3f}, kept from it"
                f" {torch.stack([m[0] for m in measured]).mean():.3f}, {error_db:.2f} dB",
                flush=True,
            )
    return average.module, error_db


def tensors_of(network: Network) -> dict[str, np.ndarray]:
    """What tells the levels; how sure it is of them serves the training alone."""
    tensors = {k: v.numpy().astype(np.float16) for k, v in network.state_dict().items()}
    n_out = len(tensors["last.bias"]) // 2
    return tensors | {k: tensors[k][:n_out] for k in ("last.weight", "last.bias")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--levels", type=Path, required=True, help="what prepare_levels.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network, error_db = train(Recordings(args.levels), args.steps, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(network), args.output / FILE)
    config = {"format_version": 1, "error_db": round(error_db, 2), "steps": args.steps}
    (args.output / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    write_checksums(args.output)


if __name__ == "__main__":
    main()
