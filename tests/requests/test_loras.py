import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.loras import LORA_NAME, LoraChoice, LoraRecord, parse_lora, parse_loras


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("bells.safetensors", LoraChoice("bells.safetensors")),
        ("bells.safetensors:0.8", LoraChoice("bells.safetensors", 0.8)),
        ("runs/bells:-1", LoraChoice("runs/bells", -1.0)),
        ("C:\\loras\\bells.safetensors", LoraChoice("C:\\loras\\bells.safetensors")),
        ("C:\\bells.safetensors:2", LoraChoice("C:\\bells.safetensors", 2.0)),
        ("a:b/c", LoraChoice("a:b/c")),
    ],
)
def test_a_file_and_its_weight(text, choice):
    assert parse_lora(text) == choice


@pytest.mark.parametrize("text", ["a:much", "a:nan", "a:11", "a:-1e9"])
def test_a_weight_that_is_none(text):
    with pytest.raises(UsageError, match=r"--lora a:.* is not a number from -10 to 10"):
        parse_lora(text)
    with pytest.raises(UsageError, match="are more than 20"):
        parse_loras(["a"] * 21)


@given(st.text(max_size=30))
def test_any_text_is_a_choice_or_one_line(text):
    try:
        choice = parse_lora(text)
    except UsageError as error:
        assert "--lora" in error.message
    else:
        assert text.startswith(choice.path) and abs(choice.weight) <= 10


def test_a_folder_stands_for_the_file_in_it(tmp_path):
    (tmp_path / LORA_NAME).write_bytes(b"weights")
    choice = LoraChoice(str(tmp_path), 0.5)
    assert choice.find() == tmp_path / LORA_NAME
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert choice.record() == LoraRecord(LORA_NAME, sha256, 0.5)


def test_what_is_no_lora_is_told(tmp_path):
    (tmp_path / "a.bin").touch()
    for name, message in (("", "in this folder"), ("b", "no such file"), ("a.bin", "not a .safet")):
        with pytest.raises(UsageError, match=message):
            LoraChoice(str(tmp_path / name)).find()


@pytest.mark.parametrize("change", [{"weight": 11.0}, {"sha256": "0"}, {"file": ""}])
def test_a_record_that_is_none(change):
    record = {"file": "a", "sha256": "0" * 64, "weight": 1.0}
    with pytest.raises(ValueError):
        LoraRecord(**record | change)
