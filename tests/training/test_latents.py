"""The latent cache: equal to computing on the spot, made once, and anew where anything changed."""

import os
import shutil
import socket
from collections import Counter
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import DataError
from auffusion_cli.training import latents as latents_module
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.latents import FreshScenes, open_latents, prepare
from auffusion_cli.training.preparation import Preparation
from auffusion_cli.training.samples import Sample, scene_seed
from auffusion_cli.training.scenes import compose

SCENES = SceneConfig(duration_s=0.32)
SHARD = "00000-0000.safetensors"


@pytest.fixture
def make(tiny_model, store, tmp_path):
    """Prepare a cache under `tmp_path`; keyword arguments change what it is made of."""

    def make(scenes=SCENES, seed=0, **parts):
        parts = {"codec": tiny_model.codec, "text": tiny_model.text, "store": store} | parts
        return prepare(tmp_path, scenes=scenes, seed=seed, **parts)

    return make


def test_it_holds_what_the_codec_and_the_encoders_give(make, tiny_model, store):
    cache = make()
    assert len(cache) == len(store) == 2
    for index in range(2):
        scene = compose(store, SCENES, scene_seed(0, index), clip=index)
        latent = torch.from_numpy(tiny_model.codec.encode(scene.waveform[None].numpy())[0])
        assert cache.wordings(index) == scene.wordings
        assert cache.draw(Sample(index, seed=4)) == (scene.caption, 0)
        torch.testing.assert_close(cache.latent(index), latent, rtol=2e-3, atol=2e-3)
        expected = [torch.from_numpy(tiny_model.text.hidden_states(0, [scene.caption])[0])]
        for got, states in zip(cache.hidden_states(index, scene.caption), expected, strict=True):
            assert got.shape == states.shape and not got[states.any(1).sum() :].any()
            torch.testing.assert_close(got, states, rtol=2e-3, atol=2e-3)
    examples, hidden_states = cache.examples(cache.load([Sample(1, 0), Sample(0, 9), Sample(1, 3)]))
    assert torch.equal(examples[1], cache.latent(0)) and torch.equal(examples[0], examples[2])
    assert torch.equal(hidden_states[0][1], cache.hidden_states(0, "A noise")[0])


def test_more_scenes_than_clips(make):
    cache = make(replace(SCENES, n_cached=19))  # more than one batch of the encoder
    assert len(cache) == 19
    assert {cache.wordings(i).captions for i in range(19)} == {("A noise",), ("A tone",)}
    assert len({cache.latent(i).sum().item() for i in range(19)}) > 10


def test_workers_compose_the_same_scenes(make, tmp_path):
    """Only the folder's name tells which was made by whom, and it is the same."""
    scenes = replace(SCENES, n_cached=37)
    here = make(scenes)
    (folder,) = tmp_path.iterdir()
    before = (folder / SHARD).read_bytes()
    shutil.rmtree(folder)
    make(scenes, n_workers=2)
    assert before == (folder / SHARD).read_bytes()
    assert here.latent_shape == (4, 32, 4)


