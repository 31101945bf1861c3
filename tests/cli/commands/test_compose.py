"""`models compose` and `models push`, on tiny parts; the Hub is played by a fake API."""

import json
import shutil

import huggingface_hub
import pytest
from typer.testing import CliRunner

from auffusion_cli.checkpoints.layout import read_conditions
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.cli.app import build_app
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import generate
from layouts import as_stable_diffusion, write_encoder


def run(*arguments: object):
    return CliRunner().invoke(build_app(), ["models", *map(str, arguments)])


def test_a_start_is_composed_and_makes_a_sound(tiny_checkpoint, tmp_path):
    tokenizer = tiny_checkpoint / "text_encoder_0"
    encoders = [write_encoder(tmp_path / kind, kind, tokenizer) for kind in ("t5", "clap")]
    unet = as_stable_diffusion(shutil.copytree(tiny_checkpoint, tmp_path / "sd"))
    arguments = ["compose", "--unet", unet, "-o", tmp_path / "init"]
    arguments += [part for folder in encoders for part in ("--text-encoder", folder)]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "init")
    types = [condition.condition_type for condition in read_conditions(tmp_path / "init")]
    assert types == ["t5_text", "clap_text_model_text"]
    settings = GenerateSettings(0.5, 1, 3.0, 0.0, "ddim")
    model = load_model(tmp_path / "init", device="cpu")
    (sound,) = generate(model, [GenerateRequest("a dog", seed=1)], settings)
    assert len(sound.waveform) == 8000
    again = run(*arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    wrong = run("compose", "--unet", "nowhere", "--text-encoder", encoders[0], "-o", tmp_path / "x")
    assert wrong.exit_code == 2 and "--unet 'nowhere'" in wrong.stderr


class FakeHub:
    """What `push` uses of `HfApi`: one repository, and the commits to it."""

    def __init__(self, files=(), error=None):
        self.files, self.error, self.created, self.commits = list(files), error, [], []

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error:
            raise self.error
        self.created.append((repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def list_repo_files(self, repo_id):
        return self.files

    def create_commit(self, repo_id, operations, *, commit_message):
        self.commits.append({one.path_in_repo: one.path_or_fileobj for one in operations})


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


def test_the_models_files_are_pushed_with_a_card_after_a_question(hub, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "mine")
    (folder / "training.yaml").write_text("data: /home/me/private")
    for name in ("logs", "checkpoints"):
        (folder / name).mkdir()
        (folder / name / "step-1.bin").write_bytes(b"x")
    asked = run("push", folder, "me/mine")
    assert asked.exit_code == 2 and "no terminal to ask on" in asked.stderr and not hub.created
    planned = run("push", folder, "me/mine", "--dry-run")
    assert planned.exit_code == 0 and "unet/config.json" in planned.stdout and not hub.created
    result = run("push", folder, "me/mine", "--private", "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["address"] == "https://hub/me/mine"
    assert hub.created == [("me/mine", True, True)]
    (files,) = hub.commits
    assert {"unet/config.json", "condition_config.json"} <= files.keys()
    assert not any(name.startswith(("training", "logs", "checkpoints")) for name in files)
    if "README.md" not in {path.name for path in folder.iterdir()}:
        card = files["README.md"].decode()
        assert card.startswith("---\nlicense: other\n") and "--model me/mine" in card


def test_a_repository_with_a_model_is_not_replaced_unasked(hub, tiny_checkpoint):
    hub.files = ["model_index.json"]
    result = run("push", tiny_checkpoint, "me/mine", "--yes")
    assert result.exit_code == 2 and "holds a model already" in result.stderr and not hub.commits
    assert run("push", tiny_checkpoint, "me/mine", "--yes", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("repo_id", "error", "words"),
    [
        ("mine", None, "'mine' is not a repository's name"),
        ("auffusion", None, "'auffusion' is not a repository's name"),
        ("me/mine@v1", None, "'me/mine@v1' is not"),
        ("me/mine", OSError("no route to host"), "the Hub does not take it: no route"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(hub, tiny_checkpoint, repo_id, error, words):
    hub.error = error
    result = run("push", tiny_checkpoint, repo_id, "--yes")
    assert result.exit_code != 0 and words in result.stderr and "Traceback" not in result.output


def test_what_is_no_checkpoint_is_not_pushed(hub, tmp_path):
    result = run("push", tmp_path, "me/mine", "--yes")
    assert result.exit_code == 1 and "not a checkpoint" in result.stderr and not hub.created
