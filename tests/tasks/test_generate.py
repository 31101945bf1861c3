"""Text to sound on tiny checkpoints: as the original, as diffusers, and as promised."""

import dataclasses
import shutil
import warnings

import numpy as np
import pytest
import torch

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.diffusion.denoiser import guided_denoiser
from auffusion_cli.diffusion.layers import LATEST_SHARE, SOFTER_DB
from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.diffusion.vocabulary import Vocabulary, sentences_of
from auffusion_cli.errors import AuffusionError, AuffusionWarning
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, TimelineRequest
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.signal.trim import Part
from auffusion_cli.tasks.generate import (
    GenerateFailure,
    decode,
    generate,
    generate_each,
    sample_latents,
)
from auffusion_cli.tasks.reproduce import reproduce
from auffusion_cli.tasks.timeline import silent_latent
from model_parts import with_parts

FAST = GenerateSettings(0.4, steps=2, guidance_scale=3.0, guidance_rescale=0.0, scheduler="ddim")


def test_the_golden_checkpoint_gives_what_the_original_gives(tiny_model, golden):
    expected = np.load(golden / "tiny-auffusion-expected.npz")
    request = GenerateRequest(str(expected["prompt"]), 0, str(expected["negative_prompt"]))
    settings = GenerateSettings(
        duration_s=float(expected["duration"]),
        steps=int(expected["num_inference_steps"]),
        guidance_scale=float(expected["guidance_scale"]),
        guidance_rescale=float(expected["guidance_rescale"]),
        scheduler="pndm",
    )
    # In one piece, as the original: the tiny model's own window is shorter.
    defaults = dataclasses.replace(tiny_model.defaults, max_duration_s=2.56)
    model = dataclasses.replace(tiny_model, defaults=defaults)
    noise = expected["latents"]
    latents = sample_latents(model, [request], settings, noise)

    log_mel = model.codec.decode_log_mel(latents)[0]
    np.testing.assert_allclose(log_mel, expected["log_mel"], atol=1e-3)
    audio = decode(model, latents, request, settings).waveform
    assert audio.shape == expected["audio"].shape
    np.testing.assert_allclose(audio, expected["audio"] / 32768, atol=0.002)


def test_the_steps_after_the_guided_ones_follow_the_prompt_alone(tiny_model, monkeypatch):
    n_rows = []
    predict = tiny_model.networks.predict

    def spy(latents, timestep, text):
        n_rows.append(len(latents))
        return predict(latents, timestep, text)

    monkeypatch.setattr(tiny_model.networks, "predict", spy)
    settings = dataclasses.replace(FAST, steps=4, guidance_until=0.75)
    (sound,) = generate(tiny_model, [GenerateRequest("dog", 0)], settings)
    assert n_rows == [2, 2, 2, 1]
    assert sound.provenance.to_dict()["guidance_until"] == 0.75


@pytest.mark.parametrize(
    ("duration_s", "windows_at_once", "widths"),
    [
        (2.4, 1, [16, 16, 16]),  # the tiny model's window has 16 columns
        (2.4, 2, [32]),
        (1.5, 2, [24]),  # a window and a half of one
        (1.2, 2, [16]),
        (3.0, 2, [32, 32]),
    ],
)
def test_the_unet_sees_several_windows_at_once(
    tiny_model, monkeypatch, duration_s, windows_at_once, widths
):
    seen = []
    predict = tiny_model.networks.predict

    def spy(latents, timestep, text):
        seen.append(latents.shape[-1])
        return predict(latents, timestep, text)

    monkeypatch.setattr(tiny_model.networks, "predict", spy)
    settings = dataclasses.replace(
        FAST, steps=1, duration_s=duration_s, windows_at_once=windows_at_once
    )
    (sound,) = generate(tiny_model, [GenerateRequest("dog", 0)], settings)
    assert seen == widths
    assert len(sound.waveform) == round(duration_s * 16_000)
    record = sound.provenance.to_dict()
    assert record.pop("windows_at_once") == windows_at_once
    assert Provenance.from_dict(record).settings.windows_at_once == 1  # as there was no other


