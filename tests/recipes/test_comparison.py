"""The comparison of systems, on tiny random models of two kinds."""

import json
import sys
from pathlib import Path

import pytest

from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.result import Evaluation
from published_systems import write_audioldm
from small_data import write_sound

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "comparison"))

import compare as recipe

PROMPTS = ("a dog barks", "rain and thunder")


def test_two_systems_are_compared_and_nothing_is_made_twice(tiny_checkpoint, tmp_path, capsys):
    write_audioldm(tmp_path / "audioldm-tiny")
    lines = [json.dumps({"name": f"clip{n}", "prompt": text}) for n, text in enumerate(PROMPTS)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines) + "\n")
    for number in range(len(PROMPTS)):
        write_sound(tmp_path / "real" / f"clip{number}.wav", seed=number, duration_s=1.0)
    arguments = [
        *(tmp_path / "list.jsonl", "--reference", tmp_path / "real", "-o", tmp_path / "out"),
        *("--model", tiny_checkpoint, "--model", tmp_path / "audioldm-tiny"),
        *("--backbone", "embedded", "--device", "cpu", "--steps", 1),
    ]
    recipe.main(list(map(str, arguments)))
    sounds = sorted((tmp_path / "out" / "sounds").rglob("*.flac"))
    assert [f"{path.parent.name}/{path.stem}" for path in sounds] == [
        "audioldm-tiny/clip0",
        "audioldm-tiny/clip1",
        "tiny/clip0",
        "tiny/clip1",
    ]
    result = Evaluation.load(tmp_path / "out" / "result.json")
    assert [system.name for system in result.systems] == ["tiny", "audioldm-tiny"]
    printed = capsys.readouterr().out
    assert "audioldm-tiny" in printed and "KL" in printed
    made = [path.stat().st_mtime_ns for path in sounds]
    sounds[0].unlink()
    recipe.main(list(map(str, arguments)))
    assert sounds[0].is_file()
    assert [path.stat().st_mtime_ns for path in sounds[1:]] == made[1:]


def test_systems_of_one_name_are_refused():
    with pytest.raises(UsageError, match="too"):
        recipe.named(["a/tiny", "b/tiny"])
