"""Text, JSON, YAML, tables and dataclasses from untrusted files."""

import math
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.parsing import (
    decode,
    decode_text,
    dump_yaml,
    parse_json,
    parse_yaml,
    plain,
    read_json,
    read_text,
    read_yaml,
)


@pytest.mark.parametrize(
    "content",
    [
        "Geräusch".encode(),
        "Geräusch".encode("utf-8-sig"),
        "Geräusch".encode("utf-16"),
        b"\xfe\xff" + "Geräusch".encode("utf-16-be"),
    ],
)
def test_utf_8_and_utf_16_are_told_apart_by_the_byte_order_mark(content):
    assert decode_text(content) == "Geräusch"


def test_another_encoding_is_named():
    assert decode_text("Geräusch".encode("latin-1"), "latin-1") == "Geräusch"
    with pytest.raises(ValueError, match="not UTF-8 text"):
        decode_text("Geräusch".encode("latin-1"))
    with pytest.raises(ValueError, match="name of an encoding"):
        decode_text(b"x", "klingon")


def test_nul_characters_are_refused():
    with pytest.raises(ValueError, match="byte order mark"):
        decode_text("dog".encode("utf-16-le"))


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="named pipe"):
        read_text(tmp_path / "pipe", max_bytes=10, raising=DataError)


def test_a_device_and_an_endless_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="/dev/zero: is a device"):
        read_json("/dev/zero", raising=DataError)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(UsageError, match="--config sparse: is larger than 1,000,000 bytes"):
        read_yaml(sparse, raising=UsageError, where="--config sparse")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5_000, '{"a": [' * 50_000])
def test_bad_json_is_one_line(text):
    with pytest.raises(DataError) as caught:
        parse_json(text, raising=DataError, where="a.json")
    assert caught.value.message.startswith("a.json: ")
    assert "\n" not in caught.value.message and len(caught.value.message) < 200


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nb: *a",
        "a: &a [*a]",
        "[" * 3_000,
        "9" * 5_000,
        "!!float x",
        "!!timestamp foo",
        "!!python/object/apply:os.system [ls]",
        "a: [1",
        "a\x01b",
        "? [a]\n: b\n? {c: d}\n: e",
    ],
)
def test_bad_yaml_is_one_line(text):
    with pytest.raises(DataError) as caught:
        parse_yaml(text, raising=DataError, where="a.yaml")
    assert caught.value.message.startswith("a.yaml: ")
    assert "\n" not in caught.value.message and len(caught.value.message) <= 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1.5E3", -1500.0),
        ("20_000", 20_000),
        ("010", 10),
        ("1:30", "1:30"),
        ("2001-99-99", "2001-99-99"),
        ("2001-09-09", "2001-09-09"),
        (".inf", math.inf),
        ("no", False),
        ("~", None),
        ("1.2.3", "1.2.3"),
        ("1-2", "1-2"),
        ("-", [None]),
    ],
)
def test_yaml_values(text, value):
    found = parse_yaml(text, raising=DataError, where="a.yaml")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "value",
    [
        *("0E0", "1e-4", "1_000", "010", "0x10", "1:30", "2001-01-01", "no", "~", "", "a: b", "١"),
        *(10, -1, 0.1, 1e-12, 1e300, True, None, ["1e5", 1e5]),
    ],
)
def test_what_is_dumped_as_yaml_reads_back(value):
    text = dump_yaml({"key": value})
    found = parse_yaml(text, raising=DataError, where="a.yaml")["key"]
    assert found == value and type(found) is type(value)


@dataclass(frozen=True)
class Inner:
    ratio: float
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self):
        if self.ratio < 0:
            raise ValueError("ratio is negative")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner(1.0)
    mode: Literal["no", "bf16"] = "no"
    steps: int | None = None
    names: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    number: str | int | float = 0


def test_a_dataclass_is_decoded_and_back():
    value = {
        "name": "a",
        "inner": {"ratio": 1, "betas": [0, 1]},
        "mode": False,
        "steps": None,
        "names": ["b"],
        "values": {"c": [1]},
        "number": 2,
    }
    decoded = decode(Outer, value)
    assert decoded == Outer(
        "a", Inner(1.0, (0.0, 1.0)), "no", None, ("b",), values={"c": [1]}, number=2
    )
    assert decode(Outer, plain(decoded)) == decoded


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "the document is 1, not an object (a mapping of names to values)"),
        ({}, "name is missing"),
        ({"name": 1}, "name is 1, not text"),
        ({"name": "a", "nme": 1}, "nme: unknown name; valid: name, inner, mode, steps, names,"),
        ({"name": "a", "inner": {"ratio": True}}, "inner.ratio is true, not a finite number"),
        ({"name": "a", "inner": {"ratio": math.nan}}, "inner.ratio is NaN, not a finite number"),
        ({"name": "a", "inner": {"ratio": 10**5000}}, "inner.ratio is a int, not a finite number"),
        ({"name": "a", "inner": {"ratio": -1}}, "inner: ratio is negative"),
        ({"name": "a", "inner": {"ratio": 1, "betas": [1]}}, "betas is [1], not a list of 2"),
        (
            {"name": "a", "inner": {"ratio": 1, "betas": [1, "x"]}},
            'inner.betas[1] is "x", not a finite number',
        ),
        ({"name": "a", "mode": "fp16"}, 'mode is "fp16", not one of no, bf16'),
        ({"name": "a", "mode": []}, "mode is [], not one of no, bf16"),
        ({"name": "a", "steps": 1.0}, "steps is 1.0, not a whole number"),
        ({"name": "a", "steps": True}, "steps is true, not a whole number"),
        ({"name": "a", "values": {1: 2}}, "values is "),
        ({"name": "a", "number": []}, "number is [], not a finite number"),
    ],
)
def test_what_does_not_fit_is_named(value, message):
    with pytest.raises(ValueError) as caught:
        decode(Outer, value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
