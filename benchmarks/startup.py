"""How long what makes no sound takes: help, lists, dry runs and refusals, against `import torch`.

Each command runs as a new process, `--runs` times, in turns with the others; the median and its
ratio to `python -c "import torch"` are printed. Ends with an error where a ratio exceeds the bar.
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
from collections.abc import Mapping
from pathlib import Path

AUFFUSION = str(Path(sys.executable).with_name("auffusion"))
REFERENCE = "import torch"
MAX_RATIO = 0.35
REFUSED = 2
"""The exit code where what was asked is impossible."""


def commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    """By name, a command and its exit code; `folder` has a sound and a list of prompts."""
    sound, prompts = str(folder / "sound.wav"), str(folder / "prompts.txt")
    words = ["generate", "dog barking in rain"]
    ours = {
        "--version": (["--version"], 0),
        "--help": (["--help"], 0),
        "generate --help": (["generate", "--help"], 0),
        "info": (["info", sound], 0),
        "models list": (["models", "list"], 0),
        "generate --dry-run": ([*words, "--dry-run"], 0),
        "generate list --dry-run": (["generate", "--prompts", prompts, "--dry-run"], 0),
        "inpaint --dry-run": (["inpaint", sound, "--mask", "1-2s", "--dry-run"], 0),
        "sweep --dry-run": (["sweep", "rain", "--dry-run"], 0),
        "steps out of range": ([*words, "--steps", "0"], REFUSED),
        "unknown format": ([*words, "-o", "rain.doc"], REFUSED),
        "unknown model": ([*words, "--model", "./nowhere"], REFUSED),
        "missing recording": (["inpaint", "nothing.wav", "--mask", "1-2s"], REFUSED),
        "mask beyond the end": (["inpaint", sound, "--mask", "90-92s"], REFUSED),
    }
    python = {"python -c pass": "pass", "import auffusion_cli": "import auffusion_cli"}
    python[REFERENCE] = REFERENCE
    return {name: ([sys.executable, "-c", code], 0) for name, code in python.items()} | {
        name: ([AUFFUSION, *arguments], expected) for name, (arguments, expected) in ours.items()
    }


def wall_time_s(
    command: list[str], expected: int = 0, environment: Mapping[str, str] | None = None
) -> float:
    """Seconds that `command` takes; ends the benchmark where its exit code is not `expected`."""
    start_s = time.perf_counter()
    process = subprocess.run(command, capture_output=True, env=environment)
    wall_s = time.perf_counter() - start_s
    if process.returncode != expected:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{process.stderr.decode()}")
    return wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="processes a command (default 5)")
    runs = parser.parse_args().runs

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "prompts.txt").write_text("dog barking\nrain\n", "utf-8")
        make = [AUFFUSION, "generate", "rain", "--steps", "1", "-o", f"{folder}/sound.wav"]
        subprocess.run(make, check=True, capture_output=True)
        todo = commands(Path(folder))
        times_s = {name: [] for name in todo}
        for i in range(runs + 1):
            for name, (command, expected) in todo.items():
                wall_s = wall_time_s(command, expected)
                if i > 0:  # the first run fills the disk cache
                    times_s[name].append(wall_s)

    medians_s = {name: statistics.median(found) for name, found in times_s.items()}
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {runs} runs each")
    print(f"{'command':<28}{'median':>10}{'fastest':>10}{'ratio':>8}")
    for name, median_s in medians_s.items():
        ratio = median_s / medians_s[REFERENCE]
        print(f"{name:<28}{median_s:>8.2f} s{min(times_s[name]):>8.2f} s{ratio:>8.2f}")
    bar_s = MAX_RATIO * medians_s[REFERENCE]
    slow = [name for name, median in medians_s.items() if median > bar_s and name != REFERENCE]
    if slow:
        sys.exit(f"more than {MAX_RATIO} of the time of `{REFERENCE}`: {', '.join(slow)}")


if __name__ == "__main__":
    main()
