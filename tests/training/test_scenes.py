"""Scenes: the same seed gives the same one, its sound is in the window, its caption is true."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.training import scenes
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.data import Clip
from auffusion_cli.training.scenes import compose, lay_alone

RATE_HZ = 16000
MIXED = SceneConfig(
    duration_s=2.0, mix_probability=0.5, phrase_probability=0.5, max_repeats=4, pitch_range=0.1
)
ALWAYS = replace(MIXED, mix_probability=1.0)


def tone(frequency_hz: float, duration_s: float) -> torch.Tensor:
    return torch.sin(torch.arange(round(duration_s * RATE_HZ)) * (6.2832 * frequency_hz / RATE_HZ))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two dogs, a horn, a bell, rain, a hum: each at a pitch of its own."""
    folder = tmp_path_factory.mktemp("clips")
    specs = [
        ("dog", "event", 300, 0.2, ("A dog barks.",), ("dog barking", "a dog barking")),
        ("dog", "event", 330, 0.3, ("A dog barks twice.",), ("two dog barks",)),
        ("horn", "event", 800, 0.5, ("A car horn honks.",), ("car horn",)),
        ("bell", "event", 1500, 5.0, ("A bell rings.",), ("bell ringing",)),
        ("rain", "background", 3000, 0.7, ("Rain falls.",), ("rain", "heavy rain")),
        ("hum", "background", 5000, 4.0, ("A fridge hums.",), ("fridge humming",)),
    ]
    made = []
    for index, (kind, role, frequency_hz, duration_s, captions, phrases) in enumerate(specs):
        path = folder / f"{index}.wav"
        soundfile.write(path, 0.3 * tone(frequency_hz, duration_s).numpy(), RATE_HZ)
        made.append(Clip(path, captions, phrases, kind, role))
    return tuple(made)


@pytest.fixture(scope="module")
def store(clips):
    return ClipStore(clips, RATE_HZ)


@pytest.fixture(scope="module")
def plain_store(clips):
    """The same clips as a general data set has them: no phrases, kinds or roles."""
    return ClipStore([Clip(clip.path, clip.captions) for clip in clips], RATE_HZ)


def active(waveform, level=0.01):
    """The samples around which something sounds."""
    return torch.nn.functional.max_pool1d(waveform.abs()[None], 81, 1, 40)[0] > level


PITCHES_HZ = {"dog": 315, "horn": 800, "bell": 1500, "rain": 3000, "hum": 5000}


def levels(waveform):
    """Each kind's level over time, by the pitch of its clips (10 % and two bins to each side)."""
    spectrogram = torch.stft(
        waveform, 512, 128, window=torch.hann_window(512), return_complex=True
    ).abs()
    bands = {
        kind: slice(int(hz * 0.9 / 31.25) - 1, int(hz * 1.1 / 31.25) + 3)
        for kind, hz in PITCHES_HZ.items()
    }
    return {kind: spectrogram[band].amax(0) for kind, band in bands.items()}


def kinds_heard(waveform):
    loudest = {kind: float(level.max()) for kind, level in levels(waveform).items()}
    return {kind for kind, level in loudest.items() if level > 0.05 * max(loudest.values())}


@settings(max_examples=30)
@given(seed=st.integers(0, 2**64))
def test_a_scene_depends_on_nothing_but_its_arguments(store, clips, seed):
    scene = compose(store, MIXED, seed)
    compose(store, MIXED, seed + 1)
    again = compose(ClipStore(clips, RATE_HZ, memory_bytes=0), MIXED, seed)
    assert torch.equal(scene.waveform, again.waveform)
    assert (scene.caption, scene.kinds) == (again.caption, again.kinds)
    assert scene.waveform.shape == (32000,)
    assert scene.waveform.dtype == torch.float32
    assert float(scene.waveform.abs().max()) == pytest.approx(0.95, abs=1e-5)