@pytest.fixture
def model_with_words(tiny_model):
    """It knows dogs and rain, a background."""
    vocabulary = Vocabulary(
        kinds=("dog", "rain"),
        sentences=sentences_of(tiny_model.text, ["dog", "rain"]),
        kind_of=np.array([0, 1]),
        min_similarity=0.5,
        backgrounds=frozenset({"rain"}),
    )
    return dataclasses.replace(tiny_model, vocabulary=vocabulary)


def test_two_known_sounds_are_denoised_apart_and_mixed(tiny_model, model_with_words):
    model = model_with_words
    request = GenerateRequest("dog in rain", 7, "music")
    seen = []
    together, alone = generate(
        model,
        [request, GenerateRequest("dog", 7, "music")],
        FAST,
        batch_size=2,
        on_step=lambda batch, step: seen.append((batch, len(step.latents))),
    )
    assert seen == [([request, alone.request], 3)] * FAST.steps
    layers = [
        sample_latents(
            tiny_model,
            [GenerateRequest(prompt, seed, "music")],
            FAST,
            initial_noise([seed], tiny_model.latent_shape(FAST.duration_s)),
        )
        for prompt, seed in (("dog", 7), ("rain", 8))
    ]
    n_columns = round(LATEST_SHARE * FAST.duration_s / model.latent_column_s)
    assert 0 < n_columns < layers[0].shape[-1]
    silence = np.repeat(silent_latent(model), n_columns, axis=-1)
    late = np.concatenate([silence, layers[0][..., :-n_columns]], axis=-1)
    mixed = decode(
        model, np.concatenate([late, layers[1]]), request, FAST, gains_db=(0.0, SOFTER_DB)
    )
    np.testing.assert_allclose(together.waveform, mixed.waveform, atol=1e-4)
    np.testing.assert_allclose(
        alone.waveform, decode(model, layers[0], alone.request, FAST).waveform, atol=1e-4
    )


def test_nothing_is_encoded_where_no_sound_has_to_wait(tiny_model, monkeypatch):
    """Encoding silence takes seconds with a model of the published size."""
    monkeypatch.setattr(type(tiny_model), "encode", lambda self, view: pytest.fail("encoded"))
    (sound,) = generate(tiny_model, [GenerateRequest("dog", 0)], FAST)
    assert sound.waveform.any()


def test_a_loop_begins_with_all_its_sounds(model_with_words):
    """It has no start that one of them could wait for."""
    (loop,) = generate(model_with_words, [GenerateRequest("dog in rain", 7, loop=True)], FAST)
    assert loop.provenance.layers == ("dog", "rain")
    n = loop.log_mel.shape[-1] // 4
    (plain,) = generate(model_with_words, [GenerateRequest("dog in rain", 7)], FAST)
    assert np.abs(loop.log_mel[:, :n] - plain.log_mel[:, :n]).max() > 0.1


def test_sounds_that_follow_each_other_are_a_timeline(model_with_words):
    settings = dataclasses.replace(FAST, duration_s=1.2)
    then = GenerateRequest("dog, then rain", 7, "music", trim=True)
    seen = []
    results = generate(
        model_with_words,
        [then, GenerateRequest("dog", 7), GenerateRequest("rain after dog", 7, "music")],
        settings,
        batch_size=3,
        on_step=lambda batch, step: seen.append(batch),
    )
    one, _, other = results
    assert one.request is then and seen[0] == [then]
    assert one.provenance.layers == ("dog", "rain")
    timeline = TimelineRequest("", 7, "music", timeline="0-0.6s dog; 0.6s- rain")
    (by_hand,) = generate(model_with_words, [timeline], settings)
    np.testing.assert_allclose(one.log_mel, by_hand.log_mel, atol=1e-3)
    np.testing.assert_allclose(other.waveform, by_hand.waveform, atol=1e-4)


