"""What is packed for a machine to which only little can be copied is what training takes."""

import json
import sys
from pathlib import Path

import numpy as np
import soundfile

from auffusion_cli.training.data import load_clips

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import pack


def test_packed_clips_are_smaller_and_sound_the_same(tmp_path, capsys):
    clips = tmp_path / "data" / "train" / "clips"
    clips.mkdir(parents=True)
    time_s = np.arange(32_000) / 16_000
    rows = []
    for name, hz in (("dog", 440.0), ("cat", 880.0)):
        sound = 0.3 * np.sin(2 * np.pi * hz * time_s) + 0.01 * np.random.default_rng(0).normal(
            size=len(time_s)
        )
        soundfile.write(clips / f"{name}.flac", sound, 16_000)
        rows.append({"file_name": f"clips/{name}.flac", "text": f"a {name}", "kind": name})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (clips.parent / "metadata.jsonl").write_text(lines)

    packed = pack.pack_sounds(clips.parent, tmp_path / "pack", pack.COMPRESSION_LEVEL)
    assert "2 clips; mean log-mel difference" in capsys.readouterr().out
    n_before, n_after = (
        sum(path.stat().st_size for path in folder.iterdir())
        for folder in (clips, packed / "train" / "clips")
    )
    assert n_after < n_before / 2
    found = load_clips(packed, "train").clips
    assert [clip.kind for clip in found] == ["dog", "cat"]
    for row in rows:
        before, _ = soundfile.read(clips.parent / row["file_name"])
        after, _ = soundfile.read((packed / "train" / row["file_name"]).with_suffix(".ogg"))
        loudest_hz = [np.abs(np.fft.rfft(sound[:32_000])).argmax() / 2 for sound in (before, after)]
        assert loudest_hz[0] == loudest_hz[1]
