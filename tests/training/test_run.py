"""What a run says of its data before it begins."""

from pathlib import Path

import pytest

from auffusion_cli.errors import AuffusionWarning
from auffusion_cli.training.data import Clip
from auffusion_cli.training.run import warn_of_long_captions


def test_captions_that_are_cut_are_counted_and_named_once(tiny_model, recwarn):
    short = Clip(Path("a.wav"), ("A dog",))
    warn_of_long_captions(tiny_model.text, [short])
    assert not recwarn.list
    long = Clip(Path("b.wav"), ("rain " * 300, "A dog", "wind " * 400))
    with pytest.warns(AuffusionWarning, match="2 of 3 captions are longer .* 'rain rain"):
        warn_of_long_captions(tiny_model.text, [short, long])
