"""From the start of the process to the first step of torch's engine, against another commit.

Both load the embedded model on the CPU by the Python API and end when the first step is done; they
take turns. By default the other commit is the last one before there was an ONNX engine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from startup import wall_time_s

ROOT = Path(__file__).parents[1]
PROGRAM = """
import inspect, os
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import auffusion_cli as auffusion
options = {"device": "cpu"}
if "engine" in inspect.signature(auffusion.load_model).parameters:
    options["engine"] = "torch"
model = auffusion.load_model(**options)
auffusion.generate(model, "dog barking in rain", seed=1, on_step=lambda *step: os._exit(0))
"""
MAX_RATIO = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default="3bd8b17", help="commit (default 3bd8b17)")
    parser.add_argument("--runs", type=int, default=5, help="processes of each (default 5)")
    arguments = parser.parse_args()

    command = [sys.executable, "-c", PROGRAM]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "other")
        worktree = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run(
            [*worktree, "add", "--quiet", "--detach", other, arguments.against], check=True
        )
        try:
            times_s = {"this": [], arguments.against: []}
            trees = {"this": ROOT, arguments.against: other}
            for i in range(arguments.runs + 1):
                for name, tree in trees.items():
                    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
                    wall_s = wall_time_s(command, environment=environment)
                    if i > 0:  # the first run fills the disk cache
                        times_s[name].append(wall_s)
        finally:
            subprocess.run([*worktree, "remove", "--force", other], check=True)

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.runs} runs")
    for name, found in times_s.items():
        print(f"{name:<10}{statistics.median(found):>7.1f} s{min(found):>7.1f} s")
    medians_s = [statistics.median(found) for found in times_s.values()]
    print(f"{'ratio':<10}{medians_s[0] / medians_s[1]:>7.2f}")
    if medians_s[0] > MAX_RATIO * medians_s[1]:
        sys.exit(f"more than {MAX_RATIO} of the time to the first step")


if __name__ == "__main__":
    main()
