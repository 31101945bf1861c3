"""What recording the attention maps of all words adds to the time of a generation.

The embedded model is loaded once. Sounds are made without and with maps in turn, so that whatever
else the machine does falls on both. Loading and the first of each, which warms up, do not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.attention import generate_with_attention
from auffusion_cli.tasks.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="pairs to measure (default 10)")
    parser.add_argument("--prompt", default="a dog barking and birds singing in heavy rain")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    model = load_model(arguments.model, engine="torch", device=arguments.device)
    request = GenerateRequest(arguments.prompt, seed=0)
    settings = GenerateSettings.from_defaults(model.defaults)

    def plain() -> None:
        list(generate(model, [request], settings))

    def with_maps() -> None:
        generate_with_attention(model, request, settings)

    pairs = []
    for n in range(arguments.runs + 1):
        pairs.append([measure(plain), measure(with_maps)])
        if n > 0:
            print(f"pair {n}: {added(pairs[-1:], 1):.0f} % more processor time", file=sys.stderr)
    del pairs[0]

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.runs} pairs")
    print(f"{'median':<14}{'wall time':>12}{'processor':>12}")
    for name, times in zip(("without maps", "with maps"), zip(*pairs, strict=True), strict=True):
        wall_s, processor_s = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:<14}{wall_s:>10.2f} s{processor_s:>10.2f} s")
    print(f"{'maps add':<14}{added(pairs, 0):>10.0f} %{added(pairs, 1):>10.0f} %")


def measure(make: Callable[[], None]) -> tuple[float, float]:
    """Wall time and processor time, in seconds; the second does not count other programs."""
    wall_s, processor_s = time.perf_counter(), time.process_time()
    make()
    return time.perf_counter() - wall_s, time.process_time() - processor_s


def added(pairs: list[list[tuple[float, float]]], clock: int) -> float:
    """By how many percent the second of a pair takes longer: the median."""
    ratios = [with_maps[clock] / plain[clock] for plain, with_maps in pairs]
    return 100 * (statistics.median(ratios) - 1)


if __name__ == "__main__":
    main()
