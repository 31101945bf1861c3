"""Tar and parquet files -> clips for the stages that read them often."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import DataError
from auffusion_cli.training import unpacking
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import TrainingConfig, VocoderConfig
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.loading import read_ahead
from auffusion_cli.training.records import find_records
from auffusion_cli.training.samples import samples_at
from auffusion_cli.training.unpacking import unpack
from auffusion_cli.training.vocoder import VocoderStage
from tar_files import sound, write_tar

CPU = torch.device("cpu")
TINY_VOCODER = {
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}


def write_tars(folder: Path) -> None:
    """Two parts of three sounds, and one that is none."""
    for part in range(2):
        files = {}
        for i in range(3):
            files |= {f"../{i}.flac": sound(3 * part + i), f"../{i}.txt": b"Noise\nhiss"}
        write_tar(folder / f"{part}.tar", files | {"9.jpg": b"x"})


def write_parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder.mkdir()
    for part in range(2):
        numbers = range(3 * part, 3 * part + 3)
        rows = {"audio": [sound(i) for i in numbers], "text": [["Noise", "hiss"]] * 3}
        parquet.write_table(pyarrow.table(rows), folder / f"{part}.parquet")


def unpacked(folder, root, **options):
    return unpack(find_records(str(folder), "train", Reading()), root, **options)


@pytest.mark.parametrize("write", [write_tars, write_parquet])
def test_worker_processes_read_each_sound_once_in_the_same_order(tmp_path, write):
    write(tmp_path / "data")
    manifest = unpacked(tmp_path / "data", tmp_path / "out")
    assert [clip.path.read_bytes() for clip in manifest.clips] == [sound(i) for i in range(6)]
    assert {clip.captions for clip in manifest.clips} == {("Noise", "hiss")}
    assert all(clip.path.parent.parent == tmp_path / "out" for clip in manifest.clips)

    config = VocoderConfig(model=TINY_VOCODER, segment_samples=1600, adversarial_start_step=None)
    stage = VocoderStage(TrainingConfig(vocoder=config), ClipStore(manifest.clips, 16000), CPU)
    asked = [samples_at(step, 2, stage.n_items, seed=0) for step in range(6)]
    drawn = Counter(sample.index for batch in asked for sample in batch)
    assert drawn == dict.fromkeys(range(6), 2)  # two epochs

    class Batches(torch.utils.data.Dataset):
        def __getitem__(self, step):
            return stage.load(asked[step])

    here, by_two = (list(read_ahead(Batches(), range(6), n, CPU)) for n in (0, 2))
    assert all(torch.equal(one, other) for one, other in zip(here, by_two, strict=True))


def test_a_part_is_unpacked_once_and_anew_where_it_changed(tmp_path, monkeypatch):
    write_tars(tmp_path / "data")
    written, write = [], unpacking._write

    def stop_at_second(records, part, folder):
        written.append(part)
        if written == [0, 1]:
            (folder / "0").write_bytes(b"half")
            raise KeyboardInterrupt
        write(records, part, folder)

    monkeypatch.setattr(unpacking, "_write", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        unpacked(tmp_path / "data", tmp_path / "out")
    seen = []
    manifest = unpacked(
        tmp_path / "data", tmp_path / "out", on_progress=lambda *done: seen.append(done)
    )
    assert written == [0, 1, 1] and seen == [(1, 2), (2, 2)]
    assert len(manifest.clips) == 6
    assert [problem.reason for problem in manifest.problems] == ["unreadable"] * 2
    assert unpacked(tmp_path / "data", tmp_path / "out") == manifest and len(written) == 3
    write_tar(tmp_path / "data/1.tar", {"0.flac": sound(9), "0.txt": b"Other"})
    assert unpacked(tmp_path / "data", tmp_path / "out").clips[3].captions == ("Other",)


def test_damage_is_told(tmp_path):
    write_tars(tmp_path / "data")
    first = unpacked(tmp_path / "data", tmp_path / "out").clips[0]
    for content in ("", "{}", '{"captions": 3, "problems": []}'):
        (first.path.parent / unpacking.CONTENT_NAME).write_text(content)
        with pytest.raises(DataError, match=unpacking.CONTENT_NAME):
            unpacked(tmp_path / "data", tmp_path / "out")


def test_the_command_trains_a_vocoder_and_an_autoencoder_on_tars(tmp_path, monkeypatch):
    write_tars(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def train(stage, *settings):
        options = [f"--stage={stage}", "--data=data", f"--output={stage}", "--device=cpu"]
        settings = ("loop.batch_size=2", "loop.tensorboard=false", *settings)
        options += [f"--set={setting}" for setting in settings]
        return CliRunner().invoke(build_app(), ["train", "--max-steps=1", *options])

    model = "{block_out_channels: [32], down_block_types: [DownEncoderBlock2D], "
    model += "up_block_types: [UpDecoderBlock2D], latent_channels: 4}"
    small = f"autoencoder.model={model}"
    bad = train("autoencoder", small)
    assert bad.exit_code == 1 and "--skip-bad" in bad.stderr and ".jpg" in bad.stderr
    result = train("autoencoder", small, "skip_bad=true", "scenes.duration_s=0.32")
    assert result.exit_code == 0, result.output
    assert "on 6 clips" in result.stderr and Path("autoencoder/vae").is_dir()
    fields = ", ".join(f"{key}: {value}" for key, value in TINY_VOCODER.items())
    of_vocoder = ("vocoder.segment_samples=1600", "vocoder.adversarial_start_step=null")
    result = train("vocoder", f"vocoder.model={{{fields}}}", *of_vocoder, "skip_bad=true")
    assert result.exit_code == 0, result.output
    assert Path("vocoder/vocoder").is_dir()
