"""How long starting takes: `auffusion --help` and the imports behind it, against bare Python.

Each command runs as a new process, `--runs` times; the median and the fastest are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

AUFFUSION = str(Path(sys.executable).with_name("auffusion"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import auffusion_cli": [sys.executable, "-c", "import auffusion_cli"],
    "import typer": [sys.executable, "-c", "import typer"],
    "auffusion --version": [AUFFUSION, "--version"],
    "auffusion --help": [AUFFUSION, "--help"],
    "auffusion generate --help": [AUFFUSION, "generate", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def wall_time_s(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="processes a command (default 7)")
    runs = parser.parse_args().runs

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {runs} runs each")
    print(f"{'command':<28}{'median':>10}{'fastest':>10}")
    for name, command in COMMANDS.items():
        wall_time_s(command)  # the first run fills the disk cache
        times_s = [wall_time_s(command) for _ in range(runs)]
        print(f"{name:<28}{statistics.median(times_s):>8.2f} s{min(times_s):>8.2f} s")


if __name__ == "__main__":
    main()
