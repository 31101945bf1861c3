"""Features too many for memory, in a temporary file, read a block at a time.

`DiskRows` is sliced and indexed as an array is, and what comes out is an array: so the metrics take
either, as long as they look at `BLOCK_ROWS` at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np

from auffusion_cli.errors import DataError

BLOCK_ROWS = 1024
"""8 MB of Cnn14's embeddings, and 16 MB in float64."""


class DiskRows:
    """(n, D) numbers in a temporary file, which is gone with the object, or with the process."""

    def __init__(self, dim: int, dtype: type = np.float32) -> None:
        self.dim, self.dtype = dim, np.dtype(dtype)
        self._n_bytes_a_row = dim * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(prefix="auffusion-")  # noqa: SIM115
        self._n = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self._n, self.dim

    def __len__(self) -> int:
        return self._n

    def append(self, rows: np.ndarray) -> None:
        """Put (n, D) rows behind the last one. Raises DataError where there is no room."""
        assert rows.ndim == 2 and rows.shape[1] == self.dim
        try:
            self._file.seek(self._n * self._n_bytes_a_row)
            self._file.write(np.ascontiguousarray(rows, self.dtype))
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: the features cannot be put there: {error.strerror}",
                hint="TMPDIR=FOLDER before the command names another place for temporary files.",
            ) from error
        self._n += len(rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """The rows of a slice without a step, or of an array of indices from 0 on."""
        if isinstance(which, slice):
            start, stop, step = which.indices(self._n)
            assert step == 1
            rows = np.empty((max(stop - start, 0), self.dim), self.dtype)
            self._read(start, rows)
            return rows
        rows = np.empty((len(which), self.dim), self.dtype)
        for row, index in zip(rows, which, strict=True):
            self._read(int(index), row)
        return rows

    def _read(self, first: int, into: np.ndarray) -> None:
        self._file.seek(first * self._n_bytes_a_row)
        n_read = self._file.readinto(into.reshape(-1).view(np.uint8))
        assert n_read == into.nbytes


def blocks(n: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """0..n in parts of up to `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
