"""The networks of a checkpoint in ONNX Runtime; see `networks.Networks`. No torch.

A graph is read, and a session is made, when its network is first called, but for the UNet's, which
can be begun before. Weights are mapped into memory and handed to ONNX Runtime, which itself opens
no file: it would follow no link, as the Hub's cache is made of.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from auffusion_cli.engines import graphs
from auffusion_cli.engines.graph_file import ELEMENT_TYPES, Graph, StoredTensor, read_graph
from auffusion_cli.engines.graphs import PartFolders, Signature
from auffusion_cli.engines.networks import NetworkSizes
from auffusion_cli.errors import (
    AuffusionError,
    CheckpointError,
    DeviceMemoryError,
    UsageError,
    first_line,
)
from auffusion_cli.files import open_regular

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    # Without TF32, which would change a sound.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "directml": ("DmlExecutionProvider", {}),
    "mps": ("CoreMLExecutionProvider", {}),
    "cpu": ("CPUExecutionProvider", {}),
}
"""Device -> ONNX Runtime's name for what computes on it, and its options."""
AUTOMATIC = ("cuda", "directml", "cpu")
"""In order of preference. Core ML takes graphs of fixed sizes only, and leaves most to the CPU."""
NUMPY_TYPES = {
    ELEMENT_TYPES[name]: np.dtype(dtype)
    for name, dtype in (
        ("F32", "<f4"),
        ("F16", "<f2"),
        ("BF16", "<u2"),
        ("I64", "<i8"),
        ("I32", "<i4"),
        ("I8", "i1"),
        ("U8", "u1"),
    )
}
OUT_OF_MEMORY = ("failed to allocate memory", "bad allocation", "bad_alloc", "out of memory")


def choose_provider(device: str) -> str:
    """The device of `PROVIDERS` for the one called `device`; "auto" is the best that is here.

    Raises:
        UsageError: it is not a device, or this installation of ONNX Runtime cannot use it.
    """
    import onnxruntime

    here = onnxruntime.get_available_providers()
    if device == "auto":
        return next(name for name in AUTOMATIC if PROVIDERS[name][0] in here)
    if device not in PROVIDERS:
        raise UsageError(
            f"--device {device!r} is not one of ONNX Runtime; valid: auto, {', '.join(PROVIDERS)}"
        )
    if PROVIDERS[device][0] not in here:
        raise UsageError(
            f"--device {device}: this installation of ONNX Runtime has no {PROVIDERS[device][0]}",
            hint="--engine torch, --device cpu, or another build of onnxruntime can do it.",
        )
    return device


