"""Memory of the metrics for few clips and for many, without any network.

    python benchmarks/evaluate_memory.py --clips 2000 20000

Both folders, generated and reference, have so many clips, of which random numbers stand for what
Cnn14 and VGGish would have made of 10 s. A process for each count computes all metrics with their
intervals, and prints the peak of its resident memory over what its libraries took. Features and
their products lie in the folder for temporary files, which should be a disk. Resamples are computed
one after another, so that of the costly ones two show what more would need.

Below some 4,000 clips less is needed, since not all blocks are full; from there on it stays.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from auffusion_cli.evaluation import bootstrap, measure
from auffusion_cli.evaluation.embedders import ClipFeatures
from auffusion_cli.evaluation.measure import FolderFeatures

MAX_BYTES = 512e6
"""Much less than embedding needs, which comes before."""
N_CLASSES, N_FRAMES = 527, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--dim", type=int, default=2048, help="Cnn14's is 2048")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_peaks(options.clips[0], options.dim)))
        return
    most = 0
    for n_clips in options.clips:
        command = [sys.executable, __file__, "--measure", "--dim", str(options.dim)]
        command += ["--clips", str(n_clips)]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found = json.loads(result.stdout)
        for what, (n_bytes, seconds) in found.items():
            print(f"{n_clips:>6} clips  {what:<12} {n_bytes / 1e6:6.0f} MB {seconds:7.1f} s")
        most = max(most, *(n_bytes for n_bytes, _ in found.values()))
    sys.exit(f"more than {MAX_BYTES / 1e6:.0f} MB" if most > MAX_BYTES else 0)


def measure_peaks(n_clips: int, dim: int) -> dict[str, tuple[int, float]]:
    """{stage: (the most bytes resident so far over those at the start, seconds)}"""
    bootstrap.MIN_RESAMPLES = 2
    start_bytes, found = peak_bytes(), {}

    def stage(name: str, function, *arguments):
        start_s = time.monotonic()
        result = function(*arguments)
        found[name] = peak_bytes() - start_bytes, time.monotonic() - start_s
        return result

    classes = [
        stage(f"collect {i}", FolderFeatures.collect, features(n_clips, 1, dim, N_CLASSES, i))
        for i in (1, 2)
    ]
    stage("IS", measure.inception, "IS", "cnn14", classes[0])
    pairs = [(i, i) for i in range(n_clips)]
    stage("KL", measure.divergences, *classes, pairs, "softmax")
    stage("KAD", measure.kernel, "KAD", "cnn14", *classes)
    stage("FD, FD-inf", measure.frechet, "FD", "FD-inf", "cnn14", *classes)
    frames = [FolderFeatures.collect(features(n_clips, N_FRAMES, 128, None, i)) for i in (3, 4)]
    stage("FAD, FAD-inf", measure.frechet, "FAD", "FAD-inf", "vggish", *frames)
    return found


def features(
    n_clips: int, n_rows: int, dim: int, n_classes: int | None, seed: int
) -> Iterator[ClipFeatures]:
    """Of clips that never were: positive, and as varied in one seed as in another."""
    generator = np.random.default_rng(seed)
    for _ in range(n_clips):
        embeddings = generator.standard_normal((n_rows, dim), np.float32).clip(0)
        logits = None if n_classes is None else generator.standard_normal(n_classes, np.float32) * 3
        yield ClipFeatures(embeddings, logits)


def peak_bytes() -> int:
    """The most memory this process has had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
