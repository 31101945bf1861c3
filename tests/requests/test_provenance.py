import contextlib
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import AudioError
from auffusion_cli.requests.provenance import Provenance, hash_samples
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings

RECORD = Provenance(
    request=GenerateRequest("dog barking in rain", 7, "music"),
    settings=GenerateSettings(5.0, 25, 4.0, 0.0, "ddim"),
    model="embedded",
    revision=None,
    vocoder="griffin-lim",
    device="cpu",
    dtype="fp32",
    samples_sha256=hash_samples(np.arange(5, dtype=np.int16)),
)


def test_the_record_survives_json():
    for record in (RECORD, dataclasses.replace(RECORD, layers=("dog", "rain"))):
        assert Provenance.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_settings_that_older_records_lack_are_what_was_done_then():
    record = RECORD.to_dict()
    del record["guidance_until"], record["windows_at_once"]
    assert Provenance.from_dict(record) == RECORD


def test_the_hash_does_not_depend_on_byte_order_or_layout():
    samples = np.arange(-4, 4, dtype="<i2")
    assert hash_samples(samples) == hash_samples(samples.astype(">i2"))
    assert hash_samples(samples) == hash_samples(np.repeat(samples, 2)[::2])
    assert hash_samples(samples) != hash_samples(samples[::-1])


@pytest.mark.parametrize(
    "damage",
    [
        {"prompt": ""},
        {"prompt": ["dog"]},
        {"prompt": "dog \x1b]0;owned\x07"},
        {"seed": "7"},
        {"seed": 2**70},
        {"duration_s": 10**400},
        {"steps": 10**9},
        {"duration_s": float("nan")},
        {"windows_at_once": 1000},
        {"scheduler": "__import__('os')"},
        {"model": "a\nb"},
        {"model": None},
        {"model": "x" * 2000},
        {"revision": 3},
        {"versions": "1.0"},
        {"versions": {"torch": 2}},
        {"versions": {f"v{i}": "1" for i in range(30)}},
        {"layers": "dog"},
        {"layers": ["a\nb"]},
        {"layers": ["dog"] * 30},
        {"format_version": 2},
        {"task": "format the disk"},
    ],
)
def test_a_hostile_record_is_refused_by_name(damage):
    with pytest.raises(AudioError, match=r"x\.wav"):
        Provenance.from_dict(RECORD.to_dict() | damage, "x.wav")


LATER = {"guidance_until", "windows_at_once", "engine", "near_seed", "nearness"}
LATER |= {"trim", "one_shot", "loop"}
"""Fields that older records lack."""


@pytest.mark.parametrize("name", sorted(RECORD.to_dict().keys() - LATER))
def test_a_record_that_lacks_anything_is_refused(name):
    record = RECORD.to_dict()
    del record[name]
    with pytest.raises(AudioError):
        Provenance.from_dict(record)


def test_a_record_of_before_there_were_engines_is_torchs():
    record = RECORD.to_dict()
    del record["engine"]
    assert Provenance.from_dict(record).engine == "torch"
    made = Provenance.without_model(RECORD.request, 1.0, np.zeros(4, np.int16))
    assert made.engine == "none" and not made.versions.keys() & {"torch", "onnxruntime"}
    older = made.to_dict()
    del older["engine"]
    assert Provenance.from_dict(older).engine == "none"


def test_an_engine_is_a_circumstance():
    other = dataclasses.replace(RECORD, engine="onnx")
    assert RECORD.differences(other) == {"engine": ("torch", "onnx")}
    assert Provenance.from_dict(other.to_dict()) == other


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(name=st.sampled_from(sorted(RECORD.to_dict())), value=json_values)
def test_any_value_in_any_field_is_taken_or_refused_but_never_crashes(name, value):
    with contextlib.suppress(AudioError):
        Provenance.from_dict(RECORD.to_dict() | {name: value})


@given(json_values)
def test_anything_instead_of_a_record_is_refused(value):
    with pytest.raises(AudioError):
        Provenance.from_dict(value)


def test_whether_it_answers_a_request_is_a_matter_of_the_words_not_of_the_machine():
    elsewhere = dataclasses.replace(RECORD, device="cuda", dtype="fp16", versions={"torch": "3"})
    asked = {
        "request": RECORD.request,
        "settings": RECORD.settings,
        "model": "embedded",
        "revision": None,
        "vocoder": "griffin-lim",
    }
    assert elsewhere.matches(**asked)
    other_seed = dataclasses.replace(RECORD.request, seed=8)
    assert not elsewhere.matches(**asked | {"request": other_seed})
    assert elsewhere.matches(**asked | {"request": other_seed}, any_seed=True)
    for change in (
        {"request": dataclasses.replace(RECORD.request, prompt="cat")},
        {"request": dataclasses.replace(RECORD.request, negative_prompt="")},
        {"settings": dataclasses.replace(RECORD.settings, steps=26)},
        {"model": "auffusion"},
        {"revision": "abc"},
        {"vocoder": "hifigan"},
    ):
        assert not elsewhere.matches(**asked | change, any_seed=True)


def test_differences_name_what_changed_and_only_that():
    later = dataclasses.replace(
        RECORD, device="cuda", versions=RECORD.versions | {"torch": "9.9"}, samples_sha256="x"
    )
    assert RECORD.differences(later) == {
        "device": ("cpu", "cuda"),
        "torch": (RECORD.versions["torch"], "9.9"),
    }


def test_the_former_name_of_the_gain_reduction_is_read():
    record = RECORD.to_dict() | {"turned_down_db": 3.5}
    assert Provenance.from_dict(record).gain_reduction_db == 3.5
    assert "turned_down_db" not in Provenance.from_dict(record).to_dict()
