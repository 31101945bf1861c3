"""Untrusted text -> plain values -> checked dataclasses: text, JSON, YAML, TOML. No torch.

Every reader bounds the size of what it reads and takes the class of error that the caller's file
stands for (`raising`); messages begin with `where`, the file as its user knows it.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from auffusion_cli.errors import AuffusionError
from auffusion_cli.files import read_bytes

ENCODING_HINT = "--encoding names another one than UTF-8: latin-1, cp1252."
MAX_DOCUMENT_BYTES = 10_000_000
"""Of a JSON or YAML file that is read as one value."""

# --- Text


def read_text(
    path: Path,
    *,
    max_bytes: int,
    raising: type[AuffusionError],
    where: str | None = None,
    encoding: str | None = None,
) -> str:
    """The text of a regular file, see `decode_text`.

    Raises:
        raising: it cannot be read, is too large, is no regular file, or is not text.
    """
    where = where or str(path)
    try:
        return decode_text(read_bytes(path, max_bytes), encoding)
    except OSError as error:
        raise raising(f"{where}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path, too
        raise raising(f"{where}: {error}") from None


def decode_text(content: bytes, encoding: str | None = None, *, by_line: bool = False) -> str:
    """Text in UTF-8, or in UTF-16 where it begins with a byte order mark, or in `encoding`.

    With `by_line` bytes that are not UTF-8 become lone surrogates, so that `is_unicode` finds them
    in their line and the other lines can be read.

    Raises:
        ValueError: it is not such text, or holds NUL characters; a short reason.
    """
    if encoding is None:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if is_utf16 else "utf-8"
    try:
        escapes = by_line and encoding == "utf-8"
        text = content.decode(encoding, "surrogateescape" if escapes else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not {encoding.upper()} text (byte {error.start:,})") from None
    except LookupError:
        raise ValueError(f"{encoding!r} is not the name of an encoding") from None
    if "\0" in text:
        raise ValueError("holds NUL characters: not text, or UTF-16 without a byte order mark")
    return text.removeprefix("\ufeff")


def is_unicode(text: str) -> bool:
    """Whether `text` holds no half of a surrogate pair, which JSON can spell."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- JSON, YAML and TOML


