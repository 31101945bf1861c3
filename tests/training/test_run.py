import warnings

import pytest

from auffusion_cli.errors import AuffusionWarning
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.run import _warn_of_unused


def test_settings_of_scenes_that_the_vocoder_stage_does_not_use_are_named():
    with pytest.warns(AuffusionWarning, match=r"^scenes\.duration_s, scenes\.max_repeats: without"):
        _warn_of_unused(SceneConfig(duration_s=2.0, max_repeats=3, kinds=("dog",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_of_unused(SceneConfig(kinds=("dog",)))
