"""Weight files of the evaluation's networks: found, fetched, refused."""

import hashlib
import pickle
import random
import shutil
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from auffusion_cli.checkpoints import listing, names, transfer
from auffusion_cli.errors import AuffusionWarning, CheckpointError, DownloadError, UsageError
from auffusion_cli.evaluation import published, weights
from auffusion_cli.evaluation.protocols import PROTOCOLS
from file_server import FileServer
from published_networks import cnn14_state, vggish_state

torch.set_num_threads(1)
PROTOCOL = PROTOCOLS["auffusion-2024"]


@pytest.fixture(scope="module")
def states():
    return {"cnn14": cnn14_state(), "vggish": vggish_state()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, states):
    """What a user brings: files of the published names and forms."""
    folder = tmp_path_factory.mktemp("weights")
    # PANNs' file was written before torch 1.6, with the state of the training's sampler beside.
    checkpoint = {
        "iteration": 600_000,
        "model": states["cnn14"],
        "sampler": {"indexes": np.arange(10), "pointer": 3},
    }
    torch.save(
        checkpoint,
        folder / weights.WEIGHTS["cnn14"].file_name,
        _use_new_zipfile_serialization=False,
    )
    torch.save(states["vggish"], folder / weights.WEIGHTS["vggish"].file_name)
    return folder


def test_published_files_are_loaded_and_identified(folder, states):
    with pytest.warns(AuffusionWarning, match="cnn14's weights are not the published file"):
        cnn14, _ = weights.load_embedder(PROTOCOL.classifier, weights_folder=folder)
    with pytest.warns(AuffusionWarning, match="vggish's weights are not"):
        vggish, told = weights.load_embedder(PROTOCOL.frames, weights_folder=folder)
    assert told.note.startswith("vggish's weights are not the published file")
    assert told.weights == f"{folder / weights.WEIGHTS['vggish'].file_name}, not the published file"
    for embedder in (cnn14, vggish):
        path = folder / weights.WEIGHTS[embedder.name].file_name
        assert embedder.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert embedder.audio_input == PROTOCOL.classifier.audio_input
    found = weights.load_vggish(folder / weights.WEIGHTS["vggish"].file_name).state_dict()
    assert found.keys() == states["vggish"].keys()
    assert all(torch.equal(found[name], states["vggish"][name]) for name in found)
    (heard,) = cnn14.embed([torch.ones(32_000)])
    assert np.isfinite(heard.logits).all()


def test_the_published_checksum_is_silent(folder, monkeypatch):
    path = folder / weights.WEIGHTS["vggish"].file_name
    published = replace(weights.WEIGHTS["vggish"], sha256=weights.hash_file(path))
    monkeypatch.setitem(weights.WEIGHTS, "vggish", published)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, told = weights.load_embedder(PROTOCOL.frames, weights_folder=folder)
    assert told is None


def test_safetensors_too(tmp_path, states):
    save_file(states["vggish"], tmp_path / "vggish.safetensors")
    with pytest.warns(AuffusionWarning, match="not the published file"):
        embedder, _ = weights.load_embedder(PROTOCOL.frames, weights_folder=tmp_path)
    assert torch.equal(embedder.network.embeddings[0].bias, states["vggish"]["embeddings.0.bias"])


def test_clap_brought_by_hand_is_not_taken_for_the_published_one(tmp_path, monkeypatch):
    (tmp_path / "clap").mkdir()
    embedder = SimpleNamespace(weights_sha256="0" * 64)
    monkeypatch.setattr(weights.clap, "load_clap", lambda *_: embedder)
    with pytest.warns(AuffusionWarning, match="clap's weights come from the folder .*not verified"):
        _, told = weights.load_embedder(PROTOCOL.text, weights_folder=tmp_path)
    assert told.weights == f"{tmp_path / 'clap'}, not verified"


