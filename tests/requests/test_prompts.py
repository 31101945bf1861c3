import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests import prompts
from auffusion_cli.requests.prompts import (
    BadLine,
    PromptLine,
    format_of,
    read_prompts,
    read_prompts_file,
)


def test_text_has_a_prompt_a_line_and_keeps_line_numbers():
    lines = read_prompts(b"\xef\xbb\xbfa dog\n\n  rain \r\n\xff\xfe\nbirds", "txt")
    assert [(line.number, getattr(line, "prompt", None)) for line in lines] == [
        (1, "a dog"),
        (3, "rain"),
        (4, None),
        (5, "birds"),
    ]
    assert lines[2] == BadLine(4, "is not UTF-8 text (see --encoding)")


def test_csv_finds_its_columns_and_keeps_the_others_for_names():
    content = b'audiocap_id,caption,seed,negative\n91,"A dog, barking",5,music\n92,Rain,,\n'
    first, second = read_prompts(content, "csv")
    assert first == PromptLine(
        2,
        "A dog, barking",
        "music",
        5,
        columns={
            "audiocap_id": "91",
            "caption": "A dog, barking",
            "seed": "5",
            "negative": "music",
        },
    )
    assert (second.prompt, second.seed, second.negative_prompt) == ("Rain", None, "")


def test_a_csv_line_with_an_open_quote_does_not_swallow_the_rest():
    bad, good = read_prompts(b'prompt,seed\n"open,1\nrain,2\n', "csv")
    assert isinstance(bad, BadLine)
    assert good.prompt == "rain"


def test_csv_lines_with_too_few_or_too_many_fields_are_bad():
    few, many = read_prompts(b"prompt,seed\nrain\nrain,1,2\n", "csv")
    assert few.reason == "has 1 fields; the header has 2"
    assert many.reason == "has 3 fields; the header has 2"


def test_a_csv_without_a_column_of_prompts_is_refused():
    with pytest.raises(UsageError, match="title"):
        read_prompts(b"title,seed\nrain,1\n", "csv")
    with pytest.raises(UsageError, match=r"list\.csv: the CSV header has no column"):
        read_prompts(b"title,seed\nrain,1\n", "csv", "list.csv")
    with pytest.raises(UsageError, match=r"list\.csv: the CSV header cannot be read"):
        read_prompts(b'"prompt\nrain\n', "csv", "list.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lists_as_spreadsheets_write_them(delimiter):
    table = "prompt,seed\nein Hund bellt im Übungsraum,3\n".replace(",", delimiter)
    for content in (table.encode("utf-16"), table.encode("utf-8-sig")):
        (line,) = read_prompts(content, "csv")
        assert (line.prompt, line.seed) == ("ein Hund bellt im Übungsraum", 3)
    (line,) = read_prompts(table.encode("latin-1"), "csv")
    assert line == BadLine(2, "is not UTF-8 text (see --encoding)")
    (line,) = read_prompts(table.encode("latin-1"), "csv", encoding="latin-1")
    assert line.prompt == "ein Hund bellt im Übungsraum"


def test_text_that_is_none_is_refused():
    for content in ("prompt\nrain".encode("utf-16-le"), b"rain\0"):
        with pytest.raises(UsageError, match=r"list\.txt: holds NUL characters"):
            read_prompts(content, "txt", "list.txt")
    with pytest.raises(UsageError, match="'utf-9' is not the name of an encoding"):
        read_prompts(b"rain", "txt", encoding="utf-9")


def test_half_a_caption_is_no_prompt():
    halves = read_prompts(b"caption,seed\na dog barks\nin rain,1\nwind,2\n", "csv")
    assert [type(line) for line in halves] == [BadLine, BadLine, PromptLine]
    first, *_ = read_prompts(b"seed,caption\n1,a dog barks\nin rain\n2,wind\n", "csv")
    assert isinstance(first, BadLine) and "line break" in first.reason
    (whole,) = read_prompts(b'caption,seed\n"a dog barks\nin rain",1\n', "csv")
    assert whole.prompt == "a dog barks\nin rain"


def test_settings_of_a_line():
    content = (
        b"prompt,Duration,steps,guidance,negative\n"
        b"dog,800ms,10,2.5,music\n"
        b"rain,1:30,,7,\n"
        b"wind,,,,\n"
        b"sea,long,,,\n"
        b"sea,,2.5,,\n"
        b"sea,,,much,\n"
    )
    dog, rain, wind, *bad = read_prompts(content, "csv")
    assert dog.settings == {"duration_s": 0.8, "steps": 10, "guidance_scale": 2.5}
    assert rain.settings == {"duration_s": 90, "guidance_scale": 7}
    assert wind.settings == {}
    assert [line.reason for line in bad] == [
        "the duration 'long' is not a duration",
        "the number of steps is not a whole number: '2.5'",
        "the guidance is not a number: 'much'",
    ]
    content = b'{"prompt": "dog", "duration": 2, "steps": 5}\n{"prompt": "dog", "duration": []}'
    dog, bad = read_prompts(content)
    assert dog.settings == {"duration_s": 2, "steps": 5}
    assert bad.reason == "the duration is not a number: []"


def test_names_of_columns_may_begin_with_a_capital():
    (line,) = read_prompts(b"Name,Prompt,Seed\na,rain,7\n", "csv")
    assert (line.prompt, line.seed) == ("rain", 7)
    assert line.columns == {"Name": "a", "Prompt": "rain", "Seed": "7"}
    (line,) = read_prompts(b"prompt,Prompt\nrain,wind\n", "csv")
    assert line.prompt == "rain"


def test_json_lines_take_objects_and_strings():
    content = b'{"prompt": "dog", "seed": 3, "id": 17}\n"rain"\n{"text": "birds"}\n'
    dog, rain, birds = read_prompts(content)
    assert (dog.prompt, dog.seed, dog.columns["id"]) == ("dog", 3, "17")
    assert (rain.prompt, birds.prompt) == ("rain", "birds")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "dog"', "is not JSON: Expecting ',' delimiter at column 17"),
        (b'{"seed": 3}', "has no prompt or caption or text"),
        (b'{"prompt": 3}', "the prompt is not text: 3"),
        (b'{"prompt": "dog", "seed": 1.5}', "the seed is not a whole number: 1.5"),
        (b'{"prompt": "dog", "seed": true}', "the seed is not a whole number: True"),
        (b'{"prompt": "dog", "negative": []}', "the negative prompt is not text: []"),
        (b"[1]", "is neither a JSON object nor a string"),
    ],
)
def test_a_bad_json_line_says_why_and_the_next_one_is_read(line, reason):
    bad, good = read_prompts(line + b'\n{"prompt": "rain"}', "jsonl")
    assert bad == BadLine(1, reason)
    assert good.prompt == "rain"


