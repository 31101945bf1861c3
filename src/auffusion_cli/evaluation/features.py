"""Features of many clips: read ahead, in batches, and kept by content.

A clip's features depend on the bytes of its file and on the network alone, so the cache is keyed by
both and by nothing else: not by names, folders or dates, which go stale. Each entry is written as
soon as it is known, so that an interrupted run goes on where it was. However many clips there are,
only those of a few windows are in memory.

A GPU is given a window before the last one's results are fetched, so that it never waits for the
processor: to read, to keep features or to tell of progress. On a CPU each core hears clips of its
own: that takes fewer cycles than all cores together at one clip after another.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Barrier

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from auffusion_cli.errors import AuffusionWarning
from auffusion_cli.evaluation.embedders import ClipFeatures, Embedder, identity
from auffusion_cli.evaluation.protocols import AudioInput
from auffusion_cli.files import atomic_file, hash_file
from auffusion_cli.signal.audio import read_audio, resample

WINDOW_CLIPS = 16
"""Clips that go to the network together, while the next ones are read."""
MAX_SAMPLES_AHEAD = 2**27
"""Of files that are read ahead, over all channels: 512 MiB. Of hours of sound fewer are."""
N_READERS = min(8, max(4, os.cpu_count() or 1))
MAX_WORKERS = 16
"""Each needs some 100 MB for what is between a network's layers."""

KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
"""resampy's filter of that name in the terms of `torchaudio.functional.resample`, whose
documentation gives them."""


def extract(
    paths: Sequence[Path],
    embedder: Embedder,
    *,
    cache: Path | None,
    sha256s: Sequence[str] | None = None,
) -> Iterator[ClipFeatures]:
    """What `embedder` makes of each clip, in the order of `paths`.

    Args:
        cache: a folder for what is found; None keeps nothing.
        sha256s: of the files, where they are known already.

    Raises AudioError, which names the file, where one cannot be read.
    """
    store = FeatureCache(cache, embedder) if cache is not None else None
    on_cuda = embedder.device.type == "cuda"
    n_windows_begun = 1 if on_cuda else 0

    def prepare(path: Path, sha256: str | None) -> _Prepared:
        """In a reader's thread: the clip's entry in the cache, or else its waveform."""
        if store is not None:
            sha256 = sha256 or hash_file(path)
            if (known := store.read(sha256)) is not None:
                return _Prepared(sha256, known)
        waveform = read_clip(path, embedder.audio_input)
        # From page-locked memory a GPU copies while the processor goes on.
        return _Prepared(sha256, waveform=waveform.pin_memory() if on_cuda else waveform)

    jobs = _Jobs(paths, sha256s or [None] * len(paths))
    ahead: deque[Future[_Prepared]] = deque()
    begun: deque[_Window] = deque()
    with ThreadPoolExecutor(N_READERS, "reader") as readers, _Workers(embedder) as workers:
        try:
            while True:
                for path, sha256 in jobs.next(2 * WINDOW_CLIPS - len(ahead)):
                    ahead.append(readers.submit(prepare, path, sha256))
                if ahead:
                    clips = [ahead.popleft().result() for _ in range(min(WINDOW_CLIPS, len(ahead)))]
                    jobs.done(len(clips))
                    begun.append(_Window(clips, workers))
                elif not begun:
                    return
                if len(begun) > n_windows_begun or not ahead:
                    yield from begun.popleft().features(store)
        finally:
            for job in ahead:
                job.cancel()
            for window in begun:
                window.features(store)


class _Jobs:
    """Files to read, no more at a time than there is memory for."""

    def __init__(self, paths: Iterable[Path], sha256s: Iterable[str | None]) -> None:
        self._left = zip(paths, sha256s, strict=True)
        self._next = next(self._left, None)
        self._given: deque[int] = deque()

    def next(self, n: int) -> Iterator[tuple[Path, str | None]]:
        """Up to `n` more, one at least where none is given out."""
        for _ in range(n):
            if self._next is None:
                return
            n_samples = _count_samples(self._next[0])
            if self._given and sum(self._given) + n_samples > MAX_SAMPLES_AHEAD:
                return
            self._given.append(n_samples)
            yield self._next
            self._next = next(self._left, None)

    def done(self, n: int) -> None:
        """The `n` that were given out first are no longer being read."""
        for _ in range(n):
            self._given.popleft()


def _count_samples(path: Path) -> int:
    """As the file's header has it, over all channels; 0 where it has none: reading tells why."""
    try:
        with soundfile.SoundFile(path) as sound:
            return sound.frames * sound.channels
    except (OSError, soundfile.SoundFileError):
        return 0


@dataclass
class _Prepared:
    """A clip on its way: its features if they were known, its waveform if not."""

    sha256: str | None = None
    features: ClipFeatures | None = None
    waveform: Tensor | None = None


