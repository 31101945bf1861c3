"""The expected failures, one family of exceptions. Nothing here imports torch.

The command line prints `message` (and `hint`) on stderr and exits with `exit_code`, without a
traceback unless `--debug`. Library users catch `AuffusionError`.
"""

from __future__ import annotations

from functools import partial


class AuffusionError(Exception):
    """An expected failure; its message names the option, its value, and what would be valid."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple:
        """With the hint, where it comes out of another process."""
        return partial(type(self), hint=self.hint), (self.message,)


class UsageError(AuffusionError):
    """An option or argument has a value that cannot be used; known before any model is loaded."""

    exit_code = 2


class AudioError(AuffusionError):
    """An audio file cannot be read, or written as asked."""


class MissingAudioError(AudioError, UsageError):
    """An audio file does not exist, which is known before any model is loaded."""


class CheckpointError(AuffusionError):
    """A checkpoint is missing, damaged, unsafe, or does not fit this program."""


class DeviceMemoryError(AuffusionError):
    """The memory of the device does not suffice for a batch; a smaller one may fit."""


class DownloadError(CheckpointError):
    """A checkpoint could not be fetched from the Hub: offline, refused, cut, or wrong checksum."""


class DataError(AuffusionError):
    """A training or evaluation data set is not usable as it is."""


class OutputExistsError(UsageError):
    """A result would replace an existing file and `--overwrite` was not given."""


class AuffusionWarning(UserWarning):
    """A problem that does not stop the work: a fallback, a cut prompt."""


class AuffusionAdvice(AuffusionWarning):
    """What the request could do better; of no use where a sound is made again as it was."""


def first_line(error: BaseException) -> str:
    """The message of a library's error in one line of at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
