"""The public names, used as the documentation uses them."""

import pytest

import auffusion_cli as auffusion


def test_a_sound_in_three_lines(tiny_checkpoint, tmp_path):
    model = auffusion.load_model(str(tiny_checkpoint), device="cpu")
    sound = auffusion.generate(model, "dog barking in rain", seed=1, duration_s=0.5)
    sound.save(tmp_path / "rain.wav")
    assert sound.waveform.shape == (8000,)
    assert (tmp_path / "rain.wav").stat().st_size > 16000


def test_a_seed_is_drawn_and_can_be_read(tiny_model):
    sound = auffusion.generate(tiny_model, "dog", duration_s=0.5)
    again = auffusion.generate(tiny_model, "dog", seed=sound.request.seed, duration_s=0.5)
    assert sound.provenance == again.provenance


def test_words_that_change_with_time(tiny_model):
    sound = auffusion.generate(tiny_model, seed=1, timeline="0-0.8s a dog; 0.6-1.6s rain")
    assert sound.waveform.shape == (25600,)
    assert sound.request == auffusion.TimelineRequest("", 1, "", "0-0.8s a dog; 0.6-1.6s rain")


def test_many_at_once(tiny_model):
    requests = [auffusion.GenerateRequest("dog", seed) for seed in range(3)]
    sounds = auffusion.generate_many(tiny_model, requests, batch_size=2)
    assert [sound.request for sound in sounds] == requests


def test_errors_are_one_family(tiny_model):
    with pytest.raises(auffusion.AuffusionError, match="--duration"):
        auffusion.generate(tiny_model, "dog", duration_s=9999)
    with pytest.raises(TypeError, match="speed"):
        auffusion.generate(tiny_model, "dog", speed=2)


def test_every_public_name_is_there_and_no_other():
    for name in auffusion.__all__:
        assert getattr(auffusion, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        auffusion.nonsense  # noqa: B018
