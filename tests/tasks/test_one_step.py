"""Every task that denoises takes one step with any scheduler."""

import numpy as np
import pytest
import soundfile

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.requests.request import (
    EditRequest,
    ExtendRequest,
    GenerateRequest,
    GenerateSettings,
    StyleTransferRequest,
    TimelineRequest,
)
from auffusion_cli.signal.recording import read_recording
from auffusion_cli.tasks.edit import edit
from auffusion_cli.tasks.extend import extend
from auffusion_cli.tasks.generate import generate
from auffusion_cli.tasks.style_transfer import style_transfer


@pytest.fixture(params=list(SCHEDULERS))
def settings(request):
    return GenerateSettings(1.0, 1, 3.0, 0.0, request.param)


@pytest.fixture
def clip(tmp_path):
    noise = 0.1 * np.random.default_rng(0).normal(size=16_000)
    soundfile.write(tmp_path / "clip.wav", noise, 16_000)
    return read_recording(tmp_path / "clip.wav")


def test_words(quick_model, settings):
    requests = [GenerateRequest("a dog", 1), TimelineRequest("rain", 1, timeline="0-0.5s a dog")]
    for sound in generate(quick_model, requests, settings):
        assert np.isfinite(sound.waveform).all() and len(sound.waveform) == 16_000


def test_edited_words(wordy_model, settings):
    result = edit(wordy_model, EditRequest("a dog", 1, swaps=("dog=cat",)), settings)
    assert len(result.edited.waveform) == 16_000


@pytest.mark.parametrize("prompt", ["", "a dog"])
@pytest.mark.parametrize("where", ["after", "loop"])
def test_extending(quick_model, clip, settings, prompt, where):
    request = ExtendRequest("clip.wav", clip.sha256, 1, 0.2, where, prompt)
    result = extend(quick_model, clip, request, settings)
    assert len(result.recording.samples) == 19_200


def test_style_transfer(quick_model, clip, settings):
    request = StyleTransferRequest("clip.wav", clip.sha256, "a dog", 1, strength=1.0)
    result = style_transfer(quick_model, clip, request, settings)
    assert not np.array_equal(result.recording.samples, clip.samples)
