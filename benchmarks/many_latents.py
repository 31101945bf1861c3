"""Training data of a million sounds: memory and the time to the first batch, against ten thousand.

Shards of tiny latents are written as `train --precompute` does. A process of its own opens them and
reads batches from all over an epoch, as the training loop does, first in order and then far apart.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.latent_shards import (
    SHARD_ITEMS,
    Index,
    Item,
    ShardInfo,
    write_shard,
)

NUMBERS = (10_000, 1_000_000)
MAX_MORE_BYTES = 2**20 * 64
MAX_FIRST_BATCH_S = 60
READER = """
import resource, sys, time
from pathlib import Path
from auffusion_cli.training.latents import LatentCache
from auffusion_cli.training.samples import samples_at
start_s = time.monotonic()
cache = LatentCache(Path(sys.argv[1]), [4], 0.0)
for step in range(300):
    cache.load(samples_at(step, 16, len(cache), 0, cache.shards))
    if step == 0:
        print(time.monotonic() - start_s)
for step in range(0, 2 * len(cache) // 16, len(cache) // 160):
    cache.load(samples_at(step, 16, len(cache), 0, cache.shards))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write(folder: Path, n_sounds: int) -> None:
    """Shards of so many sounds, with a caption of each."""
    shards = []
    states = np.ones((2, 4), np.float16)
    for start in range(0, n_sounds, SHARD_ITEMS):
        numbers = range(start, min(start + SHARD_ITEMS, n_sounds))
        latent = np.ones((1, 4, 2, 2), np.float16)
        items = [Item(latent, Wordings((f"sound {number}",))) for number in numbers]
        info = ShardInfo(len(shards), 0, len(items), True)
        write_shard(folder, info, items, {f"sound {number}": [states] for number in numbers})
        shards.append(info)
    Index(3, "", "", 1.0, (4, 2, 2), (4,), tuple(shards)).write(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{'sounds':>10}{'first batch':>14}{'memory':>12}")
    found = []
    for n_sounds in NUMBERS:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), n_sounds)
            command = [sys.executable, "-c", READER, folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        first_s, peak_bytes = map(float, output.split())
        found.append((first_s, peak_bytes))
        print(f"{n_sounds:>10,}{first_s:>12.2f} s{peak_bytes / 2**20:>8.0f} MiB")
    if found[-1][0] > MAX_FIRST_BATCH_S:
        sys.exit(f"the first batch takes more than {MAX_FIRST_BATCH_S} s")
    if found[-1][1] > found[0][1] + MAX_MORE_BYTES:
        sys.exit("memory grows with the number of sounds")


if __name__ == "__main__":
    main()