def test_another_network_in_cnn14s_place_is_named_with_its_path(tmp_path, states):
    path = tmp_path / "cnn14.safetensors"
    save_file(states["vggish"], path)
    with pytest.raises(CheckpointError, match=f"{path}: Cnn14 weights lack tensor"):
        weights.load_embedder(PROTOCOL.classifier, weights_folder=tmp_path)


def test_a_folder_of_weights_has_something_that_can_be_used(tmp_path):
    def refused(folder, *names):
        with pytest.raises(UsageError) as caught:
            published.check_weights_folder(folder, names)
        return f"{caught.value.message} {caught.value.hint}"

    assert "nosuch: no such folder" in refused(tmp_path / "nosuch", "tagger")
    assert "has none of the networks" in refused(tmp_path, "cnn14", "clap")
    assert "Looked for Cnn14_16k_mAP=0.438.pth, cnn14.safetensors, clap/." in refused(
        tmp_path, "cnn14", "clap"
    )
    (tmp_path / "clap").touch()
    assert "is not a folder" in refused(tmp_path / "clap", "clap")
    assert "clap is a file, not a folder" in refused(tmp_path, "clap")
    (tmp_path / "vggish.safetensors").mkdir()
    assert "vggish.safetensors is a folder, not a weight file" in refused(tmp_path, "vggish")
    (tmp_path / "cnn14.safetensors").touch()
    published.check_weights_folder(tmp_path, ["cnn14"])


def small(states, change) -> dict[str, torch.Tensor]:
    state = dict(states["vggish"])
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.3.bias"), "lacks 1 tensors, such as 'features.3.bias'"),
        (lambda s: s.update(extra=torch.ones(2)), "tensor 'extra' has no place in it"),
        (
            lambda s: s.update({"features.0.bias": torch.ones(65)}),
            r"'features.0.bias' is \(65,\), but VGGish has \(64,\)",
        ),
        (
            lambda s: s.update({"features.0.bias": torch.full((64,), torch.nan)}),
            "'features.0.bias' has values that are not numbers",
        ),
    ],
)
def test_other_tensors_are_refused(tmp_path, states, change, message):
    save_file(small(states, change), tmp_path / "vggish.safetensors")
    with pytest.raises(CheckpointError, match=message):
        weights.load_vggish(tmp_path / "vggish.safetensors")


class Malicious:
    def __reduce__(self):
        return print, ("code was run",)


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"model": Malicious()}))
    with pytest.raises(CheckpointError):
        weights.read_published(path)
    torch.save({"model": Malicious()}, path)
    with pytest.raises(CheckpointError, match="more than tensors"):
        weights.read_published(path)
    assert "code was run" not in capsys.readouterr().out


def test_something_else_than_tensors_is_refused(tmp_path):
    for content in ([1, 2], {"model": {"x": 1}}, {1: torch.ones(1)}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="something else than named tensors"):
            weights.read_published(tmp_path / "x.pth")


def test_a_truncated_file_is_refused(tmp_path, folder):
    path = shutil.copy(folder / weights.WEIGHTS["vggish"].file_name, tmp_path / "x.pth")
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        weights.load_vggish(path)


# --- fetching


CONTENT = random.Random(0).randbytes(200_000)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    with FileServer(CONTENT) as server:
        file = published.PublishedWeights(
            "a network",
            "a licence",
            "net.pth",
            f"http://127.0.0.1:{server.server_address[1]}/net.pth",
            hashlib.sha256(CONTENT).hexdigest(),
            len(CONTENT),
        )
        monkeypatch.setitem(weights.WEIGHTS, "vggish", file)
        yield server


def test_is_fetched_once_and_verified(server, tmp_path):
    reports = []
    path = weights.find_or_fetch("vggish", None, lambda *report: reports.append(report))
    assert path.parent == tmp_path / "cache" / "auffusion--evaluation"
    assert path.read_bytes() == CONTENT
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert weights.find_or_fetch("vggish", None) == path
    assert server.ranges == [None]


