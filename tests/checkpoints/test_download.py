"""Names, the cache and downloads, against a small server that plays the Hub."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.checkpoints import download, listing, names, transfer
from auffusion_cli.checkpoints.families import TEXT_FILES
from auffusion_cli.errors import AuffusionError, CheckpointError, DownloadError, UsageError
from hub_server import COMMIT, HubServer

WEIGHTS = "unet/diffusion_pytorch_model.bin"


def repository() -> dict[str, bytes]:
    return {
        "README.md": b"---\nlicense: cc-by-4.0\n---\n# A model\n",
        "condition_config.json": b"[]",
        "scheduler/scheduler_config.json": b"{}",
        "unet/config.json": b"{}",
        WEIGHTS: random.Random(0).randbytes(300_000),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": random.Random(1).randbytes(5_000),
        "vae/diffusion_pytorch_model.bin": b"a second copy of the same",
        "samples/dog.wav": b"not needed",
    }


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer(repository()) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_downloads_what_is_needed_and_verifies_it(server):
    reports = []
    checkpoint = download.resolve("org/model", on_progress=lambda *report: reports.append(report))
    needed = set(repository()) - {"samples/dog.wav", "vae/diffusion_pytorch_model.bin"}
    files = {path for path in checkpoint.folder.rglob("*") if path.is_file()}
    assert {str(path.relative_to(checkpoint.folder)) for path in files} == needed
    assert all((checkpoint.folder / name).read_bytes() == repository()[name] for name in needed)
    assert (checkpoint.revision, checkpoint.licence) == (COMMIT, "cc-by-4.0")
    total = sum(len(repository()[name]) for name in needed)
    assert reports[-1] == (total, total)
    assert [n for n, _ in reports] == sorted(n for n, _ in reports)


def test_a_second_time_asks_nobody(server, monkeypatch):
    first = download.resolve("org/model")
    server.requests.clear()
    assert download.resolve("org/model") == first
    assert download.resolve(f"org/model@{COMMIT}").folder == first.folder
    assert server.requests == []


def test_a_transfer_that_breaks_off_is_taken_up_where_it_was(server, monkeypatch):
    server.cuts[WEIGHTS] = [100_000, 50_000]
    checkpoint = download.resolve("org/model")
    assert (checkpoint.folder / WEIGHTS).read_bytes() == repository()[WEIGHTS]
    ranges = server.downloads(WEIGHTS)
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_continues_an_earlier_one(server, monkeypatch):
    def stop(n_done, n_total):
        if n_done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.resolve("org/model", on_progress=stop)
    assert download.find_cached(names.parse_name("org/model")) is None
    server.requests.clear()
    checkpoint = download.resolve("org/model")
    (asked,) = server.downloads(WEIGHTS)
    assert int(asked.removeprefix("bytes=").removesuffix("-")) >= 50_000
    assert (checkpoint.folder / WEIGHTS).read_bytes() == repository()[WEIGHTS]


def test_a_wrong_checksum_is_refused_and_fetched_anew(server):
    server.announced_sha256[WEIGHTS] = "0" * 64
    with pytest.raises(DownloadError, match=rf"{WEIGHTS}.*checksum.*{'0' * 64}"):
        download.resolve("org/model")
    assert not list(Path(constants.HF_HUB_CACHE).rglob("diffusion_pytorch_model.bin*"))
    server.announced_sha256.clear()
    assert download.resolve("org/model").revision == COMMIT


def test_a_small_file_is_verified_too(server):
    checkpoint = download.resolve("org/model")
    config = checkpoint.folder / "unet" / "config.json"
    config.write_text("{ }")
    download.pull(names.parse_name("org/model"))
    assert config.read_text() == "{}"


def test_a_listed_file_that_is_missing_is_named(server):
    server.missing.add(WEIGHTS)
    with pytest.raises(DownloadError, match=f"{WEIGHTS}: .*404"):
        download.resolve("org/model")


def test_unknown_repository_and_revision(server):
    with pytest.raises(DownloadError, match="org/other: not on the Hub"):
        download.resolve("org/other")
    with pytest.raises(DownloadError, match="no revision 'v9'"):
        download.resolve("org/model@v9")


@pytest.mark.parametrize("status, message", [(401, "private"), (403, "permission"), (500, "500")])
def test_refusals(server, status, message):
    server.status = status
    with pytest.raises(DownloadError, match=message):
        download.resolve("org/model")


def test_the_token_is_sent(server, monkeypatch):
    server.token = "secret"
    with pytest.raises(DownloadError, match="private"):
        download.resolve("org/model")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert download.resolve("org/model").revision == COMMIT


def test_not_a_checkpoint(server):
    del server.files["condition_config.json"]
    with pytest.raises(DownloadError, match="not a checkpoint"):
        download.resolve("org/model")


def test_no_network(server, monkeypatch):
    server.server_close()
    server.shutdown()
    with pytest.raises(DownloadError, match="connection failed"):
        download.resolve("org/model")


def test_large_downloads_are_confirmed(server, monkeypatch):
    monkeypatch.setattr(download, "CONFIRM_ABOVE_BYTES", 100_000)
    with pytest.raises(DownloadError, match=r"licence: cc-by-4.0.*not confirmed"):
        download.resolve("org/model")
    asked = []
    with pytest.raises(DownloadError, match="not confirmed"):
        download.resolve("org/model", confirm=asked.append)
    assert asked[0].n_bytes > 300_000 and asked[0].commit == COMMIT
    assert server.downloads(WEIGHTS) == []
    assert download.resolve("org/model", confirm=lambda _: True).revision == COMMIT


def test_environment_variables_are_respected(server, tmp_path):
    """HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE, in processes of their own."""
    code = (
        "from auffusion_cli.checkpoints.download import resolve;"
        "print(resolve('org/model').revision)"
    )

    def run(**extra):
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment | extra, capture_output=True, text=True
        )

    offline = run(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline.stderr and server.requests == []
    assert run().stdout.strip() == COMMIT
    server.requests.clear()
    assert run(HF_HUB_OFFLINE="1").stdout.strip() == COMMIT
    assert server.requests == []


def test_offline_takes_what_another_program_fetched(server, monkeypatch):
    checkpoint = download.resolve("org/model")
    refs = checkpoint.folder.parents[1] / "refs"
    for record in refs.iterdir():
        record.unlink()
    (refs / "main").write_text(COMMIT)
    assert download.find_cached(names.parse_name("org/model")) is None
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    assert download.resolve("org/model").revision == COMMIT


# --- Names


def test_known_names():
    source = names.parse_name("auffusion-full")
    assert (source.repo_id, source.revision) == ("auffusion/auffusion-full", "main")
    assert names.parse_name("auffusion@" + COMMIT).revision == COMMIT
    assert names.parse_name("org/model@refs/pr/1").revision == "refs/pr/1"


@pytest.mark.parametrize(
    "name", ["", "nope", "a/b/c", "../x", "a/..", "a@", "org/model@", "org/model@../x", "a--b/c"]
)
def test_impossible_names(name):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        names.parse_name(name)


@given(st.text(alphabet="ab/.@-_:\\ \0", max_size=20))
def test_no_name_leaves_the_cache(name):
    try:
        source = names.parse_name(name)
    except AuffusionError:
        return
    cache = Path(constants.HF_HUB_CACHE).resolve()
    for path in (download.repo_cache(source), download._record_path(source, source.revision)):
        assert path.resolve().is_relative_to(cache / path.relative_to(cache).parts[0])


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    checkpoint = download.resolve(tmp_path)
    assert (checkpoint.folder, checkpoint.revision) == (tmp_path, None)
    assert checkpoint.licence == "mit"


def test_graphs_are_needed_where_they_share_the_weights():
    ours = {"model_index.json", "unet/model.onnx", "vae/encoder.onnx", "vae/decoder.onnx"}
    assert set(listing.needed_files(ours)) == ours
    others = {"model_index.json", "unet/model.onnx", "unet/model.onnx_data", "vae_encoder/m.onnx"}
    assert listing.needed_files(others) == ["model_index.json"]


def test_needed_files_takes_one_copy_of_each_part():
    files = listing.needed_files(
        [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/flax_model.msgpack",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "safety_checker/model.safetensors",
            "unet/../../escape.json",
        ]
    )
    assert files == [
        "model_index.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    ]


def test_a_transformers_model_that_hears(server):
    """CLAP: everything in the top folder, of the weights one copy."""
    server.files = {
        "config.json": b"{}",
        "preprocessor_config.json": b"{}",
        "vocab.json": b"{}",
        "model.safetensors": random.Random(2).randbytes(5_000),
        "pytorch_model.bin": b"a second copy of the same",
    }
    checkpoint = download.resolve(f"org/model@{COMMIT}")
    names = {path.name for path in checkpoint.folder.iterdir()}
    assert names == set(server.files) - {"pytorch_model.bin"}
    server.requests.clear()
    assert download.resolve(f"org/model@{COMMIT}").folder == checkpoint.folder
    assert server.requests == []


def test_of_a_checkpoint_only_a_part_is_fetched(server):
    checkpoint = download.resolve("org/model", parts=("vae",))
    assert {path.name for path in checkpoint.folder.iterdir()} == {"vae", "README.md"}
    server.requests.clear()
    assert download.resolve("org/model", parts=("vae",)) == checkpoint
    assert server.requests == []
    assert download.find_cached(names.parse_name("org/model")) is None
    whole = download.resolve("org/model")
    assert (whole.folder / WEIGHTS).is_file()
    assert not server.downloads("vae/diffusion_pytorch_model.safetensors")


def test_one_network_is_a_repository_too(server):
    """A T5 in shards, with nothing of other frameworks."""
    shards = {f"model-0000{n}-of-00002.safetensors": bytes(50 + n) for n in (1, 2)}
    server.files = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "spiece.model": b"pieces",
        "model.safetensors.index.json": b"{}",
        "pytorch_model.bin": b"a second copy of the same",
        "tf_model.h5": b"another framework",
        "onnx/model.onnx": b"another program",
        **shards,
    }
    checkpoint = download.resolve("org/model", parts=("text_encoder", "tokenizer"))
    unneeded = {"pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"}
    assert {path.name for path in checkpoint.folder.iterdir()} == set(server.files) - unneeded
    server.requests.clear()
    again = download.resolve("org/model", parts=("text_encoder", "tokenizer"))
    assert again.folder == checkpoint.folder
    assert server.requests == []


def test_a_model_of_images_makes_no_sound():
    with pytest.raises(UsageError, match="stable-diffusion-v1-5 makes pictures"):
        names.require_sound("stable-diffusion-v1-5")
    names.require_sound("auffusion")
    names.require_sound("org/model")


def test_of_a_text_encoder_only_the_named_files_are_fetched(server):
    server.files = {name: b"{}" for name in (*TEXT_FILES, "model.safetensors", "spiece.model")}
    folder = download.resolve("org/model", parts=TEXT_FILES).folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(TEXT_FILES)
    server.requests.clear()
    assert download.resolve("org/model", parts=TEXT_FILES).folder == folder
    assert server.requests == []


def test_tango_is_complete_with_the_files_of_its_text_encoder(server, tmp_path):
    cache = tmp_path / "cache" / "models--google--flan-t5-large"
    for path, content in {
        "refs/auffusion--main": COMMIT,
        **{f"snapshots/{COMMIT}/{name}": f'{{"of": "{name}"}}' for name in TEXT_FILES},
    }.items():
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_text(content)
    server.files = {
        "main_config.json": b'{"text_encoder_name": "google/flan-t5-large"}',
        "vae_config.json": b"{}",
        "pytorch_model_main.bin": b"weights",
        "pytorch_model_vae.bin": b"more weights",
        "pytorch_model_stft.bin": b"not needed",
    }
    folder = download.resolve("org/model").folder
    assert not (folder / "pytorch_model_stft.bin").exists()
    texts = {name: (folder / "text_encoder" / name).read_text() for name in TEXT_FILES}
    assert texts == {name: f'{{"of": "{name}"}}' for name in TEXT_FILES}
    server.requests.clear()
    assert download.resolve("org/model").folder == folder
    assert server.requests == []
