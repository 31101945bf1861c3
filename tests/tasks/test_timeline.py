"""Sounds whose words change with time, and sounds longer than a model's window."""

import dataclasses

import numpy as np
import pytest
import torch

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, TimelineRequest
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.tasks.generate import generate
from auffusion_cli.tasks.reproduce import reproduce
from model_parts import with_parts

LONG = GenerateSettings(4.0, steps=3, guidance_scale=3.0, guidance_rescale=0.0, scheduler="ddim")


def test_a_long_sound_is_whole_and_its_seed_decides_in_any_batch(tiny_model):
    requests = [GenerateRequest("rain", 3), GenerateRequest("a dog", 4)]
    alone = [next(generate(tiny_model, [request], LONG)) for request in requests]
    together = list(generate(tiny_model, requests, LONG, batch_size=2))
    for a, b in zip(alone, together, strict=True):
        assert a.waveform.shape == (64000,) and a.log_mel.shape == (256, 400)
        assert np.abs(a.waveform - b.waveform).max() <= 1 / 32768
    assert not np.array_equal(alone[0].waveform, alone[1].waveform)


class WatchedUNet(torch.nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet, self.widths = unet, set()

    def forward(self, latents, *args, **kwargs):
        self.widths.add(latents.shape[-1])
        return self.unet(latents, *args, **kwargs)


def test_no_part_of_the_model_ever_sees_more_than_a_window(quick_model, monkeypatch):
    """So that memory does not grow with the sound but for the sound itself."""
    unet = WatchedUNet(quick_model.networks.unet)
    model = with_parts(quick_model, quick_model.codec.griffin_lim, unet=unet)
    monkeypatch.setattr("auffusion_cli.codec.codec.VOCODER_WINDOW_S", 3.0)
    widths = {"decode": set(), "vocode": set()}
    networks, call = model.networks, GriffinLim.__call__
    decode = networks.decode_latents

    def watched_decode(latents):
        widths["decode"].add(latents.shape[-1])
        return decode(latents)

    def watched_call(self, log_mel, noise):
        widths["vocode"].add(log_mel.shape[-1])
        return call(self, log_mel, noise)

    monkeypatch.setattr(networks, "decode_latents", watched_decode)
    monkeypatch.setattr(GriffinLim, "__call__", watched_call)
    (sound,) = generate(model, [GenerateRequest("rain", 3)], dataclasses.replace(LONG, steps=1))
    assert len(sound.waveform) == 64000
    assert unet.widths == {16} and widths == {"decode": {16}, "vocode": {300}}
    assert np.isfinite(sound.waveform).all()


def test_without_a_bed_there_is_silence_between_the_regions(quick_model):
    request = TimelineRequest("", 1, "", "0.5-1.5s a dog; 3-4s rain")
    (sound,) = generate(quick_model, [request], LONG)
    level = sound.log_mel.mean(axis=0)  # (400,)
    silent = np.concatenate([level[:24], level[176:280]])
    loud = np.concatenate([level[66:134], level[316:]])
    assert silent.max() < loud.min() - 2


def test_words_only_change_their_own_region(tiny_model):
    def made(timeline, prompt="wind"):
        request = TimelineRequest(prompt, 1, "", timeline)
        return next(generate(tiny_model, [request], LONG)).log_mel

    one = made("0-1s a dog; 3-4s rain")
    other = made("0-1s a dog; 3-4s thunder")
    assert np.abs(one[:, 330:] - other[:, 330:]).mean() > 1e-4
    assert np.abs(one[:, :90] - other[:, :90]).mean() < 1e-4
    assert np.abs(made("0-4s rain", prompt="") - made("0-4s rain", prompt="a dog")).mean() > 1e-4


def test_a_bed_sounds_below_the_regions_as_it_would_alone(tiny_model):
    timeline = "0.5-1.5s a dog; 3-4s rain"
    regions, both = (
        next(generate(tiny_model, [TimelineRequest(bed, 1, "", timeline)], LONG)).log_mel
        for bed in ("", "wind")
    )
    bed = next(generate(tiny_model, [GenerateRequest("wind", 2)], LONG)).log_mel
    expected = np.logaddexp(2 * regions, 2 * bed) / 2
    np.testing.assert_allclose(both, expected, atol=2e-3)
    assert (both - regions).mean() > 0.1 and (both - bed).mean() > 0.1


@pytest.mark.parametrize("scheduler", ["pndm", "ddim", "dpm++", "unipc", "euler"])
def test_any_scheduler_can(quick_model, scheduler):
    settings = dataclasses.replace(LONG, scheduler=scheduler, duration_s=2.0)
    request = TimelineRequest("", 1, "", "0-1s a dog")
    (sound,) = generate(quick_model, [request], settings)
    level = sound.log_mel.mean(axis=0)
    assert level[140:].max() < level[10:80].min() - 2


def test_requests_with_other_timelines_or_none_are_batched_apart_and_stay_in_order(tiny_model):
    requests = [
        GenerateRequest("rain", 1),
        TimelineRequest("", 2, "", "0-1s a dog"),
        TimelineRequest("wind", 3, "", "0-1s a dog"),
        TimelineRequest("wind", 3, "", "0-1s a cat"),
        GenerateRequest("rain", 4),
    ]
    settings = dataclasses.replace(LONG, duration_s=1.28, steps=2)
    results = list(generate(tiny_model, requests, settings, batch_size=5))
    assert [result.request for result in results] == requests
    for index in (2, 4):
        (alone,) = generate(tiny_model, [requests[index]], settings)
        assert np.abs(results[index].waveform - alone.waveform).max() <= 1 / 32768


def test_the_record_makes_it_again(tiny_model, tmp_path):
    request = TimelineRequest("wind", 7, "music", "0-2s a dog; 1-4s rain ☔")
    (sound,) = generate(tiny_model, [request], dataclasses.replace(LONG, steps=2))
    sound.save(tmp_path / "a.wav")
    record = Provenance.from_dict(read_provenance(tmp_path / "a.wav"), "a.wav")
    assert record.request == request and record.settings.duration_s == 4.0
    assert reproduce(tiny_model, record, tmp_path / "a.wav").identical


def test_a_region_outside_of_the_sound_is_refused(tiny_model):
    request = TimelineRequest("", 1, "", "3-5s a dog")
    with pytest.raises(UsageError, match=r"the sound, which lasts 4\.000 s"):
        next(generate(tiny_model, [request], LONG))
    with pytest.raises(UsageError, match="--timeline"):
        TimelineRequest("wind", 1)
