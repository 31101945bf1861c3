"""Two `auffusion generate` started together, against one alone: 2 would be fair.

OpenMP's threads can wait for each other by spinning, also while one of them is not scheduled.
The command line has them sleep (OMP_WAIT_POLICY=PASSIVE, unless that is set); the same with
spinning stands beside it.
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


def wall_s(n_processes: int, folder: Path, policy: str) -> float:
    """Seconds until all of `n_processes` that were started together have made a sound each."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    command = [AUFFUSION, "generate", "dog barking in rain", "--device", "cpu", "--seed", "0"]
    start_s = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, "-o", str(folder / f"{i}.wav"), "--overwrite"],
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

    times_s = {(policy, n): [] for policy in ("PASSIVE", "ACTIVE") for n in (1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        wall_s(1, Path(folder), "PASSIVE")  # fills the disk cache
        for _ in range(arguments.runs):
            for (policy, n), found in times_s.items():
                found.append(wall_s(n, Path(folder), policy))

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.runs} runs")
    print(f"{'waiting threads':<17}{'one alone':>12}{'two together':>14}{'ratio':>8}")
    ratios = {}
    for policy, name in (("PASSIVE", "sleep (default)"), ("ACTIVE", "spin")):
        one, two = (statistics.median(times_s[policy, n]) for n in (1, 2))
        ratios[policy] = two / one
        print(f"{name:<17}{one:>10.1f} s{two:>12.1f} s{two / one:>8.2f}")
    if ratios["PASSIVE"] > MAX_RATIO:
        sys.exit(f"two together take more than {MAX_RATIO} times as long as one alone")


if __name__ == "__main__":
    main()
