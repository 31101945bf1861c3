"""Which published system a folder holds."""

import json

import pytest

from auffusion_cli.checkpoints.families import AUDIOLDM, AUDIOLDM2, find_family
from auffusion_cli.errors import CheckpointError


@pytest.mark.parametrize(
    ("index", "family"),
    [
        ({"_class_name": "AudioLDMPipeline"}, AUDIOLDM),
        ({"_class_name": "AudioLDM2Pipeline"}, AUDIOLDM2),
        ({"_class_name": "StableDiffusionPipeline"}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_family_is_found_by_the_name_of_its_pipeline(index, family, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert find_family(tmp_path) is family


def test_a_system_that_is_not_supported_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "MusicLDMPipeline"}')
    with pytest.raises(CheckpointError, match="MusicLDMPipeline is not supported"):
        find_family(tmp_path)
