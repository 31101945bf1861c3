"""Joined sounds: each recording once, credits of all packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded"
sys.path.insert(0, str(RECIPE))

import join_sounds  # noqa: E402


def write_sounds(folder: Path, split: str, *sources: str) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = [
        {"kind": "rain", "source": source, "licence": "MIT", "caption": "Ä"} for source in sources
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / split / "metadata.jsonl").write_text(text, "utf-8")


def test_recordings_of_all_folders_are_named_once(tmp_path, monkeypatch):
    before, now, out = tmp_path / "before", tmp_path / "now", tmp_path / "joined"
    write_sounds(before, "train", "pkg-a:x/one.wav", "pkg-a:x/two.wav")
    write_sounds(now, "train", "pkg-a:x/two.wav", "synthesised:rain_001.flac")
    write_sounds(before, "test", "pkg-b:three.wav")
    write_sounds(now, "test")
    copyright_file = tmp_path / "cache" / "sounds" / "pkg-a" / "copyright"
    copyright_file.parent.mkdir(parents=True)
    copyright_file.write_text("Files: *\nCopyright: 2001 A. Author\nLicense: CC-BY-4.0\n")
    arguments = ["--sounds", str(before), str(now), "--cache", str(tmp_path / "cache")]
    monkeypatch.setattr(sys, "argv", ["join_sounds.py", *arguments, "-o", str(out)])
    join_sounds.main()
    rows = [json.loads(line) for line in (out / "train" / "metadata.jsonl").open(encoding="utf-8")]
    assert [row["source"] for row in rows] == [
        "pkg-a:x/one.wav",
        "pkg-a:x/two.wav",
        "synthesised:rain_001.flac",
    ]
    text = (out / "CREDITS.md").read_text("utf-8")
    assert "## pkg-a (2 files)" in text
    assert "CC-BY-4.0: 2001 A. Author (2)" in text
    assert "## pkg-b (1 files)" in text
    assert "## synthesised (1 files)" in text