def test_a_transfer_that_breaks_off_goes_on(server):
    server.cuts = [50_000, 30_000]
    assert weights.find_or_fetch("vggish", None).read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert all(header is not None for header in server.ranges[1:])


def test_a_later_run_goes_on(server, tmp_path):
    folder = tmp_path / "cache" / "auffusion--evaluation"
    folder.mkdir(parents=True)
    for n_there in (120_000, len(CONTENT)):
        (folder / "net.pth.incomplete").write_bytes(CONTENT[:n_there])
        path = weights.find_or_fetch("vggish", None)
        assert path.read_bytes() == CONTENT and server.ranges[-1] == f"bytes={n_there}-"
        path.unlink()


def test_another_file_is_refused(server):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match=r"has the checksum .* was published"):
        weights.find_or_fetch("vggish", None)
    server.content = CONTENT
    assert weights.find_or_fetch("vggish", None).read_bytes() == CONTENT


def test_offline_one_is_told_how_to_bring_it(server, monkeypatch, tmp_path):
    server.status = 503
    with pytest.raises(DownloadError) as caught:
        weights.find_or_fetch("vggish", None)
    assert "--weights" in caught.value.hint and weights.WEIGHTS["vggish"].url in caught.value.hint

    from huggingface_hub import close_session

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(DownloadError, match="vggish is not on this machine, and HF_HUB_OFFLINE"):
        weights.find_or_fetch("vggish", None)
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert weights.find_or_fetch("vggish", tmp_path) == tmp_path / "net.pth"


def test_all_that_is_missing_is_told_in_one_error(server, tmp_path):
    server.status = 503
    missing = published.missing(["vggish", "tagger", "clap"], None)
    assert missing == ["vggish", "clap"]
    with pytest.raises(DownloadError, match=r"vggish: cannot be .*; missing too: clap$") as caught:
        published.fetch("vggish", then=["clap"])
    assert weights.WEIGHTS["vggish"].url in caught.value.hint
    assert "huggingface.co/laion/clap-htsat-unfused" in caught.value.hint
    assert "in FOLDER/clap" in caught.value.hint and "--weights FOLDER" in caught.value.hint
    (tmp_path / "net.pth").write_bytes(CONTENT)
    (tmp_path / "clap").mkdir()
    assert published.missing(["vggish", "clap"], tmp_path) == []


def test_without_the_hub_one_is_told_how_to_bring_clap(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="connection failed") as caught:
        weights.load_embedder(PROTOCOL.text)
    assert "in FOLDER/clap" in caught.value.hint and "--weights FOLDER" in caught.value.hint
    assert "--model" not in caught.value.hint


def test_the_pinned_files_are_those_of_the_papers():
    """Written down a second time, from their publishers: a slip of the keyboard shows."""
    cnn14, vggish = weights.WEIGHTS["cnn14"], weights.WEIGHTS["vggish"]
    assert cnn14.sha256.startswith("e2ee543a") and "3987831" in cnn14.url
    assert vggish.sha256.startswith(vggish.file_name.split("-")[1].removesuffix(".pth"))
    assert len(cnn14.sha256) == len(vggish.sha256) == 64
    assert PROTOCOL.text.weights.startswith("laion/clap-htsat-unfused@")
    assert names.parse_name(PROTOCOL.text.weights).repo_id == "laion/clap-htsat-unfused"


def test_the_hub_is_asked_for_one_copy_of_clap():
    wanted = ["README.md", "config.json", "preprocessor_config.json", "merges.txt", "vocab.json"]
    wanted += ["tokenizer.json", "model.safetensors"]
    others = ["pytorch_model.bin", "onnx/model.onnx", "tf_model.h5"]
    assert listing.needed_files(wanted + others) == sorted(wanted)


def test_a_tagger_that_is_not_in_its_folder_is_named(tmp_path):
    (tmp_path / "tagger").mkdir()
    with pytest.raises(CheckpointError, match="tagger"):
        weights.load_embedder(PROTOCOLS["embedded"].classifier, weights_folder=tmp_path)