class _Workers:
    """The network, on a CPU in several threads, each of which hears other clips with its core."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._n_threads = torch.get_num_threads()
        self._n = min(self._n_threads, MAX_WORKERS) if embedder.device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self._n > 1:
            # torch's count of threads holds for the calling thread, and for all that ask for it for
            # the first time: so all of these must have asked before it is set back.
            all_there = Barrier(self._n + 1)

            def settle_in() -> None:
                torch.get_num_threads()
                torch.set_num_threads(self._n_threads // self._n)
                all_there.wait()

            self._pool = ThreadPoolExecutor(self._n, "listener", initializer=settle_in)
            try:
                for _ in range(self._n):
                    self._pool.submit(int)
                all_there.wait()
            except BaseException:
                all_there.abort()  # or those that have come would wait for ever
                raise
            torch.set_num_threads(self._n_threads)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def embed(self, waveforms: Sequence[Tensor]) -> Iterable[ClipFeatures]:
        """As `Embedder.embed`."""
        if self._pool is None or len(waveforms) < 2:
            return self._embedder.embed(waveforms)
        n_each = -(-len(waveforms) // self._n)
        parts = [waveforms[i : i + n_each] for i in range(0, len(waveforms), n_each)]
        heard = self._pool.map(lambda part: list(self._embedder.embed(part)), parts)
        return list(chain.from_iterable(heard))


class _Window:
    """Clips that the network hears together, perhaps at this moment."""

    def __init__(self, clips: Sequence[_Prepared], workers: _Workers) -> None:
        self.clips = clips
        self._unknown = [clip for clip in clips if clip.waveform is not None]
        waveforms = [clip.waveform for clip in self._unknown]
        self._heard = workers.embed(waveforms) if waveforms else []
        for clip in self._unknown:
            clip.waveform = None

    def features(self, store: FeatureCache | None) -> list[ClipFeatures]:
        """Those of all its clips; what was not known before is kept in `store`."""
        for clip, features in zip(self._unknown, self._heard, strict=True):
            clip.features = features
            if store is not None:
                store.write(clip.sha256, features)
        return [clip.features for clip in self.clips]


def read_clip(path: Path, audio_input: AudioInput) -> Tensor:
    """(N,) float32: the file's sound as `audio_input` says. Raises AudioError."""
    waveform, rate_hz = read_audio(path)
    return prepare_clip(waveform, rate_hz, audio_input)


def prepare_clip(waveform: Tensor, rate_hz: int, audio_input: AudioInput) -> Tensor:
    """(C, N) at `rate_hz` -> (N',), the steps in the order of `AudioInput`'s fields."""
    x = waveform[0] if audio_input.channel == "first" else waveform.mean(0)
    if audio_input.subtract_mean:
        x = x - x.mean()
    if rate_hz != audio_input.sample_rate_hz:
        match audio_input.resampler:
            case "sinc_hann":
                x = resample(x, rate_hz, audio_input.sample_rate_hz)
            case "kaiser_best":
                to_hz = audio_input.sample_rate_hz
                x = torchaudio.functional.resample(x, rate_hz, to_hz, **KAISER_BEST)
    if audio_input.peak_normalize and (peak := x.abs().max()) > 0:
        x = x / peak
    if audio_input.max_samples is not None and len(x) > audio_input.max_samples:
        return x[: audio_input.max_samples].clone()  # without the rest, which may be hours
    n_missing = audio_input.min_samples - len(x)
    return torch.nn.functional.pad(x, (0, n_missing)) if n_missing > 0 else x


class FeatureCache:
    """One small file for a clip and a network: `FOLDER/NETWORK-IDENTITY/ab/abcd….npz`."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder = folder / f"{embedder.name}-{identity(embedder)}"
        self.embedding_dim, self.n_classes = embedder.embedding_dim, embedder.n_classes
        self.writes = True

    def read(self, sha256: str) -> ClipFeatures | None:
        """The features of the file with this checksum; None where they are not known.

        A damaged entry is announced, and counts as not known.
        """
        path = self._path(sha256)
        try:
            with np.load(path, allow_pickle=False) as entry:
                features = ClipFeatures(entry["embeddings"], entry.get("logits"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            problem = str(error) or type(error).__name__
        else:
            problem = self._problem(features)
            if problem is None:
                return features
        warnings.warn(
            f"{path}: damaged ({problem}); these features are computed again",
            AuffusionWarning,
            stacklevel=2,
        )
        return None

    def write(self, sha256: str, features: ClipFeatures) -> None:
        """Keep features; where that fails, it is announced once, and the work goes on without."""
        if not self.writes:
            return
        path = self._path(sha256)
        arrays = {"embeddings": features.embeddings}
        if features.logits is not None:
            arrays["logits"] = features.logits
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, durable=False) as beside, beside.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            self.writes = False
            warnings.warn(
                f"{path}: cannot be written ({error.strerror or error}); going on without keeping "
                "features, so that another run computes them again",
                AuffusionWarning,
                stacklevel=2,
            )

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.npz"

    def _problem(self, features: ClipFeatures) -> str | None:
        """Why these cannot be this network's; None if they can."""
        embeddings, logits = features.embeddings, features.logits
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            return f"its embeddings are {embeddings.shape}"
        if (None if logits is None else logits.shape) != (self.n_classes and (self.n_classes,)):
            return f"its logits are {None if logits is None else logits.shape}"
        arrays = [embeddings] if logits is None else [embeddings, logits]
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays):
            return "it holds something else than numbers"
        return None