class OnnxNetworks:
    """The graphs of a checkpoint's folders, on `device`, in float32.

    Raises:
        UsageError: this installation of ONNX Runtime has no such device.
    """

    engine = "onnx"
    dtype = "fp32"

    def __init__(
        self,
        folders: PartFolders,
        device: str = "auto",
        *,
        n_threads: int,
        optimised: bool = True,
    ) -> None:
        """Without `optimised` graphs are ready eight times as soon, and run a fourth as fast."""
        self.device = choose_provider(device)
        self._runtime = runtime = Runtime(self.device, n_threads, optimised=optimised)
        self.text_encoders = [
            GraphNetwork(folder, graphs.TEXT_ENCODER, runtime) for folder in folders.text_encoders
        ]
        self.adapters = [
            GraphNetwork(folder, graphs.ADAPTER, runtime) for folder in folders.adapters
        ]
        self.unet = GraphNetwork(folders.unet, graphs.UNET, runtime)
        self.encoder = GraphNetwork(folders.vae, graphs.ENCODER, runtime)
        self.decoder = GraphNetwork(folders.vae, graphs.DECODER, runtime)
        self.texture_network: GraphNetwork | None = None
        if folders.has_texture:
            self.texture_network = GraphNetwork(folders.vae, graphs.TEXTURE, runtime)
        self.vocoder: GraphNetwork | None = None
        if folders.vocoder is not None:
            self.add_vocoder(folders.vocoder)

    def read_all(self) -> None:
        """Read all graphs now rather than when they are called.

        Raises:
            CheckpointError: one is missing, damaged, or does not fit its weights.
        """
        others = (self.unet, self.encoder, self.decoder, self.texture_network, self.vocoder)
        for network in (*self.text_encoders, *self.adapters, *others):
            if network is not None:
                _ = network.graph

    def begin_unet(self, n_rows: int) -> None:
        """Make the UNet's session in a thread, for calls with `n_rows` rows.

        The text encoders can be called meanwhile; `predict` waits for it, and raises what it meets.
        Theirs come first: two that are made at once hinder each other, and need more memory.
        """
        Thread(target=self._make_unet, args=(self._runtime.n_calls(n_rows),)).start()

    def _make_unet(self, n_calls: int) -> None:
        with suppress(AuffusionError, OSError):  # it is met again
            for encoder in self.text_encoders:
                encoder.session()
            self.unet.session(n_calls)

    def add_vocoder(self, folder: Path) -> None:
        """Take the vocoder of `folder`."""
        self.vocoder = GraphNetwork(folder, graphs.VOCODER, self._runtime)

    @property
    def sizes(self) -> NetworkSizes:
        _, n_channels, n_rows, _ = self.encoder.graph.output
        return NetworkSizes(
            text_widths=tuple(each.graph.output[-1] for each in self.text_encoders),
            cross_attention_dim=self.unet.graph.inputs["text"][-1],
            has_adapters=bool(self.adapters),
            latent_channels=n_channels,
            downsample=self.encoder.graph.inputs["image"][-2] // n_rows,
            has_texture=self.texture_network is not None,
            has_vocoder=self.vocoder is not None,
        )

    def hidden_states(
        self, encoder: int, token_ids: np.ndarray, attention_mask: np.ndarray | None
    ) -> np.ndarray:
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        return self.text_encoders[encoder](token_ids=token_ids, **masked)

    def adapt(self, encoder: int, hidden_states: np.ndarray) -> np.ndarray:
        return self.adapters[encoder](hidden_states=hidden_states)

    def predict(self, latents: np.ndarray, timestep: float, text: np.ndarray) -> np.ndarray:
        time = np.array(timestep, np.float32)

        def call(latents: np.ndarray, text: np.ndarray) -> np.ndarray:
            return self.unet(latents=latents, timestep=time, text=text)

        return self._in_calls(self.unet, call, latents, text)

    def _in_calls(
        self, network: GraphNetwork, call: Callable[..., np.ndarray], *rows: np.ndarray
    ) -> np.ndarray:
        """`call` of arrays with as many rows, which calls `network`, once for a share of the rows
        on each core."""
        n_calls = self._runtime.n_calls(len(rows[0]))
        network.session(n_calls)
        if n_calls == 1:
            return call(*rows)
        shares = (np.array_split(each, n_calls) for each in rows)
        return np.concatenate(list(self._calls.map(call, *shares)))

    @cached_property
    def _calls(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._runtime.n_threads)

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        return self.encoder(image=image)

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        return self._in_calls(self.decoder, lambda part: self.decoder(latents=part), latents)

    def texture(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self.texture_network(image=image, noise=noise)

    def vocode(self, log_mel: np.ndarray) -> np.ndarray:
        if log_mel.shape[-1] == 0:
            return np.zeros((len(log_mel), 0), np.float32)
        return self.vocoder(log_mel=log_mel)


class Runtime:
    """Makes sessions on one device."""

    def __init__(self, device: str, n_threads: int, *, optimised: bool = True) -> None:
        self.device = device
        self.n_threads = n_threads
        self.optimised = optimised

    def n_calls(self, n_rows: int) -> int:
        """How many calls of a graph at once are best for `n_rows` rows.

        Cores that each compute a sound do not wait for each other at the end of every operator.
        """
        return min(n_rows, self.n_threads) if self.device == "cpu" else 1

    def session(
        self, graph: Graph, weights: mmap.mmap | None, n_calls: int = 1
    ) -> InferenceSession:
        """One whose threads, with those of `n_calls` callers at once, are as many as the cores."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; the rest is of no use to a user
        options.intra_op_num_threads = max(self.n_threads - n_calls + 1, 1)  # with a caller
        if not self.optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Threads that spin take the core from the one they wait for where cores are shared.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.device == "directml":
            options.enable_mem_pattern = False  # it does not support it
        names, places = list(graph.weights), graph.weights.values()
        options.add_external_initializers(names, [_ort_value(weights, one) for one in places])
        name, provider_options = PROVIDERS[self.device]
        if self.device == "cuda":  # the one of this process, in a launch of several
            provider_options = provider_options | {"device_id": os.environ.get("LOCAL_RANK", "0")}
        providers = [(name, provider_options)]
        if self.device != "cpu":
            providers.append(("CPUExecutionProvider", {}))  # for operators that the device lacks
        try:
            return onnxruntime.InferenceSession(graph.content, options, providers=providers)
        except Exception as error:  # onnxruntime has a class for each of its error codes
            raise _translated(error, graph.path, "cannot be loaded") from error


class GraphNetwork:
    """One graph, called with arrays by the names of its inputs."""

    def __init__(self, folder: Path, signature: Signature, runtime: Runtime) -> None:
        self._folder, self._signature, self._runtime = folder, signature, runtime
        self._session: InferenceSession | None = None
        self._making = Lock()

    @cached_property
    def graph(self) -> Graph:
        """Raises a CheckpointError as `read_graph`."""
        return read_graph(self._folder, self._signature)

    @cached_property
    def _weights(self) -> mmap.mmap | None:
        """Mapped for as long as the session lives, which may use them where they are."""
        if self.graph.weights_path is None:
            return None
        with open_regular(self.graph.weights_path) as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def session(self, n_calls: int = 1) -> InferenceSession:
        """The session, which is made at the first call of this, for `n_calls` at once."""
        with self._making:
            if self._session is None:
                self._session = self._runtime.session(self.graph, self._weights, n_calls)
                if self._weights is not None and hasattr(mmap, "MADV_DONTNEED"):
                    # What was converted is not read again.
                    self._weights.madvise(mmap.MADV_DONTNEED)
                _return_freed_memory()
            return self._session

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        unknown = inputs.keys() - self.graph.inputs.keys()
        if unknown:
            raise CheckpointError(f"{self.graph.path}: has no input {min(unknown)!r}")
        arrays: dict[str, Any] = {
            name: np.asarray(value, np.int64 if value.dtype.kind in "iu" else np.float32, order="C")
            for name, value in inputs.items()
        }
        try:
            (output,) = self.session().run([self._signature.output], arrays)
        except CheckpointError:
            raise
        except Exception as error:
            raise _translated(error, self.graph.path, "does not work") from error
        return output


def _ort_value(file: mmap.mmap, place: StoredTensor) -> OrtValue:
    """A tensor of a mapped file, where it lies."""
    from onnxruntime import OrtValue

    dtype = NUMPY_TYPES[place.element_type]
    n_numbers = math.prod(place.shape)
    values = np.frombuffer(file, dtype, n_numbers, place.offset).reshape(place.shape)
    if place.element_type == ELEMENT_TYPES["BF16"]:  # which NumPy has no type for
        return OrtValue.ortvalue_from_numpy_with_onnx_type(values, place.element_type)
    return OrtValue.ortvalue_from_numpy(values)


def _return_freed_memory() -> None:
    """Give back what an optimised graph has freed, which glibc keeps for each thread's next use."""
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _translated(error: Exception, path: Path, what: str) -> CheckpointError | DeviceMemoryError:
    message = first_line(error).split(" : ", 2)[-1]  # [ONNXRuntimeError] : 1 : FAIL : ...
    if any(words in str(error).lower() for words in OUT_OF_MEMORY):
        return DeviceMemoryError(f"Not enough memory for {path}: {message}")
    return CheckpointError(f"{path}: {what} in ONNX Runtime: {message}")
