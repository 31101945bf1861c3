import json
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded"
sys.path.insert(0, str(RECIPE))

import describe_kinds  # noqa: E402
from attribution import spdx  # noqa: E402


def test_kinds_have_the_licences_of_their_recordings(tmp_path):
    clips = [
        {"kind": "cat_meowing", "source": "pkg:a.wav", "licence": "CC0"},
        {"kind": "cat_meowing", "source": "pkg:a.wav", "licence": "CC0"},
        {"kind": "cat_meowing", "source": "pkg:b.wav", "licence": "GPL-2"},
        {"kind": "cat_meowing", "source": "rendered:man_01.wav", "licence": "of older lists"},
    ]
    path = tmp_path / "metadata.jsonl"
    path.write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    (cat,) = describe_kinds.describe(path)
    assert cat["name"] == "cat meowing"
    assert cat["licences"] == {"CC0-1.0": 1, "GPL-2.0-only": 1, "GPL-3.0-or-later": 1}
    assert "cat meowing" in cat["phrases"] and "kitten" in cat["wordings"]


def test_the_list_that_ships_is_of_the_present_tables():
    """The recordings themselves are not in the repository."""
    listed = json.loads((RECIPE.parents[1] / "weights/embedded/kinds.json").read_text("utf-8"))
    kinds = {
        kind.name.replace("_", " "): kind
        for kind in describe_kinds.load_kinds(describe_kinds.KINDS)
    }
    for kind in listed["kinds"]:
        assert list(map(spdx, kind["licences"])) == list(kind["licences"])
        assert kind["phrases"] == kinds[kind["name"]].phrases
