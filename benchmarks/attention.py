"""What recording the attention maps of all words adds to the time of a generation.

The embedded model is loaded once. Sounds are made without and with maps in turn, so that whatever
else the machine does falls on both. Loading and the first of each, which warms up, do not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

from auffusion_cli.checkpoints import load_model
from auffusion_cli.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.attention import generate_with_attention
from auffusion_cli.tasks.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="pairs to measure (default 10)")
    parser.add_argument("--prompt", default="a dog barking and birds singing in heavy rain")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    model = load_model(arguments.model, device=arguments.device)
    request = GenerateRequest(arguments.prompt, seed=0)
    settings = GenerateSettings.from_defaults(model.defaults)

    def plain() -> None:
        list(generate(model, [request], settings))

    def with_maps() -> None:
        generate_with_attention(model, request, settings)

    times_s = {plain: [], with_maps: []}
    for _ in range(arguments.runs + 1):
        for make, times in times_s.items():
            start_s = time.perf_counter()
            make()
            times.append(time.perf_counter() - start_s)
    plain_s, with_maps_s = (times[1:] for times in times_s.values())
    ratios = [b / a for a, b in zip(plain_s, with_maps_s, strict=True)]

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.runs} pairs")
    print(f"{'':<14}{'median':>10}{'best':>10}")
    for name, times in (("without maps", plain_s), ("with maps", with_maps_s)):
        print(f"{name:<14}{statistics.median(times):>8.2f} s{min(times):>8.2f} s")
    added = 100 * (statistics.median(ratios) - 1)
    print(f"maps add {added:.0f} % (median of the pairs)")


if __name__ == "__main__":
    main()
