"""Time and peak memory of one `auffusion generate` on the embedded model, start to end.

Each run is a new process, so it pays for imports and loading, as a user does; the files are in the
disk cache after the first run, which is not counted.
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

AUFFUSION = str(Path(sys.executable).with_name("auffusion"))


def run(command: list[str]) -> tuple[float, float]:
    """Wall time in seconds and the peak of resident memory in bytes."""
    # With bytecode beside the sources, as a program has that is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")
    # Linux counts in KiB, macOS in bytes.
    return wall_s, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="processes to measure (default 3)")
    parser.add_argument("--prompt", default="dog barking in rain")
    parser.add_argument("--duration", type=float, help="seconds; by default the model's")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "sound.wav")
        command = [AUFFUSION, "generate", arguments.prompt, "-o", str(output)]
        command += ["--device", arguments.device, "--seed", "0", "--overwrite"]
        if arguments.duration is not None:
            command += ["--duration", str(arguments.duration)]
        run(command)
        walls_s, peaks_bytes = zip(*(run(command) for _ in range(arguments.runs)), strict=True)

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.runs} runs")
    print(f"{'':<12}{'median':>10}{'worst':>10}")
    print(f"{'wall time':<12}{statistics.median(walls_s):>8.1f} s{max(walls_s):>8.1f} s")
    peaks_gb = [peak / 1e9 for peak in peaks_bytes]
    print(f"{'peak memory':<12}{statistics.median(peaks_gb):>7.2f} GB{max(peaks_gb):>7.2f} GB")


if __name__ == "__main__":
    main()
