"""Tar files -> latents -> training, through the command; stopped, resumed and shared."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import AuffusionWarning, DataError
from auffusion_cli.requests.shards import Shard
from auffusion_cli.training import encoding, streams
from auffusion_cli.training.config import SceneConfig
from auffusion_cli.training.latent_shards import read_index
from auffusion_cli.training.latents import open_latents
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.preparation import Preparation
from auffusion_cli.training.records import find_records
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.streams import prepare_records
from tar_files import sound, write_tar

SCENES = SceneConfig(duration_s=0.32)


@pytest.fixture
def tars(tmp_path) -> Path:
    """Two parts of five sounds and one that is no sound."""
    for part in range(2):
        files = {}
        for i in range(5):
            files[f"{i}.flac"] = sound(10 * part + i)
            files[f"{i}.txt"] = f"Noise {part} {i}\nhiss".encode()
        files |= {"9.flac": b"nothing", "9.txt": b"x"}
        write_tar(tmp_path / f"data/{part}.tar", files)
    return tmp_path / "data"


@pytest.fixture
def make(tiny_model, tars, tmp_path):
    def make(scenes=SCENES, root="out", model=tiny_model, **options):
        records = find_records(str(tars), "train", Reading())
        options = {"seed": 0, "skip_bad": True} | options
        return prepare_records(tmp_path / root, model, records, scenes, **options)

    return make


def latents(cache):
    return [(cache.wordings(i), cache.latent(i)) for i in range(len(cache))]


def test_a_stopped_run_goes_on_where_it_was(make, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SHARD_ITEMS", 3)
    whole = make()
    assert len(whole) == 10 and whole.wordings(6).captions == ("Noise 1 1", "hiss")

    written, write = [], encoding.write_shard

    def stop(folder, info, items, states):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append((info.part, info.number))
        write(folder, info, items, states)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, "write_shard", stop)
        make(root="parts")
    assert written == [(0, 0), (0, 1), (1, 0)]
    (folder,) = (tmp_path / "parts").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    parts = make(root="parts")
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert before.items() <= after.items() and len(after) == 5
    for (wordings, latent), (again, other) in zip(latents(whole), latents(parts), strict=True):
        assert wordings == again
        torch.testing.assert_close(latent, other, rtol=2e-3, atol=2e-3)
    assert json.loads((folder / "latents.json").read_text())["shards"][1]["problems"] == {
        "unreadable": 1
    }


def of_two(rank):
    """What one of two processes prepares, which waits for nobody."""
    processes = SimpleNamespace(
        num_processes=2,
        process_index=rank,
        is_main_process=rank == 0,
        wait_for_everyone=lambda: None,
    )
    return Preparation(processes)


def test_two_processes_read_parts_of_their_own(make, monkeypatch):
    """One after the other, without waiting; a launch that does is in `test_latents.py`."""
    whole, read = make(), []
    real = streams._write_part
    monkeypatch.setattr(streams, "_write_part", lambda *a: read.append(a[2]) or real(*a))

    with pytest.raises(DataError, match=r"latents\.json"):  # which the main one writes
        make(root="two", preparation=of_two(1))
    shared = make(root="two", preparation=of_two(0))
    assert read == [1, 0]
    for (wordings, latent), (again, same) in zip(latents(whole), latents(shared), strict=True):
        assert wordings == again and torch.equal(latent, same)


def test_shards_of_a_job_array_together_are_the_whole(make, tmp_path, monkeypatch):
    whole = make()
    encoded = []
    real = streams._write_part
    monkeypatch.setattr(streams, "_write_part", lambda *a: encoded.append(a[2]) or real(*a))
    for job in (2, 3, 1):  # in any order; of three one has nothing to do
        assert make(root="jobs", preparation=Preparation(part=Shard(job, 3))) is None
        assert not list((tmp_path / "jobs").glob("*/latents.json"))
    assert encoded == [1, 0]
    completed = make(root="jobs")
    for (wordings, latent), (again, other) in zip(latents(whole), latents(completed), strict=True):
        assert wordings == again and torch.equal(latent, other)


def test_other_text_encoders_take_the_sounds_of_a_launch(
    make, tiny_checkpoint, tmp_path, monkeypatch
):
    """Each of two processes its part, and with what was left out of it."""
    whole = make()
    other = load_model(tiny_checkpoint, device="cpu")
    with torch.no_grad():
        next(other.networks.text_encoders.parameters()).mul_(2)
    monkeypatch.setattr(streams, "_write_part", None)  # nothing is read

    with pytest.raises(DataError, match=r"latents\.json"):  # which the main one writes
        make(model=other, preparation=of_two(1))
    taken = make(model=other, preparation=of_two(0))
    for (wordings, latent), (again, same) in zip(latents(whole), latents(taken), strict=True):
        assert wordings == again and torch.equal(latent, same)
    problems = [read_index(path).problems for path in (tmp_path / "out").iterdir()]
    assert problems == [{"unreadable": 2}] * 2


def test_the_command_encodes_once_and_later_runs_train(tars, tiny_checkpoint, tmp_path):
    app = build_app()

    def train(*arguments, data=tars):
        options = ["--device", "cpu", "--model", str(tiny_checkpoint), "--data", str(data)]
        options += ["--set", "loop.batch_size=2", "--set", "scenes.duration_s=0.32"]
        return CliRunner().invoke(app, ["train", *options, *map(str, arguments)])

    made = tmp_path / "made"
    bad = train("--precompute", "-o", made)
    assert bad.exit_code == 1 and "--skip-bad" in bad.stderr and "9.flac" in bad.stderr
    part = train("--precompute", "-o", made, "--skip-bad", "--shard", "2/2", "--json")
    assert part.exit_code == 0, part.output
    assert json.loads(part.stdout) == {"output": str(made), "sounds": {}, "shard": "2/2"}
    assert train("-o", tmp_path / "a", "--max-steps", 1, data=made).exit_code == 1
    alone = train("-o", tmp_path / "a", "--shard", "1/2")
    assert alone.exit_code == 2 and "--precompute" in alone.stderr
    result = train("--precompute", "-o", made, "--skip-bad", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"output": str(made), "sounds": {"train": 10}}
    result = train("-o", tmp_path / "run", "--max-steps", 2, data=made)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run/unet").is_dir() and not (tmp_path / "run/cache").exists()
    direct = train("-o", tmp_path / "direct", "--max-steps", 1, "--skip-bad")
    assert direct.exit_code == 0, direct.output

    other = train("--set", "scenes.duration_s=0.64", "-o", tmp_path / "b", data=made)
    assert other.exit_code == 1 and "latents of 0.32 s" in other.stderr
    unread = train("--set", "scenes.mix_probability=0.5", "-o", tmp_path / "c", data=made)
    assert unread.exit_code == 2 and "scenes.mix_probability" in unread.stderr
    vocoder = CliRunner().invoke(
        app, ["train", "--stage", "vocoder", "--data", str(made), "-o", str(tmp_path / "d")]
    )
    assert vocoder.exit_code == 1 and "needs sounds" in vocoder.stderr


def test_each_crop_of_a_long_sound_is_another(make, tiny_model):
    cache = make(SceneConfig(duration_s=0.16, n_crops=2))
    assert not torch.equal(cache.latent(0), cache.latent(0, 1))
    loaded = cache.load([Sample(0, seed) for seed in range(8)])
    assert loaded[0].shape[0] == 8 and len({latent.sum().item() for latent in loaded[0]}) == 2


def test_latents_of_other_networks_are_refused(make, tiny_model, tmp_path):
    make()
    (folder,) = (tmp_path / "out").iterdir()
    index = json.loads((folder / "latents.json").read_text())
    (folder / "latents.json").write_text(json.dumps(index | {"networks": "other"}))
    with pytest.raises(DataError, match="another autoencoder"):
        open_latents(folder, tiny_model.codec, tiny_model.text, SCENES)


def test_captions_that_the_text_encoders_cut_are_counted(make, tars, recwarn):
    make(root="fit")
    assert not any("longer than" in str(warning.message) for warning in recwarn.list)
    files = {"0.flac": sound(0), "0.txt": b"rain " * 300 + b"\nhiss"}
    write_tar(tars / "2.tar", files)
    with pytest.warns(AuffusionWarning, match=r"1 of 12 captions are longer .* 'rain rain"):
        make(root="cut")