def test_scenes_differ_from_seed_to_seed(store):
    assert len({compose(store, MIXED, seed).waveform.sum().item() for seed in range(50)}) > 45


def test_global_randomness_is_neither_used_nor_touched(store):
    random.seed(1)
    torch.manual_seed(1)
    state = random.getstate(), torch.get_rng_state()
    compose(store, ALWAYS, 3)
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])


def test_without_mixing_a_scene_is_the_clip(plain_store, clips):
    config = SceneConfig(duration_s=2.0)
    scene = compose(plain_store, config, seed=0, clip=2)
    assert scene.caption == "A car horn honks."
    assert scene.kinds == ()
    assert torch.allclose(scene.waveform[:8000] / 0.95, plain_store[2], atol=1e-4)
    assert not scene.waveform[8000:].any()
    crops = [compose(plain_store, config, seed, clip=3).waveform for seed in range(3)]
    assert not torch.equal(crops[0], crops[1])
    assert all(active(crop).all() for crop in crops)


def test_kinds_are_what_is_heard(store):
    for seed in range(60):
        scene = compose(store, ALWAYS, seed)
        assert len(scene.kinds) in (2, 3)
        assert set(scene.kinds) == kinds_heard(scene.waveform), scene.caption


def test_backgrounds_fill_the_window_without_seams(store):
    for seed in range(10):
        scene = lay_alone(store, ALWAYS, seed, clip=4)
        inside = scene.waveform[400:-400]
        level = inside.abs().unfold(0, 160, 160).amax(1)
        assert level.min() > 0.05
        # A seam would jump; a 3.3 kHz sine at 16 kHz moves by at most 2 sin(pi 3.3 / 16) = 1.2.
        assert inside.diff().abs().max() < 1.25


def test_short_events_come_once_or_several_times(store):
    times = Counter()
    for seed in range(60):
        waveform = lay_alone(store, ALWAYS, seed, clip=0).waveform
        times[int(active(waveform).int().diff().clamp(min=0).sum() + active(waveform)[0])] += 1
    assert set(times) == {1, 2, 3, 4}
    assert max(times.values()) < 30


def test_what_is_counted_is_not_repeated(store):
    for seed in range(30):
        scene = lay_alone(store, ALWAYS, seed, clip=1)
        assert re.search("twice|two", scene.caption)
        assert active(scene.waveform).sum() < 0.36 * RATE_HZ


def test_a_sequence_is_in_its_order(store):
    order = re.compile(r"(dog|horn|bell).*(then|followed by|after).*(dog|horn|bell)")
    found = 0
    for seed in range(200):
        scene = compose(store, ALWAYS, seed)
        match = order.search(scene.caption)
        if match is None:
            continue
        found += 1
        first, word, second = match.groups()
        if word == "after":
            first, second = second, first
        level = levels(scene.waveform)
        starts = [
            int((level[kind] > 0.5 * level[kind].max()).nonzero()[0]) for kind in (first, second)
        ]
        assert starts[0] < starts[1], scene.caption
    assert found > 10


def test_backgrounds_are_quieter_and_gains_are_kept(store, monkeypatch):
    monkeypatch.setattr(scenes, "EVENT_GAIN_DB", (0.0, 0.0))
    config = replace(ALWAYS, background_gain_db=(-12.0, -12.0), pitch_range=0.0)
    checked = 0
    for seed in range(40):
        scene = compose(store, config, seed)
        if scene.kinds[-1] != "hum" or len(scene.kinds) != 2:
            continue
        hum = torch.dot(scene.waveform, tone(5000, 2.0)) ** 2
        hum += torch.dot(scene.waveform, torch.cos(torch.arange(32000) * (6.2832 * 5 / 16))) ** 2
        amplitude = 2 * hum.sqrt() / 32000
        assert 0.15 < amplitude < 0.27  # 0.95 * 10**(-12/20) = 0.24, less where peaks coincide
        checked += 1
    assert checked > 3


