"""Time from a studio that has just been started to twelve candidates, through its API.

python benchmarks/studio_candidates.py [--words "dog barking in rain"] [--n 12]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import httpx2

TARGET_S = 25.0
"""For a dozen candidates on two cores, once the page is open."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", default="dog barking in rain")
    parser.add_argument("--n", type=int, default=12)
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="auffusion-") as folder:
        command = ["-m", "auffusion_cli", "studio", "--folder", folder, "--port", "0", "--no-open"]
        with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) as studio:
            try:
                address = studio.stdout.readline().decode().strip()
                print(f"the page is open after {time.perf_counter() - begin:.1f} s")
                seconds = _make(address, options.words, options.n)
            finally:
                studio.terminate()
    print(f"{options.n} candidates {seconds:.1f} s later")
    return 0 if seconds < TARGET_S else 1


def _make(address: str, words: str, n: int) -> float:
    """Seconds from now until `n` candidates are there; the first ones are told of."""
    begin = time.perf_counter()
    with httpx2.Client(base_url=address, timeout=600) as client:
        body = {"prompt": words, "n": n, "seed": 1}
        job = client.post("/v1/generate", json=body).raise_for_status().json()
        n_told = 0
        while job["status"] in ("waiting", "running"):
            time.sleep(0.05)
            job = client.get(f"/v1/jobs/{job['id']}").json()
            if n_told == 0 < len(job["sounds"]):
                n_told = len(job["sounds"])
                print(f"the first candidate {time.perf_counter() - begin:.1f} s after it")
        assert len(job["sounds"]) == n, job
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
