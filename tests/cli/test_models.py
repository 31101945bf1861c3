"""`auffusion models`: what it prints, asks, fetches and writes."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file
from typer.testing import CliRunner

from auffusion_cli import hub
from auffusion_cli.cli.app import build_app
from auffusion_cli.errors import CheckpointError
from hub_server import COMMIT, HubServer

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-auffusion"


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
    assert all(name in result.stdout for name in hub.KNOWN)
    rows = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == list(hub.KNOWN)
    assert not any(row["here"] for row in rows if row["repo_id"])
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
    monkeypatch.setattr(hub, "CONFIRM_ABOVE_BYTES", 1_000_000)
    refused = run("pull", "org/model")
    assert refused.exit_code != 0 and "--yes" in refused.stderr
    assert "licence: cc-by-4.0" in refused.stderr and "4.3 MB" in refused.stderr
    assert server.downloads(".bin") == []
    assert run("pull", "org/model", "--yes").exit_code == 0


def test_info_of_a_folder_in_words():
    result = run("info", GOLDEN)
    assert result.exit_code == 0
    assert "CLIPTextModel" in result.stdout and "AutoencoderKL" in result.stdout


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


@pytest.mark.parametrize("command", ["info", "pull"])
def test_no_such_checkpoint(command):
    result = run(command, "no such")
    assert result.exit_code == 1 and "known name" in result.stderr


def test_an_installation_without_the_embedded_model(monkeypatch):
    def missing():
        raise CheckpointError("the embedded model is missing from this installation")

    monkeypatch.setattr(hub, "embedded_folder", missing)
    listed = run("list")
    assert listed.exit_code == 0 and "embedded" in listed.stdout
    plan = CliRunner().invoke(build_app(), ["generate", "dog", "--dry-run"])
    for result in (run("info", "embedded"), plan):
        assert result.exit_code == 1 and "missing from this installation" in result.stderr
