"""What a checkpoint says about itself, and that nothing in it is believed unchecked."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.checkpoints.layout import (
    Condition,
    describe,
    read_conditions,
    read_identity,
)
from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.checkpoints.schedule import read_scheduler_config
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-auffusion"


def write(folder: Path, **content) -> Path:
    (folder / "auffusion.json").write_text(json.dumps({"format_version": 1} | content))
    return folder


def test_without_auffusion_json_the_papers_defaults_hold(tmp_path):
    identity = read_identity(tmp_path)
    assert (identity.name, identity.defaults) == (None, GenerationDefaults())


def test_a_noise_schedule_needs_no_class_name():
    """The embedded model's, as `train` writes it, has none."""
    assert "_class_name" not in read_scheduler_config(embedded_folder())


def test_defaults_of_a_checkpoint(tmp_path):
    write(tmp_path, name="x", licence="mit", generation={"steps": 25, "duration_s": 5})
    identity = read_identity(tmp_path)
    assert (identity.name, identity.licence) == ("x", "mit")
    assert identity.defaults == GenerationDefaults(steps=25, duration_s=5)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"extra": 1}, "extra: unknown name"),
        ({"name": 3}, "name is 3, not text"),
        ({"generation": {"step": 1}}, "generation.step: unknown name; valid: duration_s"),
        ({"generation": {"steps": 1.5}}, "steps is 1.5"),
        ({"generation": {"steps": True}}, "steps is true"),
        ({"generation": {"steps": 0}}, "steps is 0; valid: whole numbers from 1 to 999"),
        ({"generation": {"steps": 1000}}, "steps is 1000; valid: whole numbers from 1 to 999"),
        ({"generation": 3}, "generation is 3, not an object"),
        ({"generation": {"duration_s": 11}}, "duration_s is 11 s"),
        ({"generation": {"duration_s": float("nan")}}, "duration_s is NaN"),
        ({"generation": {"max_duration_s": float("inf")}}, "max_duration_s"),
        ({"generation": {"guidance_scale": float("nan")}}, "guidance_scale is NaN"),
        ({"generation": {"windows_at_once": 9}}, "windows_at_once is 9; valid: whole numbers"),
        ({"generation": {"scheduler": "heun"}}, "scheduler is 'heun'; valid: pndm"),
        ({"generation": {"vocoder": "auto"}}, "vocoder is 'auto'; valid: hifigan"),
    ],
)
def test_auffusion_json_is_checked(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        read_identity(write(tmp_path, **content))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_not_json(tmp_path, content):
    (tmp_path / "auffusion.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"auffusion.json"):
        read_identity(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text_encoder_name": "../x"}, "not the name of a folder"),
        ({"text_encoder_name": ".."}, "not the name of a folder"),
        ({"text_encoder_name": ""}, "not the name of a folder"),
        ({"condition_adapter_name": "/etc"}, "not the name of a folder"),
        ({"condition_dim": 0}, "condition_dim is 0"),
        ({"condition_max_length": 10**9}, "condition_max_length"),
        ({"cross_attention_dim": "32"}, "cross_attention_dim is '32'"),
    ],
)
def test_conditions_are_checked(tmp_path, change, message):
    entries = json.loads((GOLDEN / "condition_config.json").read_text())
    (tmp_path / "condition_config.json").write_text(json.dumps([entries[0] | change]))
    with pytest.raises(CheckpointError, match=message):
        read_conditions(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
field_names = st.sampled_from(["text_encoder_name", "condition_dim", "x", "cross_attention_dim"])


@given(json_values | st.dictionaries(field_names, json_values))
def test_any_condition_is_taken_or_refused(entry):
    with contextlib.suppress(CheckpointError):
        assert isinstance(Condition.from_json(entry, Path("condition_config.json")), Condition)


def test_describe():
    description = describe(GOLDEN)
    assert description["layout"] == "adapter"
    assert description["text_encoders"] == ["CLIPTextModel"]
    assert description["weight_formats"] == ["bin", "pt"]
    assert description["weights_bytes"] > 4_000_000