def parse_json(text: str, *, raising: type[AuffusionError], where: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise raising(f"{where}: is not JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise raising(f"{where}: is nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise raising(f"{where}: holds a number with too many digits") from None


def read_json(
    path: Path,
    *,
    raising: type[AuffusionError],
    where: str | None = None,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> Any:
    """The value of a JSON file."""
    where = where or str(path)
    text = read_text(path, max_bytes=max_bytes, raising=raising, where=where)
    return parse_json(text, raising=raising, where=where)


def parse_yaml(text: str, *, raising: type[AuffusionError], where: str) -> Any:
    """The value of a YAML text, without aliases; a date is text, and 1e-4 a number."""
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise raising(f"{where}: is not YAML: {error.problem or error.context}{place}") from None
    except yaml.YAMLError as error:
        raise raising(f"{where}: is not YAML: {' '.join(str(error).split())}"[:300]) from None
    except RecursionError:
        raise raising(f"{where}: is nested too deeply") from None
    except (ValueError, TypeError, AttributeError):  # `!!int x`, thousands of digits
        raise raising(f"{where}: holds a value that cannot be read") from None


def read_yaml(
    path: Path,
    *,
    raising: type[AuffusionError],
    where: str | None = None,
    max_bytes: int = 1_000_000,
) -> Any:
    """The value of a YAML file, see `parse_yaml`."""
    where = where or str(path)
    text = read_text(path, max_bytes=max_bytes, raising=raising, where=where)
    return parse_yaml(text, raising=raising, where=where)


def read_toml(
    path: Path,
    *,
    raising: type[AuffusionError],
    where: str | None = None,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> dict[str, Any]:
    """The tables of a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    where = where or str(path)
    text = read_text(path, max_bytes=max_bytes, raising=raising, where=where)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise raising(f"{where}: is nested too deeply") from None
    except ValueError as error:
        raise raising(f"{where}: is not TOML: {' '.join(str(error).split())}"[:300]) from None


def dump_yaml(value: Any) -> str:
    """The reverse of `parse_yaml`: text that reads as a number, here or in YAML 1.1, is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    _read_numbers_of_yaml_1_2(Dumper)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False)


def _read_numbers_of_yaml_1_2(resolver: type) -> None:
    """Let a loader or dumper of PyYAML take for numbers what YAML 1.2 does."""
    whole = r"[-+]?[0-9][0-9_]*"
    real = (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|"
        r"\.(?:nan|NaN|NAN)"
    )
    for tag, number in (("int", whole), ("float", real)):
        exact = re.compile(rf"(?:{number})\Z")
        resolver.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", exact, list("-+0123456789."))


@cache
def _yaml_loader() -> type:
    """PyYAML's safe loader, with the numbers of YAML 1.2 and without aliases and dates.

    An alias makes a few lines stand for gigabytes. YAML 1.1 reads 1e-4 as text, 1:30 as 90 and 010
    as 8.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
            return super().compose_node(parent, index)

    replaced = ("timestamp", "int", "float")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in pairs if tag.rpartition(":")[2] not in replaced]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _read_numbers_of_yaml_1_2(Loader)
    Loader.add_constructor(
        "tag:yaml.org,2002:int",
        lambda loader, node: int(loader.construct_scalar(node).replace("_", "")),
    )
    return Loader


# --- Dataclasses


def decode(kind: Any, value: Any, where: str = "") -> Any:
    """`value`, as JSON and YAML have it, as the annotated type `kind`.

    Args:
        where: the path that messages name fields by; empty at the root.

    Raises:
        ValueError: it does not fit; names the field and what would be valid.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _decode_object(kind, value, where)
    if kind is Any:
        return value
    if origin is Literal:
        if isinstance(value, bool):  # what YAML 1.1 makes of a bare `no` or `true`
            spellings = ("true", "yes", "on") if value else ("false", "no", "off")
            value = next((word for word in spellings if word in arguments), value)
        # 1 == True, and a list cannot be looked up.
        if any(type(value) is type(one) and value == one for one in arguments):
            return value
        raise _misfit(where, value, f"one of {', '.join(map(str, arguments))}")
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, where)
    if origin is tuple or origin is list:
        return _decode_sequence(origin, arguments, value, where)
    if kind is dict or origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _misfit(where, value, "an object (a mapping of names to values)")
        item = arguments[1] if arguments else Any
        return {key: decode(item, v, _below(where, key)) for key, v in value.items()}
    return _decode_plain(kind, value, where)


def _decode_object(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _misfit(where, value, "an object (a mapping of names to values)")
    hints = _type_hints(kind)
    known = {one.name: one for one in fields(kind) if one.init}
    for name in value:
        if name not in known:
            raise ValueError(
                f"{_below(where, name)}: unknown name; valid: {_shortened(', '.join(known), 160)}"
            )
    for name, one in known.items():
        if name not in value and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{_below(where, name)} is missing")
    decoded = {name: decode(hints[name], v, _below(where, name)) for name, v in value.items()}
    try:
        return kind(**decoded)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _decode_union(arguments: tuple, value: Any, where: str) -> Any:
    options = [option for option in arguments if option is not types.NoneType]
    if value is None and len(options) < len(arguments):
        return None
    for option in options:
        if type(value) is option:
            return value
    for option in options[:-1]:
        with suppress(ValueError):
            return decode(option, value, where)
    return decode(options[-1], value, where)


def _decode_sequence(origin: type, arguments: tuple, value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _misfit(where, value, "a list")
    if origin is list or arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise _misfit(where, value, f"a list of {len(arguments)}")
    pairs = enumerate(zip(arguments, value, strict=True))
    return origin(decode(item, v, f"{where}[{i}]") for i, (item, v) in pairs)


_EXPECTED = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


def _decode_plain(kind: type, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        with suppress(OverflowError):
            value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _misfit(where, value, _EXPECTED.get(kind, kind.__name__))
    return value


def _misfit(where: str, value: Any, expected: str) -> ValueError:
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):  # thousands of digits, a cycle
        shown = f"a {type(value).__name__}"
    return ValueError(f"{where or 'the document'} is {_shortened(shown, 60)}, not {expected}")


def _below(where: str, name: object) -> str:
    shown = _shortened(str(name), 40)
    return f"{where}.{shown}" if where else shown


def _shortened(text: str, n_characters: int) -> str:
    return text if len(text) <= n_characters else f"{text[: n_characters - 1]}…"


@cache
def _type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def plain(value: Any) -> Any:
    """The reverse of `decode`: dataclasses as dicts, tuples as lists, for JSON and YAML."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