def test_of_sounds_that_follow_each_other_none_is_left_out(model_with_words):
    settings = dataclasses.replace(FAST, duration_s=1.2)
    request = GenerateRequest("dog, then rain", 7, trim=True)
    one_event = dataclasses.replace(request, one_shot=True)
    whole, kept = generate(model_with_words, [request, one_event], settings, batch_size=1)
    assert kept.provenance.layers == ("dog", "rain") and kept.request is one_event
    np.testing.assert_array_equal(kept.waveform, whole.waveform)


@pytest.mark.parametrize(("duration_s", "loop"), [(0.9, False), (1.2, True)])
def test_a_sequence_that_is_too_short_or_a_loop_is_made_in_one(model_with_words, duration_s, loop):
    settings = dataclasses.replace(FAST, duration_s=duration_s)
    request = GenerateRequest("dog, then rain", 7, loop=loop)
    (sound,) = generate(model_with_words, [request], settings)
    assert sound.provenance.layers == ()


@pytest.fixture(scope="module")
def stable_diffusion(golden, tmp_path_factory):
    """(pipeline, the folder it was saved to), of the golden checkpoint's parts."""
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    source = golden / "tiny-auffusion"
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(source / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(source / "text_encoder_0"),
        tokenizer=CLIPTokenizer.from_pretrained(source / "text_encoder_0"),
        unet=UNet2DConditionModel.from_pretrained(source / "unet"),
        scheduler=PNDMScheduler.from_pretrained(source / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("stable-diffusion")
    pipeline.save_pretrained(folder)
    shutil.copytree(source / "vocoder", folder / "vocoder")
    return pipeline, folder


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("pndm", "PNDMScheduler"),
        ("ddim", "DDIMScheduler"),
        ("dpm++", "DPMSolverMultistepScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
    ],
)
def test_the_stable_diffusion_layout_gives_what_diffusers_gives(stable_diffusion, name, class_name):
    import diffusers

    pipeline, folder = stable_diffusion
    config = {**pipeline.scheduler.config, "clip_sample": False}
    theirs = diffusers.StableDiffusionPipeline(
        **pipeline.components | {"scheduler": getattr(diffusers, class_name).from_config(config)},
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    noise = Noise(0).normal((1, 4, 32, 16))
    prompt, negative = "dog barking in rain", "music"
    expected = theirs(
        prompt,
        negative_prompt=negative,
        latents=torch.from_numpy(noise),
        height=256,
        width=128,
        num_inference_steps=5,
        guidance_scale=7.5,
        guidance_rescale=0.3,
        output_type="np",
    ).images[0]

    model = load_model(str(folder), device="cpu")
    denoise = guided_denoiser(
        model.networks.predict, model.text.encode([prompt], [negative]), 7.5, 0.3
    )
    scheduler = make_scheduler(name, model.scheduler_config)
    *_, last = sample(denoise, scheduler, noise, 5)
    autoencoder = model.networks.autoencoder
    with torch.no_grad():
        image = autoencoder.decode(torch.from_numpy(last.latents))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(image, expected, atol=1e-4)


def requests(n):
    return [GenerateRequest(f"sound {i}", seed=10 + i) for i in range(n)]


def test_a_sound_depends_on_its_seed_and_words_but_not_on_its_company(tiny_model):
    alone = [next(generate(tiny_model, [request], FAST)) for request in requests(3)]
    turned = list(generate(tiny_model, reversed(requests(3)), FAST, batch_size=1))[::-1]
    together = list(generate(tiny_model, requests(3), FAST, batch_size=3))
    for a, b, c in zip(alone, turned, together, strict=True):
        assert np.array_equal(a.waveform, b.waveform)
        # A larger matrix product may round differently: at most one step of 16-bit audio.
        assert np.abs(a.waveform - c.waveform).max() <= 1 / 32768
    assert not np.array_equal(alone[0].waveform, alone[1].waveform)
    other_seed = dataclasses.replace(requests(1)[0], seed=11)
    assert not np.array_equal(
        next(generate(tiny_model, [other_seed], FAST)).waveform, alone[0].waveform
    )


def test_a_shorter_sound_is_the_start_of_the_longer_one(tiny_model):
    longer = dataclasses.replace(FAST, duration_s=1.0)
    (short,) = generate(tiny_model, requests(1), FAST)
    (long,) = generate(tiny_model, requests(1), longer)
    assert short.waveform.shape == (6400,) and long.waveform.shape == (16000,)
    assert short.log_mel.shape == (256, 40)
    assert np.array_equal(long.waveform[:6400], short.waveform)


def test_progress_is_told_step_by_step(tiny_model):
    seen = []
    list(
        generate(
            tiny_model,
            requests(3),
            FAST,
            batch_size=2,
            on_step=lambda batch, step: seen.append((len(batch), step.index, step.n_steps)),
        )
    )
    assert seen == [(2, 0, 2), (2, 1, 2), (1, 0, 2), (1, 1, 2)]


class CrampedUNet(torch.nn.Module):
    """A GPU with room for `rows` rows of latents."""

    def __init__(self, unet, rows):
        super().__init__()
        self.unet, self.rows, self.seen = unet, rows, []

    def forward(self, latents, *args, **kwargs):
        self.seen.append(len(latents))
        if len(latents) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.unet(latents, *args, **kwargs)


def test_out_of_memory_halves_the_batch_and_loses_nothing(tiny_model):
    unet = CrampedUNet(tiny_model.networks.unet, rows=4)  # 2 sounds, guided
    model = with_parts(tiny_model, unet=unet)
    with pytest.warns(AuffusionWarning, match="batches of 4") as warned:
        results = list(generate(model, requests(9), FAST, batch_size=8))
    assert len(warned) == 2  # 8 -> 4 -> 2, and then it stays there
    assert [result.request for result in results] == requests(9)
    assert unet.seen == [16, 8] + [4, 4] * 4 + [2, 2]
    (expected,) = generate(tiny_model, requests(1), FAST)
    assert np.abs(results[0].waveform - expected.waveform).max() <= 1 / 32768


def test_too_little_memory_for_one_sound_is_an_error_that_says_what_to_try(tiny_model):
    model = with_parts(tiny_model, unet=CrampedUNet(tiny_model.networks.unet, rows=1))
    with warnings.catch_warnings(), pytest.raises(AuffusionError, match="one sound") as error:
        warnings.simplefilter("ignore", AuffusionWarning)
        list(generate(model, requests(4), FAST, batch_size=4))
    assert "--dtype" in error.value.hint


def test_one_bad_request_does_not_lose_the_others(tiny_model, monkeypatch):
    encode = type(tiny_model.text).encode

    def fail_on_one(self, prompts, negative_prompts=None):
        if "sound 1" in prompts:
            raise ValueError("no such word")
        return encode(self, prompts, negative_prompts)

    monkeypatch.setattr(type(tiny_model.text), "encode", fail_on_one)
    results = list(generate_each(tiny_model, requests(4), FAST, batch_size=3))
    assert [result.request for result in results] == requests(4)
    assert [isinstance(result, GenerateFailure) for result in results] == [
        False,
        True,
        False,
        False,
    ]
    assert str(results[1].error) == "no such word"
    with pytest.raises(ValueError, match="no such word"):
        list(generate(tiny_model, requests(4), FAST))


def test_a_sound_that_is_not_finite_is_not_handed_out(tiny_model):
    latents = np.full((1, *tiny_model.codec.latent_shape(1.0)), np.nan, np.float32)
    with pytest.raises(AuffusionError, match="not finite in fp32"):
        decode(tiny_model, latents, requests(1)[0], FAST)


def test_what_is_louder_than_full_scale_is_made_softer_not_clipped(tiny_model, monkeypatch):
    codec = tiny_model.codec
    latents = np.zeros((1, *codec.latent_shape(FAST.duration_s)), np.float32)
    monkeypatch.setattr(codec, "vocode", lambda *_: np.linspace(-3, 3, 6400)[None])
    waveform = decode(tiny_model, latents, GenerateRequest("rain", seed=1), FAST).waveform
    np.testing.assert_allclose(waveform, np.linspace(-1, 1, 6400), atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_saved_sound_can_be_made_again_from_its_file_alone(tiny_model, tmp_path, suffix):
    request = GenerateRequest("dog barking in rain ☔", 5, "music")
    (result,) = generate(tiny_model, [request], FAST)
    path = tmp_path / f"sound.{suffix}"
    result.save(path)
    record = Provenance.from_dict(read_provenance(path), str(path))
    assert record == result.provenance
    assert (record.request, record.settings) == (request, FAST)

    again = reproduce(tiny_model, record, path)
    assert again.identical and again.differences == {}
    assert again.max_difference is None or again.max_difference < (
        2 / 32768 if suffix in ("wav", "flac") else 1
    )


def test_a_trimmed_sound_is_a_part_of_the_window_and_can_be_made_again(tiny_model, tmp_path):
    window_s = tiny_model.defaults.max_duration_s
    whole = dataclasses.replace(FAST, duration_s=window_s)
    short = dataclasses.replace(FAST, duration_s=window_s / 4)
    request = GenerateRequest("dog barking", 5, trim=True)
    (untrimmed,) = generate(tiny_model, [request], whole)  # as long as the window: all of it
    (result,) = generate(tiny_model, [request], short)
    n, start = len(result.waveform), result.part.start
    assert n == round(short.duration_s * 16_000)
    middle = slice(n // 4, n // 2)
    kept = untrimmed.waveform[start:][middle]
    scale = np.linalg.norm(result.waveform[middle]) / np.linalg.norm(kept)
    np.testing.assert_allclose(result.waveform[middle], kept * scale, atol=1e-4, rtol=1e-3)
    columns = untrimmed.log_mel[:, start // 160 :][:, : result.log_mel.shape[1]]
    assert np.array_equal(result.log_mel[:, : columns.shape[1]], columns)

    result.save(tmp_path / "sound.wav")
    record = Provenance.from_dict(read_provenance(tmp_path / "sound.wav"))
    assert record.request == request
    assert reproduce(tiny_model, record, tmp_path / "sound.wav").identical


def test_a_one_shot_is_one_event_and_can_be_made_again(tiny_model, tmp_path, monkeypatch):
    """Random weights make no events, so that one is found for them."""
    found = Part(start=1_600, n_samples=3_200)
    monkeypatch.setattr("auffusion_cli.tasks.generate.find_event", lambda *_: found)
    request = GenerateRequest("dog barking", 5, trim=True, one_shot=True)
    longest = dataclasses.replace(FAST, duration_s=tiny_model.defaults.max_duration_s)
    (result,) = generate(tiny_model, [request], longest)
    assert result.part == found and result.waveform.shape == (3_200,)
    assert result.log_mel.shape[1] == 20
    result.save(tmp_path / "sound.wav")
    record = Provenance.from_dict(read_provenance(tmp_path / "sound.wav"))
    assert record.request == request and record.settings == longest
    assert reproduce(tiny_model, record, tmp_path / "sound.wav").identical


def test_a_record_from_before_sounds_were_trimmed_is_of_the_windows_start(tiny_model):
    (result,) = generate(tiny_model, requests(1), FAST)
    record = result.provenance.to_dict()
    del record["trim"]
    assert Provenance.from_dict(record) == result.provenance
    assert result.part.start == 0 and not result.request.trim


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("change", ["softer", "cut"])
def test_a_file_that_was_changed_is_not_called_identical(tiny_model, tmp_path, suffix, change):
    """As an editor does it that keeps the record."""
    (result,) = generate(tiny_model, [GenerateRequest("dog", 5)], FAST)
    path = tmp_path / f"sound.{suffix}"
    n = len(result.waveform)
    changed = result.waveform * 0.1 if change == "softer" else result.waveform[: n // 4]
    dataclasses.replace(result, waveform=changed).save(path)
    again = reproduce(tiny_model, result.provenance, path)
    assert again.result.provenance.samples_sha256 == result.provenance.samples_sha256
    assert again.file_changed and not again.identical


def test_reproducing_with_other_weights_or_words_is_told_apart(tiny_model, tmp_path):
    (result,) = generate(tiny_model, requests(1), FAST)
    path = tmp_path / "sound.wav"
    result.save(path)
    forged = dataclasses.replace(
        result.provenance,
        request=dataclasses.replace(result.request, prompt="something else"),
        device="cuda",
    )
    again = reproduce(tiny_model, forged, path)
    assert not again.identical
    assert again.max_difference > 0
    assert again.differences == {"device": ("cuda", "cpu")}


def test_reproducing_a_sound_of_an_earlier_griffin_lim_names_it(quick_model, tmp_path):
    (result,) = generate(quick_model, requests(1), FAST)
    path = tmp_path / "sound.wav"
    result.save(path)
    earlier = dict(result.provenance.versions)
    version = earlier.pop("griffin-lim")
    recorded = dataclasses.replace(result.provenance, versions=earlier)
    assert reproduce(quick_model, recorded, path).differences == {"griffin-lim": ("None", version)}


def test_a_file_that_was_cut_was_changed_and_has_no_difference(tiny_model, tmp_path):
    from auffusion_cli.signal.audio import write_audio

    (result,) = generate(tiny_model, requests(1), FAST)
    path = tmp_path / "cut.wav"
    write_audio(path, result.waveform[:100], 16000)
    again = reproduce(tiny_model, result.provenance, path)
    assert again.file_changed and not again.identical and again.max_difference is None
    assert read_audio(path)[0].shape == (1, 100)


def test_a_sound_is_made_near_to_that_of_another_seed(tiny_model, tmp_path):
    def log_mel(seed, **near):
        (made,) = generate(tiny_model, [GenerateRequest("rain", seed, **near)], FAST)
        return made.log_mel

    assert np.array_equal(log_mel(1, near_seed=2, nearness=0.0), log_mel(1))
    assert np.array_equal(log_mel(1, near_seed=2, nearness=1.0), log_mel(2))
    far, near = (
        np.abs(log_mel(1, near_seed=2, nearness=n) - log_mel(2)).mean() for n in (0.3, 0.9)
    )
    assert near < far
    requests = [GenerateRequest("rain", 1, near_seed=2, nearness=0.5), GenerateRequest("rain", 3)]
    together = list(generate(tiny_model, requests, FAST, batch_size=2))
    alone = log_mel(1, near_seed=2, nearness=0.5)
    np.testing.assert_allclose(together[0].log_mel, alone, atol=1e-4)
    together[0].save(tmp_path / "near.wav")
    assert Provenance.from_dict(read_provenance(tmp_path / "near.wav")).request == requests[0]


def test_on_a_timeline_the_bed_is_near_to_the_others_bed(tiny_model):
    def log_mel(seed, **near):
        request = TimelineRequest("wind", seed, timeline="0-1s rain", **near)
        (made,) = generate(tiny_model, [request], dataclasses.replace(FAST, duration_s=1.0))
        return made.log_mel

    assert np.array_equal(log_mel(1, near_seed=5, nearness=1.0), log_mel(5))
