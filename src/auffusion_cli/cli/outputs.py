"""Names of results: a file, a folder or a template -> paths, checked before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from auffusion_cli.errors import OutputExistsError, UsageError
from auffusion_cli.files import clear_unfinished, folder_of, slug
from auffusion_cli.signal.formats import WRITTEN

FIELD = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
WIDTH = re.compile(r"0?[0-9]{1,2}d?")
MAX_NAME_BYTES = 255
"""Of a file or folder, as file systems have it."""


def as_template(
    output: str | None,
    suffix: str | None,
    default_name: str,
    option: str,
    suffixes: Sequence[str] = tuple(WRITTEN),
) -> str:
    """The template that `output` stands for: itself, a file's name, or a folder and `default_name`.

    It is a folder if it ends in a slash, exists as one, or has no suffix. `suffix` is what the user
    asked for by `--format`, if anything; the first of `suffixes`, the valid ones, is the default.

    Raises:
        UsageError: it is standard output (-), or the name's own suffix is not valid, or contradicts
            `suffix`.
    """
    if output == "-":
        raise UsageError(
            f"{option} -: results are written to files, not to standard output",
            hint=f"Valid: a file ({', '.join(suffixes)}), a folder, or a template.",
        )
    output = output or ""
    _check_length(Path(FIELD.sub("", output)), option)
    added_suffix = suffix or suffixes[0]
    is_folder = not Path(output).suffix or output.endswith(("/", os.sep)) or Path(output).is_dir()
    if is_folder and not FIELD.search(Path(output).name):
        return os.path.join(output, default_name + added_suffix)
    own_suffix = Path(output).suffix.lower()
    if not own_suffix or FIELD.search(own_suffix):
        return output + added_suffix
    if own_suffix not in suffixes:
        raise UsageError(
            f"{option} {output!r} ends in {own_suffix}, which cannot be written",
            hint=f"Valid: {', '.join(suffixes)}, or a slash for a folder.",
        )
    if suffix is not None and own_suffix != suffix:
        raise UsageError(
            f"{option} {output!r} ends in {own_suffix}, but --format asks for {suffix}",
            hint="Leave one of them out, or make them agree.",
        )
    return output


def fill(template: str, fields: Mapping[str, object], option: str) -> Path:
    """The path that `template` gives for one result; every value becomes a slug.

    A field may have a width for a number: {seed:05d}.

    Raises:
        UsageError: there is no such field, it has no such width, or the name becomes too long.
    """

    def value(match: re.Match[str]) -> str:
        name, width = match.groups()
        if name not in fields:
            raise UsageError(
                f"{option} {template!r} names {{{name}}}, which this prompt does not have",
                hint=f"Valid: {', '.join(f'{{{field}}}' for field in fields)}.",
            )
        text = str(fields[name])
        if width is None:
            return slug(text)
        if not WIDTH.fullmatch(width) or not (text.isascii() and text.isdecimal()):
            raise UsageError(
                f"{option} {template!r}: {match[0]} cannot be formatted in this way",
                hint="Valid: a width for a number, such as {seed:05d} or {index:03d}.",
            )
        return slug(format(int(text), width.removesuffix("d") + "d"))

    filled = FIELD.sub(value, template)
    if "{" in filled or "}" in filled:
        raise UsageError(
            f"{option} {template!r} has a brace that is not part of a field",
            hint=f"Valid: {', '.join(f'{{{field}}}' for field in fields)}.",
        )
    path = Path(filled)
    _check_length(path, option)
    return path


def field_names(template: str) -> set[str]:
    """Names of the fields in a template."""
    return {match[1] for match in FIELD.finditer(template)}


def _check_length(path: Path, option: str) -> None:
    for name in path.parts:
        if (n_bytes := len(os.fsencode(name))) > MAX_NAME_BYTES:
            raise UsageError(
                f"{option}: the name {name!r} has {n_bytes} bytes",
                hint=f"Valid: names of up to {MAX_NAME_BYTES} bytes.",
            )


def check_distinct(
    paths: Sequence[Path], option: str, hint: str, sources: Sequence[str] = ()
) -> None:
    """Raise a UsageError, with `hint`, if two results would be written to the same file.

    `sources` says where each of them comes from, which is told of these two.
    """
    seen: dict[Path, int] = {}
    for number, path in enumerate(paths):
        first = seen.setdefault(path, number)
        if first != number:
            of = f", of {sources[first]:.60} and {sources[number]:.60}" if sources else ""
            raise UsageError(
                f"{option}: more than one result would be written to {path}{of}", hint=hint
            )


def check_writable(paths: Sequence[Path], option: str) -> None:
    """Raise a UsageError unless all of `paths` can be created, folders included, or replaced."""
    for path in paths:
        _check_length(path, option)
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a folder")
    for folder in {path.parent for path in paths}:
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise UsageError(f"{option} {folder}: {existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"{option} {folder}: the folder {existing} cannot be written to")


def check_free(paths: Sequence[Path]) -> None:
    """Raise an OutputExistsError if any of `paths` is there."""
    there = [path for path in paths if path.exists()]
    if there:
        others = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise OutputExistsError(
            f"{there[0]} exists{others}", hint="Give another name, or --overwrite to replace it."
        )


def check_file(path: Path | None, option: str, suffix: str, *, overwrite: bool) -> None:
    """Raise a UsageError unless a file of one kind can be written to `path`, where one is asked."""
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise UsageError(f"{option} {path}: has to end in {suffix}")
    check_writable([path], option)
    if not overwrite:
        check_free([path])


@contextmanager
def place_for(path: Path) -> Iterator[None]:
    """Within it the folder of `path` exists, without leftovers of runs that were killed."""
    clear_unfinished(path.parent)
    with folder_of(path):
        yield