def test_the_processes_of_a_launch_encode_a_part_each(make, tmp_path, monkeypatch):
    monkeypatch.setattr(latents_module, "SHARD_ITEMS", 16)
    scenes = replace(SCENES, n_cached=37)  # three shards
    here = make(scenes)
    (folder,) = tmp_path.iterdir()
    expected = [(here.wordings(i), here.latent(i)) for i in range(37)]
    shutil.rmtree(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def encode(rank):
        """The number of batches that this process encoded."""
        torch.set_num_threads(1)  # OpenMP's threads do not come along, and would be waited for
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        place["OMP_NUM_THREADS"] = 1
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        PartialState._reset_state()
        encoded = []
        real = latents_module.SoundEncoder.__call__
        latents_module.SoundEncoder.__call__ = lambda *a: encoded.append(a) or real(*a)
        cache = make(scenes, preparation=Preparation(PartialState(cpu=True)))
        return len(encoded) if len(cache) == 37 else 99

    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            try:
                os._exit(encode(rank))
            finally:
                os._exit(98)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [2, 1]
    shared = make(scenes)
    for i, (wordings, latent) in enumerate(expected):
        assert shared.wordings(i) == wordings
        torch.testing.assert_close(shared.latent(i), latent, rtol=2e-3, atol=2e-3)


def test_each_sample_draws_one_of_all_captions(make, tiny_model, store):
    captions = ("A noise", "Some hiss", "It swells")
    clips = [replace(store.clips[0], captions=captions, phrases=("noise",)), store.clips[1]]
    cache = make(replace(SCENES, phrase_probability=0.25), store=ClipStore(clips, 16000))
    samples = [Sample(0, seed) for seed in range(400)]
    drawn = Counter(cache.draw(sample)[0] for sample in samples)
    assert set(drawn) == {*captions, "noise"}
    assert all(count / 400 == pytest.approx(0.25, abs=0.08) for count in drawn.values())
    assert [cache.draw(sample)[0] for sample in samples[:50]] == [
        cache.draw(sample)[0] for sample in samples[:50]
    ]
    _, (hidden_states, *_) = cache.load(samples[:20])
    for sample, states in zip(samples[:20], hidden_states, strict=True):
        expected = torch.from_numpy(tiny_model.text.hidden_states(0, [cache.draw(sample)[0]])[0])
        torch.testing.assert_close(states, expected, rtol=2e-3, atol=2e-3)


def test_the_second_time_it_is_only_opened(make, monkeypatch):
    first = make()

    def fail(*args):
        raise AssertionError("encoded again")

    monkeypatch.setattr(latents_module.ShardWriter, "write", fail)
    assert torch.equal(first.latent(1), make().latent(1))


def test_anything_that_matters_makes_another(make, tiny_model, tiny_checkpoint, store, tmp_path):
    def caches():
        return {path.name for path in tmp_path.iterdir()}

    make()
    make(seed=1)
    make(replace(SCENES, duration_s=0.48))
    make(replace(SCENES, n_cached=1))
    make(store=ClipStore(store.clips[:1], 16000))
    make(store=ClipStore([replace(store.clips[0], captions=("Other",)), store.clips[1]], 16000))
    other = load_model(tiny_checkpoint, device="cpu")
    with torch.no_grad():
        next(other.networks.text_encoders.parameters()).add_(1e-3)
    make(codec=other.codec, text=other.text)
    assert len(caches()) == 7
    make()
    assert len(caches()) == 7


def test_other_text_encoders_take_the_same_latents(
    make, tiny_model, tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(latents_module, "SHARD_ITEMS", 16)
    scenes = replace(SCENES, n_cached=19)  # two shards
    first = make(scenes)
    other = load_model(tiny_checkpoint, device="cpu")
    with torch.no_grad():
        next(other.networks.text_encoders.parameters()).mul_(2)

    def fail(*args, **options):
        raise AssertionError("composed again")

    with monkeypatch.context() as patch:
        patch.setattr(latents_module, "compose", fail)
        second = make(scenes, text=other.text, codec=other.codec)
        with pytest.raises(AssertionError):  # of other sounds, all is made
            make(scenes, text=other.text, codec=other.codec, seed=1)
    assert len(second) == 19
    for i in range(19):
        assert second.wordings(i) == first.wordings(i)
        assert torch.equal(second.latent(i), first.latent(i))
    caption = first.wordings(0).captions[0]
    states = torch.from_numpy(other.text.hidden_states(0, [caption])[0])
    torch.testing.assert_close(second.hidden_states(0, caption)[0], states, rtol=2e-3, atol=2e-3)
    assert not torch.equal(second.hidden_states(0, caption)[0], first.hidden_states(0, caption)[0])

    for model in (tiny_model, other):  # which of the two is found by its networks
        found = open_latents(tmp_path, model.codec, model.text, scenes)
        states = torch.from_numpy(model.text.hidden_states(0, [caption])[0])
        torch.testing.assert_close(found.hidden_states(0, caption)[0], states, rtol=2e-3, atol=2e-3)
    with pytest.raises(DataError, match="none is of this start"):
        open_latents(tmp_path, other.codec, other.text, replace(scenes, duration_s=0.64))


def test_a_changed_recording_makes_another(make, store, tmp_path):
    path = tmp_path / "clip.wav"
    shutil.copy(store.clips[0].path, path)
    changing = ClipStore([replace(store.clips[0], path=path)], 16000)
    make(store=changing)
    os.utime(path, ns=(0, 0))
    make(store=changing)
    assert len(list(tmp_path.iterdir())) == 1 + 2


def test_a_preparation_that_was_stopped_goes_on_at_the_shard(make, tmp_path, monkeypatch):
    monkeypatch.setattr(latents_module, "SHARD_ITEMS", 16)
    scenes = replace(SCENES, n_cached=37)
    here = make(scenes)
    expected = [here.latent(i) for i in range(37)]
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)

    def interrupt(what, done, total):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(scenes, preparation=Preparation(on_progress=interrupt))
    assert [path.name for path in folder.iterdir()] == [SHARD]
    before = (folder / SHARD).stat().st_mtime_ns
    seen = []
    cache = make(scenes, preparation=Preparation(on_progress=lambda *told: seen.append(told)))
    assert (folder / SHARD).stat().st_mtime_ns == before
    assert seen[-1] == ("encoding sounds", 37, 37) and len(seen) == 2
    assert all(torch.equal(cache.latent(i), latent) for i, latent in enumerate(expected))


def test_each_sample_draws_one_of_several_crops(make, store):
    cache = make(replace(SCENES, n_crops=3))
    crops = Counter(cache.draw(Sample(0, seed))[1] for seed in range(60))
    assert set(crops) == {0, 1, 2}
    assert len({cache.latent(0, crop).sum().item() for crop in crops}) == 3
    assert torch.equal(cache.latent(0), make().latent(0))  # the first is that of one alone
    whole = make(replace(SCENES, n_crops=3, duration_s=1.28))  # nothing to crop
    assert {whole.draw(Sample(1, seed))[1] for seed in range(9)} == {0}


def test_fresh_scenes_are_new_each_epoch_and_the_same_after_a_resume(tiny_model, store):
    source = FreshScenes(tiny_model.codec, tiny_model.text, store, SCENES)
    assert len(source) == 2
    latents, hidden_states = source.examples(
        source.load([Sample(0, 1), Sample(0, 2), Sample(1, 1)])
    )
    assert latents.shape == (3, 4, 32, 4)
    assert not torch.equal(latents[0], latents[1])  # two crops of one clip
    again = FreshScenes(tiny_model.codec, tiny_model.text, store, SCENES)
    torch.testing.assert_close(again.examples(again.load([Sample(0, 2)]))[0][0], latents[1])
    expected = torch.from_numpy(tiny_model.text.hidden_states(0, ["A tone"])[0])
    torch.testing.assert_close(hidden_states[0][2], expected)


def test_fresh_scenes_encode_a_caption_once(tiny_model, store, monkeypatch):
    asked = []
    hidden_states = tiny_model.text.hidden_states

    def watched(encoder, captions):
        asked.extend(captions)
        return hidden_states(encoder, captions)

    monkeypatch.setattr(tiny_model.text, "hidden_states", watched)
    source = FreshScenes(tiny_model.codec, tiny_model.text, store, SCENES)
    source.examples(source.load([Sample(i % 2, i) for i in range(4)]))
    assert sorted(asked) == ["A noise", "A tone"]


def test_fresh_scenes_balance_kinds_where_asked(tiny_model, store, monkeypatch):
    built_on = []

    def watched(clips, config, seed, clip=None):
        built_on.append(clip)
        return compose(clips, config, seed, clip)

    monkeypatch.setattr(latents_module, "compose", watched)
    for kind_balance in (0.0, 1.0):
        scenes = replace(SCENES, kind_balance=kind_balance)
        source = FreshScenes(tiny_model.codec, tiny_model.text, store, scenes)
        source.examples(source.load([Sample(1, 4)]))
    assert built_on == [1, None]
