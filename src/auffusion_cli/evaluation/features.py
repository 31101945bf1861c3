"""Features of many clips: read ahead, embedded in batches, and cached by content.

The features of a clip depend on the bytes of its file and on the network alone, so the cache is
keyed by both and by nothing else: not by names, folders or dates, which go stale. Each entry is
written at once, so that an interrupted run resumes. Only the clips of a few windows are in memory,
however many there are.

A GPU is given a window before the results of the last one are fetched, so that it never waits for
the processor to read, to write the cache or to report progress.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor

from auffusion_cli.errors import AudioError, AuffusionWarning
from auffusion_cli.evaluation.embedders import ClipFeatures, Embedder, identity
from auffusion_cli.evaluation.protocols import AudioInput
from auffusion_cli.files import atomic_file, clear_unfinished, hash_file
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.sound_file import open_sound

WINDOW_CLIPS = 16
"""Clips that go to the network together, while the next ones are read."""
MAX_SAMPLES_AHEAD = 2**27
"""Samples of the files that are read ahead, over all channels: 512 MiB."""
N_READERS = min(8, max(4, os.cpu_count() or 1))

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
    """Yield the features of each clip by `embedder`, in the order of `paths`.

    Args:
        cache: folder of features that are known; None keeps none.
        sha256s: checksums of the files, where they are known already.

    Raises:
        AudioError: a file cannot be read.
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
    with ThreadPoolExecutor(N_READERS, "reader") as readers:
        try:
            while True:
                for path, sha256 in jobs.next(2 * WINDOW_CLIPS - len(ahead)):
                    ahead.append(readers.submit(prepare, path, sha256))
                if ahead:
                    clips = [ahead.popleft().result() for _ in range(min(WINDOW_CLIPS, len(ahead)))]
                    jobs.done(len(clips))
                    begun.append(_Window(clips, embedder))
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
    """Queue of files to read, bounded by the samples in memory."""

    def __init__(self, paths: Iterable[Path], sha256s: Iterable[str | None]) -> None:
        self._left = zip(paths, sha256s, strict=True)
        self._next = next(self._left, None)
        self._given: deque[int] = deque()

    def next(self, n: int) -> Iterator[tuple[Path, str | None]]:
        """Yield up to `n` more, at least one where none is being read."""
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
        """Count the first `n` as read."""
        for _ in range(n):
            self._given.popleft()


def _count_samples(path: Path) -> int:
    """The number of samples in the file's header, over all channels; 0 where it has none."""
    try:
        with open_sound(path, check_whole=False) as sound:
            return sound.frames * sound.channels
    except AudioError:
        return 0


@dataclass
class _Prepared:
    """A clip before the network: its features if they were known, its waveform if not."""

    sha256: str | None = None
    features: ClipFeatures | None = None
    waveform: Tensor | None = None


class _Window:
    """Clips that go through the network together; a GPU may still be at work on them."""

    def __init__(self, clips: Sequence[_Prepared], embedder: Embedder) -> None:
        self.clips = clips
        self._unknown = [clip for clip in clips if clip.waveform is not None]
        waveforms = [clip.waveform for clip in self._unknown]
        self._features = embedder.embed(waveforms) if waveforms else []
        for clip in self._unknown:
            clip.waveform = None

    def features(self, store: FeatureCache | None) -> list[ClipFeatures]:
        """The features of all its clips; new ones are kept in `store`."""
        for clip, features in zip(self._unknown, self._features, strict=True):
            clip.features = features
            if store is not None:
                store.write(clip.sha256, features)
        return [clip.features for clip in self.clips]


def read_clip(path: Path, audio_input: AudioInput) -> Tensor:
    """(N,) float32: the file's sound, prepared for a network. Raises AudioError."""
    waveform, rate_hz = read_audio(path)
    return prepare_clip(torch.from_numpy(waveform), rate_hz, audio_input)


def prepare_clip(waveform: Tensor, rate_hz: int, audio_input: AudioInput) -> Tensor:
    """(C, N) at `rate_hz` -> (N',), the steps in the order of `AudioInput`'s fields."""
    x = waveform[0] if audio_input.channel == "first" else waveform.mean(0)
    if audio_input.subtract_mean:
        x = x - x.mean()
    if rate_hz != audio_input.sample_rate_hz:
        match audio_input.resampler:
            case "sinc_hann":
                x = _resample(x, rate_hz, audio_input.sample_rate_hz)
            case "kaiser_best":
                to_hz = audio_input.sample_rate_hz
                x = torchaudio.functional.resample(x, rate_hz, to_hz, **KAISER_BEST)
    if audio_input.peak_normalize and (peak := x.abs().max()) > 0:
        x = x / peak
    if audio_input.max_samples is not None and len(x) > audio_input.max_samples:
        return x[: audio_input.max_samples].clone()  # without the rest, which may be hours
    n_missing = audio_input.min_samples - len(x)
    return torch.nn.functional.pad(x, (0, n_missing)) if n_missing > 0 else x


def _resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(N,) samples at `from_hz` -> (ceil(N * to_hz / from_hz),) samples at `to_hz`."""
    n_samples = -(-waveform.shape[-1] * to_hz // from_hz)
    if n_samples == 0:
        return waveform
    # The filter bank grows with the terms of the ratio. Where they have no common divisor (44101 to
    # 16000) a ratio that is off by less than one in a million stands in for it, inaudibly.
    ratio = Fraction(from_hz, to_hz).limit_denominator(1000)
    if ratio.numerator == 0:
        raise AudioError(f"cannot resample from {from_hz:,} Hz to {to_hz:,} Hz")
    resampled = torchaudio.functional.resample(waveform, ratio.numerator, ratio.denominator)
    n_missing = max(n_samples - resampled.shape[-1], 0)
    return torch.nn.functional.pad(resampled, (0, n_missing))[..., :n_samples]


class FeatureCache:
    """One small file for a clip and a network: `FOLDER/NETWORK-IDENTITY/ab/abcd….npz`."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder = folder / f"{embedder.name}-{identity(embedder)}"
        self.embedding_dim, self.n_classes = embedder.embedding_dim, embedder.n_classes
        self.writes = True
        self._cleared: set[Path] = set()

    def read(self, sha256: str) -> ClipFeatures | None:
        """The features of the file with this checksum; None where they are not known.

        A damaged entry is warned of, and counts as not known.
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
        """Keep features; a failure is warned of once, and ends the cache's writing."""
        if not self.writes:
            return
        path = self._path(sha256)
        arrays = {"embeddings": features.embeddings}
        if features.logits is not None:
            arrays["logits"] = features.logits
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent not in self._cleared:
                clear_unfinished(path.parent)
                self._cleared.add(path.parent)
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
        """The reason why these cannot be this network's; None if they can."""
        embeddings, logits = features.embeddings, features.logits
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            return f"its embeddings are {embeddings.shape}"
        if (None if logits is None else logits.shape) != (self.n_classes and (self.n_classes,)):
            return f"its logits are {None if logits is None else logits.shape}"
        arrays = [embeddings] if logits is None else [embeddings, logits]
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays):
            return "it holds something else than numbers"
        return None
