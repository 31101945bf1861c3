"""How time and memory grow: with the number of prompts of a list, and with the length of a sound.

Prompts are made by a tiny random model and lengths by the embedded model, both in one step, so that
what is measured is the program around the networks. Each run is a new process; the time of the
smallest run stands for starting and is taken off the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from generate import AUFFUSION, run

TINY = Path(__file__).parents[1] / "tests/golden/tiny-auffusion"
PROMPTS = (1, 10, 100, 1_000)
LENGTHS_S = (5, 60, 300, 600)
MAX_TIME_RATIO = 1.3
"""Time a sound, or a second of sound, of the largest run to that of the one before."""
MAX_MEMORY_BYTES = 2**20 * 64
"""By which a thousand prompts may exceed ten."""
BYTES_PER_S = 4 * (16_000 + 256 * 100)
"""Of a sound that is held whole: its samples and its log-mel in float32."""
MAX_COPIES = 4


def growth(name: str, unit: str, measured: dict[int, tuple[float, float]]) -> list[float]:
    """Print a table of (seconds, bytes) by size; return the marginal time of a unit by size."""
    print(f"{name:>9}{'wall time':>12}{f'a {unit} more':>18}{'memory':>12}")
    marginal = []
    sizes = list(measured)
    for i, size in enumerate(sizes):
        wall_s, peak_bytes = measured[size]
        more = ""
        if i > 0:
            before = sizes[i - 1]
            marginal.append((wall_s - measured[before][0]) / (size - before))
            more = f"{marginal[-1] * 1e3:.1f} ms"
        print(f"{size:>9,}{wall_s:>10.1f} s{more:>18}{peak_bytes / 2**20:>8.0f} MiB")
    return marginal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    missed = []
    options = ["--steps", "1", "--no-guards", "--device", "cpu", "--seed", "0", "--overwrite"]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        by_number, by_length_s = {}, {}
        for n in PROMPTS:
            prompts = Path(folder, f"{n}.txt")
            prompts.write_text("".join(f"sound number {i}\n" for i in range(n)), "utf-8")
            command = [AUFFUSION, "generate", "--prompts", str(prompts), "-o", f"{folder}/{n}"]
            by_number[n] = run([*command, "--model", str(TINY), *options])
        for seconds in LENGTHS_S:
            command = [AUFFUSION, "generate", "rain", "--duration", str(seconds), *options]
            by_length_s[seconds] = run([*command, "-o", f"{folder}/sound.wav"])

    *_, before, largest = growth("prompts", "prompt", by_number)
    if largest > MAX_TIME_RATIO * before:
        missed.append("time a prompt grows with their number")
    if by_number[1_000][1] > by_number[10][1] + MAX_MEMORY_BYTES:
        missed.append("memory grows with the number of prompts")
    *_, before, largest = growth("seconds", "second", by_length_s)
    if largest > MAX_TIME_RATIO * before:
        missed.append("time a second of sound grows with its length")
    held = MAX_COPIES * BYTES_PER_S * (LENGTHS_S[-1] - LENGTHS_S[0])
    if by_length_s[LENGTHS_S[-1]][1] > by_length_s[LENGTHS_S[0]][1] + held:
        missed.append("memory grows with the length of a sound by more than the sound")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
