"""Measure what int8 weights (dynamic quantisation) would do to the embedded model.

    python recipes/embedded/quantise.py --kinds 100

Quantises UNet and text encoder by ONNX Runtime's `quantize_dynamic`, once their matrix products and
once their convolutions, too, and prints for each: size, time of a call, largest difference from
fp32 (of the largest number), and how many sounds of that many kinds, one each, the judge of
`generate --best-of` takes for their kind. Nothing is written that stays.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from auffusion_cli.checkpoints.kinds import Kind, read_kinds
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.cores import usable_cores
from auffusion_cli.engines.onnx_networks import GraphNetwork
from auffusion_cli.evaluation.judge import load_kind_judge
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateRequest
from auffusion_cli.tasks.generate import generate

VARIANTS = {
    "fp32": [],
    "int8 products": ["MatMul", "Gemm"],
    "int8 products and convolutions": ["MatMul", "Gemm", "Conv"],
}
N_TIMED = 10


class Quantised:
    """In the place of a `GraphNetwork`: another graph of the same network."""

    def __init__(self, path: Path, original: GraphNetwork) -> None:
        self.graph = original.graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options)

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        return self._session.run(None, inputs)[0]


def quantised(network: GraphNetwork, operators: list[str], folder: Path) -> tuple[Quantised, int]:
    """`network` with int8 weights of `operators`, and the bytes of its file."""
    whole, result = folder / "whole.onnx", folder / "int8.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(whole)  # with its weights, in fp32
    onnxruntime.InferenceSession(network.graph.path, options)
    shutil.copy(network.graph.weights_path, folder)  # tables that are never cast stay in it
    quantize_dynamic(
        whole, result, op_types_to_quantize=operators, per_channel=True, weight_type=QuantType.QInt8
    )
    return Quantised(result, network), result.stat().st_size


def call_ms(network: GraphNetwork | Quantised, inputs: dict[str, np.ndarray]) -> float:
    times = []
    for _ in range(N_TIMED):
        start = time.perf_counter()
        network(**inputs)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def hits(model: Model, kinds: list[Kind]) -> Iterator[tuple[bool, bool]]:
    """(kind is the judge's first guess, it is among the first five) for a sound of each kind."""
    judge = load_kind_judge()
    requests = [GenerateRequest(kind.phrases[0], seed=i) for i, kind in enumerate(kinds)]
    for kind, result in zip(kinds, generate(model, requests), strict=True):
        ranked = np.argsort(-judge.log_probabilities(result.waveform))[:5]
        guesses = [judge.kinds[i] for i in ranked]
        name = kind.name.replace(" ", "_")
        yield name == guesses[0], name in guesses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", type=int, default=100, help="how many kinds are judged")
    n_kinds = parser.parse_args().kinds
    model = load_model("embedded", device="cpu", engine="onnx")
    known = set(load_kind_judge().kinds)
    kinds = [one for one in read_kinds(embedded_folder()) if one.name.replace(" ", "_") in known]
    kinds = kinds[:: max(1, len(kinds) // n_kinds)][:n_kinds]
    rng = np.random.default_rng(0)
    latents, text = rng.normal(size=(2, 32, 16, 32)), rng.normal(size=(2, 32, 256))
    inputs = {
        "unet": {
            "latents": latents.astype(np.float32),
            "timestep": np.array(500, np.float32),
            "text": text.astype(np.float32),
        },
        "text encoder": {"token_ids": rng.integers(1000, 20000, (1, 8))},
    }
    networks = model.networks
    originals = {"unet": networks.unet, "text encoder": networks.text_encoders[0]}
    for name, operators in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            for part, original in originals.items():
                used, size = original, original.graph.weights_path.stat().st_size
                if operators:
                    used, size = quantised(original, operators, Path(folder))
                expected, found = original(**inputs[part]), used(**inputs[part])
                difference = np.abs(found - expected).max() / np.abs(expected).max()
                print(
                    f"{name}, {part}: {size / 1e6:.1f} MB, {call_ms(used, inputs[part]):.0f} ms, "
                    f"difference {difference:.3f}"
                )
                if part == "unet":
                    networks.unet = used
                else:
                    networks.text_encoders[0] = used
            first, five = np.array(list(hits(model, kinds))).sum(axis=0)
            print(f"{name}: of {len(kinds)} sounds {first} right at first, {five} in five")


if __name__ == "__main__":
    main()
