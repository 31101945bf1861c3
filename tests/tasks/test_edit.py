"""Word edits from end to end, on random weights."""

import dataclasses

import numpy as np
import pytest

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.request import EditRequest, GenerateRequest, GenerateSettings
from auffusion_cli.tasks.edit import edit, is_unlike
from auffusion_cli.tasks.generate import generate

PROMPT, SEED = "dog barking in rain", 5


@pytest.fixture(scope="module")
def settings(wordy_model):
    return GenerateSettings.from_defaults(wordy_model.defaults, steps=3)


def request(**edits):
    return EditRequest(PROMPT, SEED, "music", **edits)


@pytest.mark.parametrize("scheduler", ["pndm", "dpm++"])
@pytest.mark.parametrize("edits", [{}, {"reweights": ("rain=1.0",)}])
def test_an_edit_of_nothing_is_the_sound_that_generate_makes(
    wordy_model, settings, scheduler, edits
):
    settings = dataclasses.replace(settings, scheduler=scheduler)
    (sound,) = generate(wordy_model, [GenerateRequest(PROMPT, SEED, "music")], settings)
    result = edit(wordy_model, request(**edits), settings)
    for made in (result.source, result.edited):
        assert np.array_equal(made.waveform, sound.waveform)
        assert made.provenance.samples_sha256 == sound.provenance.samples_sha256
    record = result.edited.provenance
    assert record.to_dict()["task"] == "edit"
    of_others = dataclasses.replace(record, samples_sha256="0" * 64)
    assert not is_unlike(record, record) and is_unlike(record, of_others)
    for incomparable in ({"engine": "onnx"}, {"layers": ("dog", "rain")}):
        assert not is_unlike(record, dataclasses.replace(of_others, **incomparable))


def test_edits_change_the_sound_and_not_its_source(wordy_model, settings):
    whole = {"cross_steps": 1.0, "self_steps": 1.0}
    results = [
        edit(wordy_model, request(**edits), settings)
        for edits in (
            {},
            {"swaps": ("dog=cat",)},
            {"swaps": ("dog=cat",)} | whole,
            {"refine": "… far away"},
            {"reweights": ("rain=4",)},
        )
    ]
    for i, one in enumerate(results):
        assert np.array_equal(one.source.waveform, results[0].source.waveform)
        for other in results[:i]:
            assert not np.array_equal(one.edited.waveform, other.edited.waveform)


def test_without_shared_steps_a_swap_is_the_other_prompts_sound(wordy_model, settings):
    swap = request(swaps=("dog=cat",), cross_steps=0.0, self_steps=0.0)
    other = GenerateRequest("cat barking in rain", SEED, "music")
    (sound,) = generate(wordy_model, [other], settings)
    assert np.array_equal(edit(wordy_model, swap, settings).edited.waveform, sound.waveform)


def test_sounds_longer_than_the_window(wordy_model, settings):
    settings = dataclasses.replace(settings, duration_s=2.5, steps=2)
    (sound,) = generate(wordy_model, [GenerateRequest(PROMPT, SEED, "music")], settings)
    result = edit(wordy_model, request(), settings)
    assert np.array_equal(result.edited.waveform, sound.waveform)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"swaps": ("cow=cat",)}, "Its words: dog, barking, in, rain"),
        ({"swaps": "dog=cat"}, "not a list"),
        ({"swaps": ("dog=\x1b[2J cat",)}, r"U\+001B"),
        ({"refine": 3}, "not text"),
        ({"cross_steps": 1.5}, "--cross-steps 1.5"),
        ({"self_steps": -1}, "--self-steps -1"),
        ({"source": "../x.wav", "source_sha256": "0" * 64}, "not a file name"),
        ({"source": "x.wav"}, "64 hexadecimal"),
        ({"swaps": ("dog=" + "x" * 9_999,), "refine": "… " + "y" * 9_000}, "characters"),
    ],
)
def test_requests_are_checked(edits, words):
    with pytest.raises(UsageError, match=words):
        request(**edits)
