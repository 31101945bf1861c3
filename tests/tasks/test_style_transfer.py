import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auffusion_cli.diffusion.samplers import sample
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateSettings, StyleTransferRequest
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.recording import read_recording, to_full_scale
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.tasks import style_transfer as style_transfer_module
from auffusion_cli.tasks.reproduce import reproduce
from auffusion_cli.tasks.style_transfer import invert, style_transfer

SOUNDS = Path(__file__).parents[2] / "docs" / "sounds"
FAST = GenerateSettings(1.0, steps=4, guidance_scale=3.0, guidance_rescale=0.0, scheduler="ddim")


def write_clip(path, rate_hz, n_channels, subtype, duration_s):
    """Noise that moves from the first channel to the last."""
    rng = np.random.default_rng(0)
    n = round(duration_s * rate_hz)
    place = np.linspace(0, 1, n)[:, None]
    gains = np.concatenate([1 - place] + [place] * (n_channels - 1), axis=1)
    soundfile.write(path, 0.2 * gains * rng.normal(size=(n, 1)).clip(-3, 3), rate_hz, subtype)
    return read_recording(path)


def request(recording, strength=0.5, **values):
    return StyleTransferRequest(
        "clip.wav", recording.sha256, "a cat meowing", seed=1, strength=strength, **values
    )


@pytest.mark.parametrize(
    ("rate_hz", "n_channels", "subtype", "duration_s"),
    [
        (48000, 2, "PCM_24", 0.5),
        (44100, 1, "PCM_16", 1.28),
        (16000, 2, "FLOAT", 4.001),  # several windows
        (8000, 3, "PCM_16", 0.02),
    ],
)
def test_length_rate_channels_and_width_stay(
    quick_model, tmp_path, rate_hz, n_channels, subtype, duration_s
):
    clip = write_clip(tmp_path / "clip.wav", rate_hz, n_channels, subtype, duration_s)
    result = style_transfer(quick_model, clip, request(clip), FAST)
    result.save(tmp_path / "new.wav")
    before, after = soundfile.info(tmp_path / "clip.wav"), soundfile.info(tmp_path / "new.wav")
    for name in ("samplerate", "channels", "frames", "subtype"):
        assert getattr(before, name) == getattr(after, name)
    assert not np.array_equal(result.recording.samples, clip.samples)


def test_it_is_as_loud_and_moves_along(quick_model, tmp_path):
    clip = write_clip(tmp_path / "clip.wav", 16000, 2, "PCM_24", 1.2)
    after = to_full_scale(style_transfer(quick_model, clip, request(clip), FAST).recording.samples)
    before = to_full_scale(clip.samples)
    assert after.std() == pytest.approx(before.std(), rel=0.1)
    for part in (slice(0, 4000), slice(8000, 11000), slice(15000, None)):
        share = [x[part, 0].std() / x[part].std() for x in (before, after)]
        assert share[0] == pytest.approx(share[1], abs=0.15)


def test_more_strength_is_further_from_the_source(tiny_model, quick_model):
    """A model that says what it hears: the noise is all that strength adds."""
    clean = Noise(0).normal((1, 4, 8, 16))
    noise = Noise(1).normal((1, 4, 8, 16))
    scheduler = make_scheduler("ddim", tiny_model.scheduler_config)
    distances = []
    for first_step in (9, 6, 3, 0):
        steps = sample(
            lambda latents, timestep: latents * 0,
            scheduler,
            noise,
            10,
            clean=clean,
            first_step=first_step,
        )
        *_, last = steps
        distances.append((last.latents / last.latents.std() - clean).std().item())
    assert distances == sorted(distances) and distances[0] < 0.5 < distances[-1]


def test_inversion_leads_back(tiny_model):
    """Down again without a prompt it gives the source, closer the more steps there are."""
    config = tiny_model.scheduler_config
    clean = Noise(0).normal((1, 4, 8, 16))

    def denoise(latents, timestep):
        return 0.9 * np.tanh(latents)

    errors = []
    for n_steps in (10, 40):
        n_inverted = n_steps * 6 // 10
        noise = invert(denoise, clean, n_steps, n_inverted, config, on_step=lambda n: None)
        assert (noise - clean).std() > 0.1
        scheduler = make_scheduler("ddim", config)
        *_, last = sample(denoise, scheduler, noise, n_steps, first_step=n_steps - n_inverted)
        errors.append(float(np.abs(last.latents - clean).mean()))
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.05


@pytest.mark.parametrize("method", ["sdedit", "inversion"])
def test_the_record_makes_it_again(quick_model, tmp_path, method):
    clip = write_clip(tmp_path / "clip.wav", 24000, 2, "PCM_16", 0.6)
    asked = request(clip, method=method)
    seen = []
    result = style_transfer(
        quick_model, clip, asked, FAST, on_progress=lambda n_done, n: seen.append((n_done, n))
    )
    n = 4 if method == "inversion" else 2
    assert seen == [(i + 1, n) for i in range(n)]
    path = tmp_path / "new.wav"
    result.save(path)
    record = Provenance.from_dict(read_provenance(path), str(path))
    assert record.request == asked
    assert reproduce(quick_model, record, path).identical


def test_silence_is_no_error(quick_model, tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros((8000, 2)), 16000)
    clip = read_recording(tmp_path / "clip.wav")
    result = style_transfer(quick_model, clip, request(clip), FAST)
    assert len(result.recording.samples) == 8000


def test_what_cannot_be_done_is_refused(quick_model, tmp_path):
    clip = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16", 0.5)
    with pytest.raises(UsageError, match="less than one step") as error:
        style_transfer(quick_model, clip, request(clip, strength=0.2), FAST)
    assert "0.25" in error.value.hint
    other = dataclasses.replace(FAST, scheduler="euler")
    with pytest.raises(UsageError, match="--method inversion"):
        style_transfer(quick_model, clip, request(clip, method="inversion"), other)


def test_a_level_that_would_clip_is_reduced_and_recorded(quick_model, tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16", 1.0)

    def spike(model, mono, *_):
        made = 0.001 * Noise(0).normal(mono.shape)
        made[:, 5000] = 1.0
        return made

    monkeypatch.setattr(style_transfer_module, "_transfer", spike)
    result = style_transfer(quick_model, clip, request(clip), FAST)
    after, before = to_full_scale(result.recording.samples), to_full_scale(clip.samples)
    expected_db = 20 * np.log10(before.std() / after.std())
    assert result.provenance.gain_reduction_db == pytest.approx(expected_db, abs=0.1) and (
        expected_db > 3
    )


def test_the_end_of_a_clip_that_goes_on_is_no_louder_than_the_rest(embedded, tmp_path):
    """Silence behind it, to fill the model's window, became a burst."""
    clip = read_recording(SOUNDS / "river.flac")
    settings = GenerateSettings.from_defaults(embedded.defaults)
    asked = StyleTransferRequest("river.flac", clip.sha256, "crowd cheering", 1, strength=0.4)
    samples = to_full_scale(style_transfer(embedded, clip, asked, settings).recording.samples)
    n = clip.sample_rate_hz // 20
    blocks = samples[len(samples) % n :].reshape(-1, n).std(axis=1)
    assert blocks[-1] < 1.5 * np.median(blocks)
