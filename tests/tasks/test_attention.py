"""Maps of words from end to end, on random weights."""

import json

import numpy as np
import pytest

from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.attention import (
    choose_layers,
    choose_steps,
    generate_with_attention,
)
from auffusion_cli.tasks.generate import generate

REQUEST = GenerateRequest("dog barking, in rain", 5)
LAYERS = {"down_blocks.0.a": 8, "mid_block.a": 8, "up_blocks.1.a": 4}


@pytest.fixture(scope="module")
def settings(wordy_model):
    return GenerateSettings.from_defaults(wordy_model.defaults, steps=3)


def test_the_sound_is_generates_and_the_maps_lie_on_its_spectrogram(
    wordy_model, settings, tmp_path
):
    (sound,) = generate(wordy_model, [REQUEST], settings)
    told = []
    result = generate_with_attention(
        wordy_model, REQUEST, settings, on_progress=lambda *progress: told.append(progress)
    )
    assert np.array_equal(result.sound.waveform, sound.waveform)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert result.words == ("dog", "barking", "in", "rain")
    assert result.maps.shape == (4, *sound.log_mel.shape)
    # Cut like the sound: the window is 1.28 s, the sound 1 s.
    of_latents = result.on_latents.mean[..., :12].mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)), of_latents, rtol=0.05)
    assert 0 < sum(result.shares) < 1

    result.save_data(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as data:
        assert data["words"].tolist() == list(result.words)
        np.testing.assert_array_equal(data["maps"], result.maps)
        assert data["by_step"].shape == (3, 4, 32, 16)
        assert data["by_layer"].shape == (len(data["layers"]), 4, 32, 16)
        assert data["steps"].tolist() == [0, 1, 2]
        np.testing.assert_array_equal(data["log_mel"], sound.log_mel)
        assert json.loads(str(data["provenance"]))["prompt"] == REQUEST.prompt
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]


def test_a_part_of_steps_layers_and_heads(wordy_model, settings):
    whole = generate_with_attention(wordy_model, REQUEST, settings)
    part = generate_with_attention(
        wordy_model, REQUEST, settings, phase=(0.6, 1.0), layers=["up"], heads=[1]
    )
    assert part.on_latents.steps == (2,)
    assert all(name.startswith("up_blocks") for name in part.on_latents.layers)
    assert not np.array_equal(part.maps, whole.maps)
    late = generate_with_attention(wordy_model, REQUEST, settings, phase=(0.6, 1.0))
    np.testing.assert_allclose(
        late.on_latents.by_step[0].numpy(),
        whole.on_latents.by_step[2].numpy(),
        rtol=1e-5,
        atol=1e-7,
    )


def test_a_word_that_is_not_read_has_no_share(wordy_model, settings):
    request = GenerateRequest("dog " * 80 + "rain", 5)
    result = generate_with_attention(wordy_model, request, settings)
    assert result.words[-1] == "rain" and result.shares[-1] == 0 and result.shares[0] > 0


def test_what_has_no_maps_is_refused(wordy_model, settings):
    with pytest.raises(UsageError, match="no word"):
        generate_with_attention(wordy_model, GenerateRequest("!?", 5), settings)
    long = GenerateSettings.from_defaults(wordy_model.defaults, duration_s=3.0)
    with pytest.raises(UsageError, match=r"1\.28 s"):
        generate_with_attention(wordy_model, REQUEST, long)


def test_choices_that_cannot_be_met_say_which_can():
    assert choose_layers(LAYERS, ["down", "mid"], [7]) == ["down_blocks.0.a", "mid_block.a"]
    assert choose_layers(LAYERS, []) == list(LAYERS)
    with pytest.raises(UsageError, match="'left'") as caught:
        choose_layers(LAYERS, ["left"])
    assert "up_blocks.1.a" in caught.value.hint
    with pytest.raises(UsageError, match="--heads 4") as caught:
        choose_layers(LAYERS, [], [4])
    assert "0 to 3" in caught.value.hint
    with pytest.raises(AuffusionError, match="does not attend"):
        choose_layers({}, [])
    assert choose_steps((0.5, 1.0), 4) == [2, 3]
    with pytest.raises(UsageError, match="none of the 4 steps"):
        choose_steps((0.5, 0.55), 4)
