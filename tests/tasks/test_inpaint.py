"""What is masked is new, what is not is untouched, and nothing clicks in between."""

import dataclasses
import warnings

import numpy as np
import pytest
import soundfile

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.diffusion.samplers import keep_known, sample
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.errors import AuffusionAdvice, UsageError
from auffusion_cli.requests.masks import Span
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import GenerateSettings, InpaintRequest
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.recording import read_recording, to_full_scale
from auffusion_cli.signal.sound_file import read_provenance
from auffusion_cli.tasks import inpaint as inpaint_module
from auffusion_cli.tasks.inpaint import inpaint, warn_of_tight_masks
from auffusion_cli.tasks.reproduce import reproduce

FAST = GenerateSettings(1.0, steps=2, guidance_scale=3.0, guidance_rescale=0.0, scheduler="ddim")


def write_clip(path, rate_hz, n_channels, subtype, duration_s=2.0, seed=0):
    """Rustling with a slow swell, as unlike in the channels as samples can be."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    swell = 0.1 * (1.2 + np.sin(5 * t))[:, None]
    sound = swell * rng.normal(size=(len(t), n_channels)).clip(-3, 3)
    soundfile.write(path, sound, rate_hz, subtype=subtype)
    return read_recording(path)


def request(recording, **values):
    return InpaintRequest("clip.wav", recording.sha256, seed=1, **values)


def changed(before, after):
    """(first, last + 1) sample that differs in any channel."""
    different = np.flatnonzero((before != after).any(axis=1))
    return (different[0], different[-1] + 1) if len(different) else None


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate_hz", "n_channels", "dtype"),
    [
        ("wav", "PCM_24", 48000, 2, "int32"),
        ("wav", "PCM_16", 44100, 1, "int32"),
        ("wav", "PCM_U8", 16000, 1, "int32"),
        ("wav", "PCM_32", 16000, 3, "int32"),
        ("wav", "FLOAT", 22050, 2, "float32"),
        ("wav", "DOUBLE", 16000, 1, "float64"),
        ("flac", "PCM_24", 48000, 2, "int32"),
        ("flac", "PCM_16", 96000, 1, "int32"),
    ],
)
def test_outside_of_the_mask_every_bit_stays(
    quick_model, tmp_path, suffix, subtype, rate_hz, n_channels, dtype
):
    clip = write_clip(tmp_path / f"clip.{suffix}", rate_hz, n_channels, subtype)
    result = inpaint(quick_model, clip, request(clip, masks=("0.5-0.9s",)), FAST)
    result.save(tmp_path / f"new.{suffix}")

    before, _ = soundfile.read(tmp_path / f"clip.{suffix}", dtype=dtype, always_2d=True)
    after, rate = soundfile.read(tmp_path / f"new.{suffix}", dtype=dtype, always_2d=True)
    assert (rate, after.shape) == (rate_hz, before.shape)
    assert soundfile.info(tmp_path / f"new.{suffix}").subtype == subtype
    start, end = round(0.5 * rate_hz), round(0.9 * rate_hz)
    assert np.array_equal(after[:start], before[:start])
    assert np.array_equal(after[end:], before[end:])
    # And inside, all of it is new but for the first samples of the cross-fade.
    inside = (after[start + 50 : end - 50] != before[start + 50 : end - 50]).mean()
    assert inside > (0.8 if subtype == "PCM_U8" else 0.99)


@pytest.mark.parametrize(
    ("masks", "expected_s"),
    [(("-0.3s",), (0, 0.3)), (("1.7-",), (1.7, 2.0)), (("0.2-0.3", "1.9-"), (0.2, 2.0))],
)
def test_masks_at_the_ends(quick_model, tmp_path, masks, expected_s):
    clip = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16")
    result = inpaint(quick_model, clip, request(clip, masks=masks), FAST)
    first, last = changed(clip.samples, result.recording.samples)
    assert abs(first / 16000 - expected_s[0]) < 0.002
    assert abs(last / 16000 - expected_s[1]) < 0.002


def test_a_long_mask_is_filled_window_by_window_to_its_end(quick_model, tmp_path):
    """4.5 s of mask for a model that sees 1.28 s: no part of the old sound is left between."""
    clip = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16", duration_s=6.0)
    tone = 0.5 * np.sin(2 * np.pi * 6000 * np.arange(96000) / 16000)
    samples = clip.samples.copy()
    samples[11200:76800, 0] = clip.quantize(tone[11200:76800])
    clip = dataclasses.replace(clip, samples=samples)
    seen = []
    result = inpaint(
        quick_model,
        clip,
        request(clip, masks=("0.5-5s",)),
        FAST,
        on_progress=lambda n_done, n: seen.append((n_done, n)),
    )
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))] and len(seen) > 8
    after = to_full_scale(result.recording.samples)[:, 0]
    assert np.array_equal(result.recording.samples[:8000], samples[:8000])
    assert np.array_equal(result.recording.samples[80000:], samples[80000:])

    def tone_level(x):  # of every 50 ms
        frames = x[8000:80000].reshape(-1, 800) * np.exp(
            -2j * np.pi * 6000 / 16000 * np.arange(800)
        )
        return np.abs(frames.mean(axis=1))

    assert tone_level(tone).max() > 0.2
    assert tone_level(after).max() < 0.05


@pytest.mark.parametrize("bands", [(), ("1k-3k",)])
def test_what_is_new_is_never_louder_than_the_recording(quick_model, tmp_path, monkeypatch, bands):
    """Here what the model makes swells to 20 dB above what is around it, in two windows."""
    make = inpaint_module._make

    def make_loudly(*args):
        made = make(*args)
        return made * (1 + 9 * np.sin(np.linspace(0, np.pi, len(made))))[:, None]

    monkeypatch.setattr(inpaint_module, "_make", make_loudly)
    clip = write_clip(tmp_path / "clip.wav", 16000, 2, "PCM_24", duration_s=3.0)
    result = inpaint(quick_model, clip, request(clip, masks=("1-2.2s",), bands=bands), FAST)
    assert 5 < result.provenance.gain_reduction_db < 30

    def loudest_db(samples, n):
        """In the band."""
        spectrum = np.fft.rfft(samples, axis=0)
        hz = np.fft.rfftfreq(len(samples), 1 / 16000)
        spectrum[(hz < 1000) | (hz > 3000)] *= not bands
        samples = np.fft.irfft(spectrum, len(samples), axis=0)
        sums = np.concatenate([[0], np.cumsum((samples**2).mean(axis=1))])
        return 10 * np.log10((sums[n:] - sums[:-n]).max() / n)

    before, after = to_full_scale(clip.samples), to_full_scale(result.recording.samples)
    for n in (1600, 6400):
        assert loudest_db(after[16000:35200], n) <= loudest_db(before, n) + 0.5


def test_the_background_stays_where_a_loud_event_is_turned_down(quick_model, tmp_path, monkeypatch):
    def make_bang(model, known, *_):
        made = np.zeros_like(known)
        made[len(made) // 2 : len(made) // 2 + 800] = 4.0
        return made

    monkeypatch.setattr(inpaint_module, "_make", make_bang)
    noise = 0.1 * np.random.default_rng(0).normal(size=(48000, 1)).clip(-3, 3)
    soundfile.write(tmp_path / "clip.wav", noise, 16000, subtype="PCM_24")
    clip = read_recording(tmp_path / "clip.wav")
    result = inpaint(quick_model, clip, request(clip, masks=("1-2s",)), FAST)
    assert result.provenance.gain_reduction_db > 10
    filled = to_full_scale(result.recording.samples)[16000:32000].reshape(-1, 1600)
    levels_db = 20 * np.log10(np.sqrt((filled**2).mean(axis=1)) / 0.1)
    assert levels_db.min() > -5


def test_a_band_leaves_the_other_frequencies(quick_model, tmp_path):
    clip = write_clip(tmp_path / "clip.wav", 48000, 2, "FLOAT")
    values = {"masks": ("0.5-1.5s",), "bands": ("1k-3k",)}
    result = inpaint(quick_model, clip, request(clip, **values), FAST)
    difference = result.recording.samples - clip.samples
    assert changed(clip.samples, result.recording.samples)[0] >= 24000
    inner = difference[28800:67200, 0] * np.hanning(38400)  # without the cross-fades
    power = np.abs(np.fft.rfft(inner)) ** 2
    hz = np.fft.rfftfreq(38400, 1 / 48000)
    inside = (hz >= 1000) & (hz <= 3000)
    assert power[inside].sum() > 0
    assert power[~inside].sum() < 1e-5 * power[inside].sum()


def test_seams_do_not_click(quick_model, tmp_path):
    """A click is a jump between two samples, or a burst of high frequencies, at the seam."""
    t = np.arange(48000 * 2) / 48000
    tone = 0.3 * np.sin(2 * np.pi * 200 * t)[:, None]
    soundfile.write(tmp_path / "clip.wav", tone, 48000, subtype="PCM_24")
    clip = read_recording(tmp_path / "clip.wav")
    # With a prompt, so that what is new is no tone that would hide a bad seam.
    asked = request(clip, masks=("0.7-1.2s",), prompt="a dog")
    result = inpaint(quick_model, clip, asked, FAST)
    after = to_full_scale(result.recording.samples)[:, 0]

    jumps = np.abs(np.diff(after))
    bursts = np.abs(np.diff(after, n=3))
    for seam in (round(0.7 * 48000), round(1.2 * 48000)):
        near = slice(seam - 48, seam + 48)  # 1 ms on both sides
        around = np.concatenate([jumps[seam - 4800 : near.start], jumps[near.stop : seam + 4800]])
        assert jumps[near].max() <= 1.1 * around.max()
        # Hard cuts between the same two sounds, for comparison.
        cut = np.concatenate([tone[: seam - 24000, 0], after[seam - 24000 + 1200 :]])
        assert bursts[near].max() < 0.3 * np.abs(np.diff(cut, n=3)).max() + bursts[:24000].max()


def test_the_new_sound_is_as_loud_as_what_surrounds_it_in_each_channel(
    tiny_model, quick_model, tmp_path
):
    clip = write_clip(tmp_path / "clip.wav", 32000, 2, "PCM_24")
    samples = clip.samples.copy()
    samples[:, 1] //= 8
    samples[19200:25600] = 0  # what is there does not count
    clip = dataclasses.replace(clip, samples=samples)
    result = inpaint(quick_model, clip, request(clip, masks=("0.6-0.8s",)), FAST)
    after = to_full_scale(result.recording.samples)
    inside = after[20000:25000].std(axis=0)
    assert inside[0] / inside[1] == pytest.approx(8, rel=0.1)
    assert 0.2 < inside[0] / after[:19200, 0].std() < 5


def test_silence_around_gives_the_models_own_level(quick_model, tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(16000), 16000)
    clip = read_recording(tmp_path / "clip.wav")
    result = inpaint(quick_model, clip, request(clip, masks=("0.3-0.6s",), prompt="a dog"), FAST)
    assert to_full_scale(result.recording.samples)[5300:9000].std() > 1e-4


def test_the_seed_decides_and_the_record_makes_it_again(quick_model, tmp_path):
    clip = write_clip(tmp_path / "clip.wav", 24000, 2, "PCM_24")
    asked = request(clip, masks=("0.5-0.9s",), bands=("1k-",), prompt="a dog")
    result = inpaint(quick_model, clip, asked, FAST)
    other = inpaint(quick_model, clip, dataclasses.replace(asked, seed=2), FAST)
    assert not np.array_equal(result.recording.samples, other.recording.samples)

    path = tmp_path / "new.wav"
    result.save(path)
    record = Provenance.from_dict(read_provenance(path), str(path))
    assert record.request == asked
    again = reproduce(quick_model, record, path)
    assert again.identical and again.max_difference == 0 and again.n_samples == 48000

    write_clip(tmp_path / "clip.wav", 24000, 2, "PCM_24", seed=1)
    with pytest.raises(UsageError, match="SHA-256 differs"):
        reproduce(quick_model, record, path)
    (tmp_path / "clip.wav").unlink()
    with pytest.raises(UsageError, match="not there"):
        reproduce(quick_model, record, path)
    path = path.rename(tmp_path / "clip.wav")
    with pytest.raises(UsageError, match="is the sound itself"):
        reproduce(quick_model, record, path)


def test_masks_are_checked_against_the_clip(quick_model, tmp_path):
    clip = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16")
    with pytest.raises(UsageError, match=r"2\.000 s"):
        inpaint(quick_model, clip, request(clip, masks=("3-4s",)), FAST)
    slow = dataclasses.replace(FAST, scheduler="pndm")
    with pytest.raises(UsageError, match="--resample 2"):
        inpaint(quick_model, clip, request(clip, masks=("1-2s",), resample=2), slow)


def test_without_a_prompt_a_hole_begins_as_the_sound_around_it(quick_model, tmp_path, monkeypatch):
    begun = []

    def watched(denoise, scheduler, noise, n_steps, *, clean, first_step, **options):
        begun.append((clean, first_step))
        return sample(
            denoise, scheduler, noise, n_steps, clean=clean, first_step=first_step, **options
        )

    monkeypatch.setattr(inpaint_module, "sample", watched)
    source = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16")
    for prompt in ("", "a dog"):
        asked = request(source, masks=("1-1.2s",), prompt=prompt)
        inpaint(quick_model, source, asked, dataclasses.replace(FAST, steps=5))
    (unprompted, first_step), with_prompt = begun
    assert first_step == 3 and unprompted is not None
    assert with_prompt == (None, 0)


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("prompt", ["", "a dog"])
def test_one_step_is_enough(quick_model, tmp_path, scheduler, prompt):
    source = write_clip(tmp_path / "clip.wav", 16000, 1, "PCM_16")
    asked = request(source, masks=("1-1.2s",), prompt=prompt)
    settings = dataclasses.replace(FAST, steps=1, scheduler=scheduler)
    result = inpaint(quick_model, source, asked, settings)
    assert changed(source.samples, result.recording.samples) is not None


def test_resampling_visits_each_step_but_the_last_again_and_stays_at_its_noise_level(tiny_model):
    """With an oracle for the noise, the state must be led to what the oracle knows."""
    scheduler = make_scheduler("ddim", tiny_model.scheduler_config)
    known = Noise(0).normal((1, 4, 8, 16))
    noise = Noise(1).normal((1, 4, 8, 16))
    mask = np.zeros((1, 1, 8, 16), np.float32)
    mask[..., 4:12] = 1
    seen = []

    def oracle(latents, timestep):
        alpha = float(scheduler.alphas_bar[timestep])
        guess = (latents - alpha**0.5 * known) / (1 - alpha) ** 0.5
        seen.append((int(timestep), guess[..., 4:12].std().item()))
        return guess

    keep = keep_known(known, noise, mask, scheduler, Noise(2))
    *_, last = sample(oracle, scheduler, noise, 5, after_step=keep, visits=3)
    timesteps = [timestep for timestep, _ in seen]
    assert timesteps == [t for t in sorted(set(timesteps), reverse=True) for _ in range(3)][:13]
    # The part that is made is always noised as much as its time step says.
    assert all(0.9 < spread < 1.1 for _, spread in seen)
    assert np.abs(last.latents - known).max() < 0.3
    assert np.array_equal(last.latents * (1 - mask), known * (1 - mask))


def warnings_of(tmp_path, samples, mask):
    soundfile.write(tmp_path / "clip.wav", samples[:, None], 16000, subtype="PCM_24")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_tight_masks(read_recording(tmp_path / "clip.wav"), [Span(*mask)], 0.02)
    return [str(each.message) for each in told if each.category is AuffusionAdvice]


@pytest.mark.parametrize("background", [0.0, 0.003])
def test_a_mask_that_begins_within_a_sound_is_warned_of(tmp_path, background):
    rng = np.random.default_rng(0)
    samples = background * rng.normal(size=48000)
    samples[16000:24000] += 0.1 * rng.normal(size=8000)  # an event from 1 to 1.5 s
    (told,) = warnings_of(tmp_path, samples, (1.2, 2.0))
    assert "the mask at 1.2 s lies within a sound" in told and "start it earlier" in told
    (told,) = warnings_of(tmp_path, samples, (0.5, 1.2))
    assert "the mask at 1.2 s lies within a sound" in told and "end it later" in told
    assert warnings_of(tmp_path, samples, (0.9, 1.6)) == []


def test_a_mask_in_a_steady_sound_is_not_warned_of(tmp_path):
    samples = 0.1 * np.random.default_rng(0).normal(size=48000).clip(-3, 3)
    assert warnings_of(tmp_path, samples, (1.2, 2.0)) == []
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 16000)
    assert warnings_of(tmp_path, tone, (1.2, 2.0)) == []
