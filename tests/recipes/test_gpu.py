"""A training that comes back from a GPU machine in pieces, tried on a processor."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import soundfile

SCRIPT = Path(__file__).parents[2] / "recipes" / "embedded" / "gpu.sh"
TRIAL = ["loop.max_steps=2", "loop.batch_size=2", "loop.mixed_precision=no", "scenes.n_cached=8"]


def test_a_codec_is_trained_and_comes_back_in_pieces_of_15_mib(tmp_path):
    clips = tmp_path / "pack" / "sounds" / "train" / "clips"
    clips.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        soundfile.write(clips / f"{i}.wav", 0.1 * rng.standard_normal(90_000), 16_000)
        rows.append({"file_name": f"clips/{i}.wav", "text": "noise", "kind": "noise"})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (clips.parent / "metadata.jsonl").write_text(lines)
    settings = [*TRIAL, "autoencoder.n_fit_images=8"]
    options = [part for setting in settings for part in ("--set", setting)]
    runs = tmp_path / "runs"
    command = ["bash", str(SCRIPT), "codec", str(tmp_path / "pack"), str(runs), *options]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
    pieces = sorted((runs / "back" / "codec").iterdir())
    assert all(piece.stat().st_size <= 15 * 2**20 for piece in pieces)
    joined = io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(fileobj=joined) as archive:
        assert "vae/diffusion_pytorch_model.safetensors" in archive.getnames()


def test_an_unknown_stage_is_refused_by_name(tmp_path):
    result = subprocess.run(
        ["bash", str(SCRIPT), "texture", str(tmp_path), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "texture is none of codec, vocoder, diffusion, finetune" in result.stderr
    assert not (tmp_path / "runs").exists()
