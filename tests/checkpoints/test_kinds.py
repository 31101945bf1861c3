import json

import pytest

from auffusion_cli.checkpoints.kinds import (
    KINDS_NAME,
    Kind,
    asks_for_share_alike,
    kinds_of_prompt,
    licence_summary,
    read_kinds,
    search_kinds,
)
from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.errors import CheckpointError

DOG = Kind("dog barking", "event", ("a dog barking",), ("A dog barks.",), ("puppy",), {"CC0": 2})
SEA = Kind("waves", "background", ("ocean waves",), ("The sea.",), (), {"GPL-2": 3, "CC0": 1})
GULL = Kind("gulls", "event", ("gulls crying",), ("Gulls cry.",), (), {"CC-BY-SA-3.0": 1})
BABY = Kind("baby", "event", ("a baby crying",), ("A baby cries.",), ("crying",), {"MIT": 1})
KINDS = [DOG, SEA, GULL, BABY]


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("two dogs bark at night", [DOG]),
        ("waves on a beach, gulls crying", [SEA, GULL]),
        ("crying", [BABY]),
        ("a puppy", [DOG]),
        ("a theremin", []),
        ("", []),
    ],
)
def test_the_kinds_of_a_prompt_are_those_of_its_words(prompt, meant):
    assert kinds_of_prompt(KINDS, prompt) == meant


def test_a_search_puts_names_first():
    assert search_kinds(KINDS, "crying") == [GULL, BABY]
    assert search_kinds(KINDS, "dogs") == [DOG]
    assert search_kinds(KINDS, "sea") == [SEA]
    assert search_kinds(KINDS, "theremin") == []


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-SA-3.0+", True),
        ("GPL-2 or GPL-3", True),
        ("LGPL-2.1", True),
        ("MIT / GPL-3+", True),
        ("CC-BY-SA-3.0 or CC-BY-3.0", False),
        ("CC-BY-SA-3.0 OR CC-BY-3.0", False),
        ("CC-BY-3.0 and CC0-1.0", False),
        ("public-domain", False),
    ],
)
def test_share_alike_terms(licence, expected):
    assert asks_for_share_alike(licence) is expected


def test_licences_of_several_kinds_are_added():
    assert licence_summary([SEA, DOG, GULL]) == {
        "licences": {"GPL-2": 3, "CC0": 3, "CC-BY-SA-3.0": 1},
        "share_alike": {"GPL-2": 3, "CC-BY-SA-3.0": 1},
    }


def test_the_embedded_model_lists_its_kinds():
    kinds = read_kinds(embedded_folder())
    assert len(kinds) > 200 and all(kind.n_recordings and kind.phrases for kind in kinds)
    meant = kinds_of_prompt(kinds, "dog barking in rain")
    assert [kind.name for kind in meant] == ["dog barking", "rain"]


def test_a_folder_may_list_none(tmp_path):
    assert read_kinds(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "kinds": [{"name": 3}]}'],
)
def test_a_damaged_list_is_refused(tmp_path, content):
    (tmp_path / KINDS_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=KINDS_NAME):
        read_kinds(tmp_path)


def test_every_field_is_checked(tmp_path):
    kind = {"name": "x", "role": "event", "phrases": [], "captions": [], "wordings": []}
    content = {"format_version": 1, "kinds": [kind | {"licences": {"CC0": "many"}}]}
    (tmp_path / KINDS_NAME).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"kinds\[0\]\.licences\.CC0"):
        read_kinds(tmp_path)
