"""Clips a second that an evaluation embeds, against one clip at a time as the common tool does.

    python benchmarks/evaluate.py --clips 200
    python benchmarks/evaluate.py --clips 2000 --device cuda
    python benchmarks/evaluate.py --clips 64 --winograd

Both sides embed the same clips of 10 s with the same random weights of Cnn14 and VGGish, on the
same device. The one side reads a file, runs the published network on it, waits for the output, then
takes the next. The other is `evaluation.features.extract`. On a CPU both have all of torch's
threads, and they take turns, some clips each, so that what else the machine does is shared; wall
time and processor time are both shown. Last come the peaks of memory after a quarter of the clips
and after all of them.

With `--winograd` (CPU) ours takes turns with itself without Winograd's convolutions: their share.

On an NVIDIA GPU both sides compute in float32; with `--tf32` the published networks round inside
their convolutions, as torch does by default. `auffusion evaluate` never does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from auffusion_cli.evaluation import convolution
from auffusion_cli.evaluation.cnn14 import Cnn14, Cnn14Embedder
from auffusion_cli.evaluation.features import extract
from auffusion_cli.evaluation.protocols import PROTOCOLS
from auffusion_cli.evaluation.vggish import LogMel, VGGish, VGGishEmbedder, frames

TARGET = 3.0
RATE_HZ, DURATION_S = 16_000, 10
AUDIO_INPUT = PROTOCOLS["auffusion-2024"].classifier.audio_input


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    parser.add_argument("--tf32", action="store_true", help="let the other side round")
    parser.add_argument(
        "--turn", type=int, help="clips of one side before the other's; 40, on a GPU all"
    )
    parser.add_argument("--winograd", action="store_true", help="the share of its convolutions")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_cuda = options.device.type == "cuda"
    torch.backends.cudnn.allow_tf32 = options.tf32
    if options.memory_of:
        paths = sorted(options.memory_of.iterdir())
        print(json.dumps(memory_peaks(paths, options.device)))
        return
    n_in_turn = options.turn or (options.clips if on_cuda else 40)
    with tempfile.TemporaryDirectory(prefix="auffusion-evaluate-") as temporary:
        paths = write_clips(Path(temporary), options.clips)
        print(f"{options.clips} clips of {DURATION_S} s, {describe(options.device)}")
        if options.winograd:
            show_winograd_share(paths, n_in_turn)
            return
        print("network  one at a time       ours                ratio")
        print("         wall     processor  wall     processor  wall  processor  difference")
        totals = np.zeros(4)
        for name, pair in (("cnn14", cnn14_pair), ("vggish", vggish_pair)):
            # The first clips are for the libraries to settle in, with batches as large as later.
            take_turns(paths[: n_in_turn if on_cuda else 1], *pair(options.device), n_in_turn)
            seconds, difference = take_turns(paths, *pair(options.device), n_in_turn)
            totals += seconds
            print_row(name, seconds, f"{difference:.1e}")
        print_row("both", totals)
        wall, _, our_wall, _ = options.clips / totals
        print(
            f"clips a second through both networks: {wall:.1f} one at a time, {our_wall:.1f} ours"
        )
        command = [sys.executable, __file__, "--device", str(options.device)]
        command += ["--memory-of", temporary]
        peaks = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for n_clips, (n_bytes, n_device_bytes) in peaks.items():
            of_device = f", of the GPU {n_device_bytes / 1e6:.0f} MB" if on_cuda else ""
            print(f"peak memory after {n_clips} clips: {n_bytes / 1e6:.0f} MB{of_device}")
    ratio = totals[0] / totals[2]
    sys.exit(f"less than {TARGET} times as fast" if ratio < TARGET else 0)


def show_winograd_share(paths: list[Path], n_in_turn: int) -> None:
    """Wall time without Winograd's convolutions, over that with them."""
    totals = np.zeros(2)
    for name, pair in (("cnn14", cnn14_pair), ("vggish", vggish_pair)):
        _, winograd = pair(torch.device("cpu"))
        least, convolution.MIN_CHANNEL_PAIRS = convolution.MIN_CHANNEL_PAIRS, sys.maxsize
        _, direct = pair(torch.device("cpu"))
        convolution.MIN_CHANNEL_PAIRS = least
        seconds = np.zeros(2)
        for start in range(0, len(paths), n_in_turn):
            turn = paths[start : start + n_in_turn]
            seconds += time_of(turn, direct), time_of(turn, winograd)
        totals += seconds
        print(f"{name}: {seconds[0] / seconds[1]:.2f} times as fast")
    print(f"both: {totals[0] / totals[1]:.2f} times as fast")