def test_standard_input_is_json_lines_if_it_starts_with_a_brace():
    assert read_prompts(b'\n {"prompt": "dog"}\n')[0].prompt == "dog"
    assert read_prompts(b'a "dog"\n')[0].prompt == 'a "dog"'
    assert read_prompts(b"") == []


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_standard_input_is_csv_if_its_first_line_names_columns(separator):
    content = f"Prompt{separator}seed\ndog{separator}7\n".encode()
    assert read_prompts(content) == read_prompts(content, "csv")
    (line,) = read_prompts(content)
    assert (line.prompt, line.seed) == ("dog", 7)
    first, _ = read_prompts(b"a text, read aloud\nrain")
    assert first.prompt == "a text, read aloud"


def test_a_decimal_comma_is_explained():
    lines = read_prompts(b"prompt;duration;guidance\ndog;2,5s;3\nrain;2;3,5\n", "csv")
    assert lines[0].reason.endswith("; with a decimal point: 2.5s")
    assert lines[1].reason.endswith("; with a decimal point: 3.5")


def test_formats_go_by_suffix():
    assert format_of(Path("a.CSV")) == "csv"
    with pytest.raises(UsageError, match="yaml"):
        format_of(Path("a.yaml"))


@given(st.binary(max_size=200), st.sampled_from(["txt", "jsonl", None]))
def test_any_bytes_give_one_answer_a_line_or_are_no_text(content, format):
    try:
        lines = read_prompts(content, format)
    except UsageError:
        return
    assert len({line.number for line in lines}) == len(lines)


@given(st.binary(max_size=100))
def test_any_bytes_below_a_csv_header_leave_the_last_line_alone(content):
    lines = read_prompts(b"prompt\n" + content.replace(b"\0", b"") + b"\nrain\n", "csv")
    assert lines[-1].prompt == "rain"


def test_deep_nesting_is_a_bad_line():
    bad, good = read_prompts(b"[" * 100_000 + b"\n" + json.dumps("rain").encode(), "jsonl")
    assert isinstance(bad, BadLine)
    assert good.prompt == "rain"


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("steps", "0", "steps is 0; valid: whole numbers from 1 to 999"),
        ("duration", "3601", "duration is 3601.0; valid: 0.01 to 3600 s"),
        ("guidance", "nan", "guidance is nan; valid: 0 to 100"),
    ],
)
def test_settings_beyond_their_limits(column, value, reason):
    bad, good = read_prompts(f"prompt,{column}\nrain,{value}\ndog,\n".encode(), "csv")
    assert bad == BadLine(2, reason)
    assert good.settings == {}


def test_a_list_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(UsageError, match=r"--prompts .*list.txt: is a named pipe"):
        read_prompts_file(tmp_path / "list.txt")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="is a device"):
        read_prompts_file(tmp_path / "zero.csv")
    with pytest.raises(UsageError, match="No such file"):
        read_prompts_file(tmp_path / "none.csv")


def test_a_list_is_bounded(monkeypatch):
    monkeypatch.setattr(prompts, "MAX_LIST_BYTES", 2)
    with pytest.raises(UsageError, match="larger than 2 bytes"):
        read_prompts(b"abc")
