"""`auffusion models`: what it prints, asks, fetches and writes."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from typer.testing import CliRunner

from auffusion_cli.checkpoints import download, names
from auffusion_cli.checkpoints.lora import save_lora
from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation import published
from file_server import FileServer
from hub_server import COMMIT, HubServer

GOLDEN = Path(__file__).parents[2] / "golden" / "tiny-auffusion"


def run(*arguments: object):
    return CliRunner().invoke(build_app(), ["models", *map(str, arguments)])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The Hub with the golden checkpoint as org/model, and with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    paths = [path for path in GOLDEN.rglob("*") if path.is_file()]
    with HubServer({str(p.relative_to(GOLDEN)): p.read_bytes() for p in paths}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_list_names_every_known_checkpoint(server):
    result = run("list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in names.KNOWN)
    rows = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == [*names.KNOWN, "cnn14", "vggish", "yamnet", "clap"]
    assert [row["name"] for row in rows if row["here"]] == ["embedded"]
    assert server.requests == []


def test_pull_then_info(server):
    assert "is not on this machine" in run("info", "org/model").stderr
    result = run("pull", "org/model")
    assert result.exit_code == 0
    folder = Path(result.stdout.strip())
    assert (folder / "unet" / "config.json").is_file()
    info = json.loads(run("info", "org/model", "--json").stdout)
    assert (info["revision"], info["layout"]) == (COMMIT, "adapter")
    assert info["size_bytes"] > info["weights_bytes"] > 4_000_000
    assert json.loads(run("pull", "org/model", "--json").stdout)["licence"] == "cc-by-4.0"


def test_pull_asks_before_a_large_download(server, monkeypatch):
    monkeypatch.setattr(download, "CONFIRM_ABOVE_BYTES", 1_000_000)
    refused = run("pull", "org/model")
    assert refused.exit_code != 0 and "--yes" in refused.stderr
    assert "licence: cc-by-4.0" in refused.stderr and "4.3 MB" in refused.stderr
    assert server.downloads(".bin") == []
    assert run("pull", "org/model", "--yes").exit_code == 0


def test_the_embedded_models_card_and_credits_are_there_to_read():
    info = json.loads(run("info", "embedded", "--json").stdout)
    assert "kinds of sound" in Path(info["model_card"]).read_text()
    assert info["licence"] == "see CREDITS.md"
    assert Path(info["credits"]).is_file() and info["credits"] in run("list").stderr


def test_what_a_training_keeps_beside_its_result_is_no_part_of_the_model(tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "run")
    before = json.loads(run("info", folder, "--json").stdout)
    shutil.copytree(GOLDEN, folder / "checkpoints" / "step-00000001")
    after = json.loads(run("info", folder, "--json").stdout)
    assert after == before


def test_info_of_a_folder_in_words():
    result = run("info", GOLDEN)
    assert result.exit_code == 0
    assert "CLIPTextModel" in result.stdout and "AutoencoderKL" in result.stdout


def test_info_of_a_lora_and_of_its_folder(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    layers = {f"mid_block.{i}.to_q": (torch.ones(2, 8), torch.ones(8, 2)) for i in range(3)}
    save_lora(layers, path, trigger="a gong", base="embedded")
    expected = {"kind": "LoRA", "file": str(path), "trigger": "a gong", "base": "embedded"}
    expected |= {"ranks": [2], "layers": 3, "size_bytes": path.stat().st_size}
    for name in (path, tmp_path):
        assert json.loads(run("info", name, "--json").stdout) == expected
    shown = run("info", path).stdout
    assert "trigger:             a gong\n" in shown and "ranks:               2\n" in shown
    path.write_bytes(path.read_bytes()[:-10])
    assert "truncated in tensor" in run("info", path).stderr


def test_convert(tmp_path):
    output = tmp_path / "half"
    result = run("convert", GOLDEN, "-o", output, "--dtype", "bf16")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(output)
    unet = load_file(output / "unet" / "diffusion_pytorch_model.safetensors")
    assert {str(tensor.dtype) for tensor in unet.values()} == {"torch.bfloat16"}
    info = json.loads(run("info", output, "--json").stdout)
    assert info["weight_formats"] == ["safetensors"]
    again = run("convert", GOLDEN, "-o", output)
    assert again.exit_code == 2 and "--overwrite" in again.stderr


def test_convert_refuses_damage_without_leaving_anything(tmp_path):
    broken = shutil.copytree(GOLDEN, tmp_path / "broken")
    (broken / "vocoder" / "vocoder.pt").write_bytes(b"PK\3\4")
    result = run("convert", broken, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "vocoder.pt" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_the_kinds_of_a_model_are_searched():
    table = run("kinds", "dog").stdout.splitlines()
    assert table[0].split() == ["KIND", "RECORDINGS", "SHARE-ALIKE", "PROMPT"]
    assert table[1].startswith("dog barking ")
    (first, *_) = [json.loads(line) for line in run("kinds", "dog", "--json").stdout.splitlines()]
    assert first["name"] == "dog barking" and first["n_recordings"] == sum(
        first["licences"].values()
    )
    shown = run("info", "embedded", "--kinds").stdout
    assert "dog barking" in shown and "thunder" in shown
    nothing = run("kinds", "theremin")
    assert nothing.exit_code == 2 and "'theremin'" in nothing.stderr
    none = run("kinds", "--model", GOLDEN)
    assert none.exit_code == 2 and "does not list the kinds" in none.stderr


def test_the_defaults_of_a_model_name_the_vocoder_that_it_has(tmp_path):
    for has_vocoder, expected in ((True, "hifigan"), (False, "griffin-lim")):
        folder = shutil.copytree(GOLDEN, tmp_path / expected)
        if not has_vocoder:
            shutil.rmtree(folder / "vocoder")
        info = json.loads(run("info", folder, "--json").stdout)
        assert info["vocoder"] == info["generation"]["vocoder"] == expected


@pytest.mark.parametrize("command", ["info", "pull"])
def test_no_such_checkpoint(command):
    result = run(command, "no such")
    assert result.exit_code == 2 and "NAME 'no such'" in result.stderr
    assert "auffusion-full" in result.stderr


def test_an_installation_without_the_embedded_model(monkeypatch):
    def missing():
        raise CheckpointError("the embedded model is missing from this installation")

    monkeypatch.setattr(download, "embedded_folder", missing)
    listed = run("list")
    assert listed.exit_code == 0 and "embedded" in listed.stdout
    plan = CliRunner().invoke(build_app(), ["generate", "dog", "--dry-run"])
    for result in (run("info", "embedded"), plan):
        assert result.exit_code == 1 and "missing from this installation" in result.stderr


# --- what an evaluation listens with

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def publisher(server, monkeypatch):
    """The server of VGGish's file, which has no more than 10 kB here."""
    with FileServer(CONTENT) as files:
        file = replace(
            published.WEIGHTS["vggish"],
            url=f"http://127.0.0.1:{files.server_address[1]}/vggish.pth",
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            approximate_bytes=len(CONTENT),
        )
        monkeypatch.setitem(published.WEIGHTS, "vggish", file)
        yield files


