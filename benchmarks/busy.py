"""Two `auffusion generate` started together, against one alone, by each engine: 2 would be fair.

Threads can wait for each other by spinning, also while one of them is not scheduled. The command
line has those of torch sleep (OMP_WAIT_POLICY=PASSIVE, unless that is set), and those of ONNX
Runtime, too; torch with spinning stands beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generate import AUFFUSION

MAX_RATIO = 2.3
KINDS = {
    "onnx": ("onnx", "PASSIVE"),
    "torch": ("torch", "PASSIVE"),
    "torch that spins": ("torch", "ACTIVE"),
}
"""Engine and waiting policy."""
HELD_TO_THE_BAR = ("onnx", "torch")


def wall_s(n_processes: int, folder: Path, engine: str, policy: str) -> float:
    """Seconds until all of `n_processes` that were started together have made a sound each."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    command = [AUFFUSION, "generate", "dog barking in rain", "--device", "cpu", "--seed", "0"]
    command += ["--engine", engine, "--overwrite", "-o"]
    start_s = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, str(folder / f"{i}.wav")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i in range(n_processes)
    ]
    if any([process.wait() for process in processes]):
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each kind (default 3)")
    arguments = parser.parse_args()

    times_s = {(kind, n): [] for kind in KINDS for n in (1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        for engine, policy in KINDS.values():
            wall_s(1, Path(folder), engine, policy)  # fills the disk cache
        for _ in range(arguments.runs):
            for (kind, n), found in times_s.items():
                found.append(wall_s(n, Path(folder), *KINDS[kind]))

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.runs} runs")
    print(f"{'engine':<18}{'one alone':>12}{'two together':>14}{'ratio':>8}")
    ratios = {}
    for kind in KINDS:
        one, two = (statistics.median(times_s[kind, n]) for n in (1, 2))
        ratios[kind] = two / one
        print(f"{kind:<18}{one:>10.1f} s{two:>12.1f} s{two / one:>8.2f}")
    slow = [kind for kind in HELD_TO_THE_BAR if ratios[kind] > MAX_RATIO]
    if slow:
        sys.exit(f"{', '.join(slow)}: two together take more than {MAX_RATIO} times one alone")


if __name__ == "__main__":
    main()
