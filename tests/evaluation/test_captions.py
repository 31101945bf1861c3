"""Lists of captions, as spreadsheets and scripts write them."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.captions import match_captions, read_captions
from auffusion_cli.requests.request import GenerateRequest


def captions(tmp_path, text, name="captions.csv"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_captions(tmp_path / name)


def test_lists_of_captions(tmp_path):
    assert captions(tmp_path, 'file,caption\na.wav,"rain, then wind"\nsub\\b.flac,a bell\n') == {
        "a": "rain, then wind",
        "sub/b": "a bell",
    }
    assert captions(tmp_path, "Name,Prompt\n./a.wav,rain\n") == {"a": "rain"}
    lines = "Name;Prompt;duration\na.wav;rain, wind;10 sec\n"
    assert captions(tmp_path, lines) == {"a": "rain, wind"}
    assert captions(tmp_path, "name\tcaption\na.opus\tGewühl\n".encode("utf-16")) == {"a": "Gewühl"}
    lines = '{"name": "a", "prompt": "rain"}\n{"name": "b", "prompt": "wind"}\n'
    assert captions(tmp_path, lines, "captions.jsonl") == {"a": "rain", "b": "wind"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,caption\na.wav,rain\na.flac,wind\n", "line 3: another prompt for 'a'"),
        ("caption\nrain\n", "line 2: does not name its clip"),
        ("file,caption\na.wav\n", "line 2: has 1 fields"),
        ("file,caption\na.wav,\n", "line 2: the prompt is empty"),
        ("file,caption\na.wav,a\x1b[31m\n", r"line 2: .* not text: U\+001B"),
        ("file,caption\na.wav," + "x" * 10_001 + "\n", "line 2: the prompt is too long: 10,001"),
        ("file,words\na.wav,x\n", "line 2: has no prompt or caption or text"),
        ('file,"caption\na.wav,x\n', "captions.csv: the CSV header cannot be read"),
        ("file,caption\n", "has no prompts"),
        (b"file,caption\na.wav,\xff\n", "is not UTF-8 text"),
        ("file,caption\na.wav,rain\nand wind\n", "line 2: may go on in line 3"),
        (b"file,caption\na.wav,\0\n", "holds NUL characters"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        captions(tmp_path, text)


def test_a_list_that_is_a_pipe_or_text_without_names(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match="is a named pipe"):
        read_captions(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match="does not name the clips"):
        captions(tmp_path, "rain\n", "captions.txt")


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_captions(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("prompt", "heard"),
    [
        ("a 👩\u200d🚒 sings", "a 👩\u200d🚒 sings"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u200fכלב נובח\u200e", "\u200fכלב נובח\u200e"),
        ("a\xa0dog\tbarks", "a dog barks"),
        ("r" + "a" * 5_000 + "in", "r" + "a" * 5_000 + "in"),
    ],
)
def test_captions_are_what_generate_takes(tmp_path, prompt, heard):
    GenerateRequest(prompt, 0)
    assert captions(tmp_path, f"name,prompt\na,{prompt}\n") == {"a": heard}


def test_captions_are_matched_by_the_path_in_the_folder_or_with_it(tmp_path):
    folder, names = tmp_path / "made", ["00", "made/01", "01"]

    def matched(*captions):
        return match_captions(dict.fromkeys(captions, "rain"), names, folder)

    assert matched("00", "02") == {"00": "00"}
    assert matched("made/00") == {"00": "made/00"}
    assert matched((folder / "00").as_posix()) == {"00": f"{folder.as_posix()}/00"}
    assert matched("00", "made/00") == {"00": "00"}
    assert matched("made/01") == {"made/01": "made/01"}  # which is a clip's own name
    with pytest.raises(UsageError, match="names none of the 3 sounds in") as caught:
        matched("x")
    assert caught.value.hint == "It has 'x'; looked for '00', '01', 'made/01'."


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_an_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("captions")
    with contextlib.suppress(UsageError):
        assert captions(folder, b"file,caption\n" + content)