def test_an_evaluations_network_is_pulled_once_and_listed(publisher, tmp_path):
    before = json.loads(run("info", "vggish", "--json").stdout)
    assert before["here"] is False and before["licence"] == "Apache-2.0"
    assert before["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    result = run("pull", "vggish")
    assert result.exit_code == 0, result.stderr
    place = Path(result.stdout.strip())
    assert str(place) == before["place"] and place.read_bytes() == CONTENT
    assert json.loads(run("pull", "vggish", "--json").stdout)["here"] is True
    assert len(publisher.ranges) == 1
    lines = run("list", "--json").stdout.splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    assert rows["vggish"]["here"] and rows["vggish"]["size_bytes"] == len(CONTENT)
    assert not rows["cnn14"]["here"] and not rows["clap"]["here"]


def test_the_list_says_where_a_file_brought_by_hand_goes(publisher):
    result = run("list")
    file = published.WEIGHTS["vggish"]
    place = published.published_network("vggish").place
    told = " ".join(result.stderr.split())
    assert file.url in told and file.sha256 in told and str(place) in told.replace(" ", "")
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert file.url not in run("list").stderr
    assert run("pull", "vggish").exit_code == 0 and publisher.ranges == []


def test_another_file_in_its_place_is_refused(publisher):
    place = published.published_network("vggish").place
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another")
    result = run("pull", "vggish")
    assert result.exit_code == 1 and "is what was published" in result.stderr
    assert place.read_bytes() == b"another" and publisher.ranges == []


def test_clap_is_pulled_from_the_hub_at_its_commit(server, monkeypatch):
    clap = replace(published.CLAP, weights=f"org/model@{COMMIT}")
    monkeypatch.setattr(published, "CLAP", clap)
    names = ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"]
    server.files = {name: name.encode() for name in names}
    assert json.loads(run("info", "clap", "--json").stdout)["here"] is False
    result = run("pull", "clap")
    assert result.exit_code == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == sorted(names[:3])
    row = json.loads(run("info", "clap", "--json").stdout)
    assert row["here"] and row["source"] == f"org/model@{COMMIT}"
    assert row["size_bytes"] == sum(len(name) for name in names[:3])
    assert "here:" in run("info", "clap").stdout
