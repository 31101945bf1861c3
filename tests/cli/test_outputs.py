from pathlib import Path

import pytest

from auffusion_cli.cli.outputs import (
    as_template,
    check_distinct,
    check_writable,
    fill,
    place_for,
)
from auffusion_cli.errors import UsageError


@pytest.mark.parametrize(
    ("output", "suffix", "expected"),
    [
        (None, None, "{prompt}.wav"),
        ("rain.flac", None, "rain.flac"),
        ("rain.flac", ".flac", "rain.flac"),
        ("out/", ".mp3", "out/{prompt}.mp3"),
        ("out", None, "out/{prompt}.wav"),
        ("out/{seed}", None, "out/{seed}.wav"),
        ("{prompt}-{n}.ogg", None, "{prompt}-{n}.ogg"),
    ],
)
def test_output_is_a_file_a_folder_or_a_template(output, suffix, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_template(output, suffix, "{prompt}", "-o") == expected


def test_an_existing_folder_is_a_folder_even_with_a_dot(tmp_path):
    folder = tmp_path / "v1.5"
    folder.mkdir()
    assert as_template(str(folder), None, "{prompt}", "-o") == str(folder / "{prompt}.wav")


def test_a_suffix_that_contradicts_the_format_is_refused():
    with pytest.raises(UsageError, match=r"\.wav.*\.mp3"):
        as_template("rain.wav", ".mp3", "{prompt}", "-o")


def test_standard_output_is_no_folder():
    with pytest.raises(UsageError, match="not to standard output") as error:
        as_template("-", None, "{prompt}", "--output")
    assert ".flac" in error.value.hint


def test_fields_cannot_lead_out_of_the_folder():
    assert fill("out/{prompt}.wav", {"prompt": "../../x"}, "-o") == Path("out/x.wav")
    assert fill("out/{id}.wav", {"id": "/etc/cron.d/x"}, "-o") == Path("out/etc-cron.d-x.wav")


def test_an_unknown_field_is_named_with_those_there_are():
    with pytest.raises(UsageError, match="speed") as error:
        fill("{speed}.wav", {"prompt": "dog", "seed": 1}, "-o")
    assert "{prompt}, {seed}" in error.value.hint


def test_two_results_in_one_file_are_refused():
    with pytest.raises(UsageError, match=r"rain\.wav"):
        check_distinct([Path("rain.wav"), Path("dog.wav"), Path("rain.wav")], "-o", hint="")


def test_folders_files_and_missing_rights_are_told(tmp_path, monkeypatch):
    check_writable([tmp_path / "new" / "deeper" / "rain.wav"], "-o")
    with pytest.raises(UsageError, match="is a folder"):
        check_writable([tmp_path], "-o")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        check_writable([tmp_path / "file" / "rain.wav"], "-o")
    monkeypatch.setattr("os.access", lambda *args: False)
    with pytest.raises(UsageError, match="cannot be written"):
        check_writable([tmp_path / "rain.wav"], "-o")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{seed:05d}.wav", "00007.wav"),
        ("{seed:3}.wav", "7.wav"),
        ("{index:02d}-{take:03}.wav", "12-004.wav"),
    ],
)
def test_a_number_in_a_template_may_have_a_width(template, expected):
    fields = {"seed": 7, "index": "00012", "take": "4"}
    assert fill(template, fields, "-o") == Path(expected)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{seed:x}.wav", "cannot be formatted in this way"),
        ("{seed:05f}.wav", "cannot be formatted in this way"),
        ("{seed:}.wav", "cannot be formatted in this way"),
        ("{name:05d}.wav", "cannot be formatted in this way"),
        ("{seed!r}.wav", "a brace that is not part of a field"),
        ("{seed", "a brace that is not part of a field"),
        ("{a}{a}{a}{a}.wav", "has 404 bytes"),
    ],
)
def test_what_is_no_template_is_refused(template, told):
    fields = {"seed": 7, "name": "x", "a": "ö" * 50}
    with pytest.raises(UsageError, match=told):
        fill(template, fields, "-o")


def test_leftovers_of_a_killed_run_go(tmp_path):
    (tmp_path / ".0123456789abcdef.part").write_bytes(b"half")
    with place_for(tmp_path / "a.wav"):
        assert list(tmp_path.iterdir()) == []