def time_of(paths: list[Path], embedder) -> float:
    begun_s = time.perf_counter()
    for _ in extract(paths, embedder, cache=None):
        pass
    return time.perf_counter() - begun_s


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{torch.get_num_threads()} threads"
    rounding = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
    return f"{torch.cuda.get_device_name(device)}, one at a time in {rounding}"


def print_row(name: str, seconds: np.ndarray, difference: str = "") -> None:
    wall, processor, our_wall, our_processor = seconds
    print(
        f"{name:<8} {wall:6.1f} s {processor:7.1f} s  {our_wall:6.1f} s {our_processor:7.1f} s  "
        f"{wall / our_wall:4.2f}  {processor / our_processor:4.2f}       {difference}",
        flush=True,
    )


def write_clips(folder: Path, n_clips: int) -> list[Path]:
    """Noise that comes and goes."""
    generator = np.random.default_rng(0)
    time_s = np.arange(RATE_HZ * DURATION_S) / RATE_HZ
    paths = []
    for i in range(n_clips):
        envelope = np.sin(2 * np.pi * generator.uniform(0.1, 2) * time_s) ** 2
        paths.append(folder / f"{i:04}.wav")
        sound = 0.2 * envelope * generator.standard_normal(len(time_s)).clip(-4, 4)
        soundfile.write(paths[-1], sound, RATE_HZ, subtype="PCM_16")
    return paths


def take_turns(paths, one_at_a_time, embedder, n_in_turn: int) -> tuple[np.ndarray, float]:
    """(seconds of wall and processor, theirs and ours; the largest relative difference)"""
    seconds, differences = np.zeros(4), []
    for start in range(0, len(paths), n_in_turn):
        turn = paths[start : start + n_in_turn]
        marks = [(time.perf_counter(), time.process_time())]
        theirs = [one_at_a_time(path) for path in turn]
        marks.append((time.perf_counter(), time.process_time()))
        ours = list(extract(turn, embedder, cache=None))
        marks.append((time.perf_counter(), time.process_time()))
        seconds += np.diff(np.array(marks), axis=0).ravel()
        differences += [
            np.linalg.norm(a - b.embeddings) / np.linalg.norm(a)
            for a, b in zip(theirs, ours, strict=True)
        ]
    return seconds, max(differences)


def read(path: Path) -> torch.Tensor:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate_hz == RATE_HZ
    waveform = torch.from_numpy(samples[:, 0].copy())
    return waveform - waveform.mean()


def cnn14_pair(device: torch.device):
    torch.manual_seed(0)
    network = Cnn14().eval()
    quick = Cnn14()
    quick.load_state_dict(network.state_dict())
    network.to(device)

    @torch.no_grad()
    def one_at_a_time(path: Path) -> np.ndarray:
        embedding, _ = network(read(path)[None].to(device))
        return embedding.cpu().numpy()

    return one_at_a_time, Cnn14Embedder(quick.to(device), AUDIO_INPUT, "random")


def vggish_pair(device: torch.device):
    torch.manual_seed(0)
    network, spectrogram = VGGish().eval(), LogMel().to(device)
    quick = VGGish()
    quick.load_state_dict(network.state_dict())
    network.to(device)

    @torch.no_grad()
    def one_at_a_time(path: Path) -> np.ndarray:
        return network(spectrogram(frames(read(path).to(device)))).cpu().numpy()

    return one_at_a_time, VGGishEmbedder(quick.to(device), AUDIO_INPUT, "random")


def memory_peaks(paths: list[Path], device: torch.device) -> dict[int, tuple[int, int]]:
    """{clips embedded: the most bytes resident so far, and the most of the GPU's}"""
    embedder, peaks = Cnn14Embedder(Cnn14().to(device), AUDIO_INPUT, "random"), {}
    for n_embedded, _ in enumerate(extract(paths, embedder, cache=None), start=1):
        if n_embedded in (len(paths) // 4, len(paths)):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            n_device_bytes = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
            peaks[n_embedded] = (peak if sys.platform == "darwin" else peak * 1024), n_device_bytes
    return peaks


if __name__ == "__main__":
    main()
