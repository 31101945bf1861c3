"""Small checkpoints that several test files share."""

import json
import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers and a checkpoint made by the original implementation."""
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """The golden checkpoint with a window of 1.28 s and two steps, so that a sound is quick."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    shutil.copytree(GOLDEN / "tiny-auffusion", folder)
    generation = {
        "duration_s": 1.0,
        "max_duration_s": 1.28,
        "steps": 2,
        "guidance_scale": 3.0,
        "scheduler": "ddim",
    }
    identity = {"format_version": 1, "name": "tiny", "generation": generation}
    (folder / "auffusion.json").write_text(json.dumps(identity))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """`tiny_checkpoint` on the CPU; tests that change it take a copy."""
    from auffusion_cli.checkpoints import load_model

    return load_model(tiny_checkpoint, device="cpu")