def test_kind_balance_evens_kinds_out(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(500, 0.1).numpy(), RATE_HZ)
    kinds = ["many"] * 9 + ["few"]
    store = ClipStore([Clip(path, ("x",), kind=kind) for kind in kinds], RATE_HZ)

    def share(kind_balance):
        config = SceneConfig(duration_s=0.1, kind_balance=kind_balance)
        return sum(compose(store, config, seed).kinds == ("few",) for seed in range(1000)) / 1000

    assert share(0.0) == pytest.approx(0.1, abs=0.03)
    assert share(0.5) == pytest.approx(0.25, abs=0.04)
    assert share(1.0) == pytest.approx(0.5, abs=0.05)


def test_a_kind_is_drawn_as_often_as_its_weight_says(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(500, 0.1).numpy(), RATE_HZ)
    kinds = ["many"] * 4 + ["few"]
    store = ClipStore([Clip(path, ("x",), kind=kind) for kind in kinds], RATE_HZ)

    def share(**settings):
        config = SceneConfig(duration_s=0.1, **settings)
        return sum(compose(store, config, seed).kinds == ("few",) for seed in range(1000)) / 1000

    assert share(kind_weights={"few": 4.0}) == pytest.approx(0.5, abs=0.05)
    assert share(kind_balance=1.0, kind_weights={"few": 3.0}) == pytest.approx(0.75, abs=0.05)
    assert share(kind_weights={"many": 0.01}) > 0.9
    assert share() == pytest.approx(0.2, abs=0.04)  # the same store, other weights


def test_one_kind_alone_is_never_mixed_with_itself(store, clips):
    dogs = ClipStore(clips[:2], RATE_HZ)
    assert all(compose(dogs, ALWAYS, seed).kinds == ("dog",) for seed in range(20))


def test_no_clips():
    with pytest.raises(DataError, match="no clips"):
        compose(ClipStore([], RATE_HZ), MIXED, 0)


def test_all_wordings_of_a_lone_clip_are_true(store, clips):
    barks = replace(clips[0], captions=("A dog barks.", "A dog barks once."))
    barking = ClipStore([barks], RATE_HZ)
    seen = set()
    for seed in range(30):
        scene = compose(barking, ALWAYS, seed)
        assert scene.caption in scene.wordings.captions + scene.wordings.phrases
        counted = "A dog barks once." in scene.wordings.captions
        assert counted == (scene.caption == "A dog barks once.")  # then it happens once
        seen.add(counted)
        assert scene.wordings.phrases == barks.phrases
    assert seen == {True, False}
    mixed = compose(store, ALWAYS, 0)
    assert (mixed.wordings.captions, mixed.wordings.phrases) == ((mixed.caption,), ())


def test_phrases_make_prompts(store):
    captions = {compose(store, ALWAYS, seed).caption for seed in range(150)}
    assert "dog barking in rain" in captions or "a dog barking in rain" in captions
    assert not any("in fridge humming" in caption for caption in captions)
    assert not any(re.search(r"\s\s|\.\s|\.$|\{|\}", caption) for caption in captions)


def test_sentences_are_joined_as_sentences(plain_store):
    captions = {compose(plain_store, ALWAYS, seed).caption for seed in range(200)}
    assert any(re.fullmatch(r"A .* while (a|rain) .*", caption) for caption in captions)
    assert "A dog barks, with rain falls in the background" not in captions
    for caption in captions:
        assert not re.search(r".\b(A|Rain)\b", caption), caption


@pytest.mark.parametrize(
    "setting",
    [
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"n_cached": -1},
        {"mix_probability": 1.5},
        {"max_repeats": 0},
        {"gap_s": (1.0, 0.5)},
        {"pitch_range": 1.0},
        {"background_gain_db": (-3.0, -12.0)},
    ],
)
def test_impossible_settings_are_named(setting):
    (name,) = setting
    with pytest.raises(UsageError, match=rf"scenes\.{name}: "):
        SceneConfig(**setting)
