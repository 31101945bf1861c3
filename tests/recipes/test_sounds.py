"""The data set recipe: its table, its cutting and its archive readers, without any download."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded"
sys.path.insert(0, str(RECIPE))

import archives  # noqa: E402
import attribution  # noqa: E402
import build_sounds  # noqa: E402
import rendered  # noqa: E402

RATE = build_sounds.SAMPLE_RATE


@pytest.fixture(scope="module")
def kinds() -> list[build_sounds.Kind]:
    return build_sounds.load_kinds(RECIPE / "kinds.yaml")


def make_clip(kind: build_sounds.Kind, samples: np.ndarray, path: str) -> build_sounds.Clip:
    return build_sounds.Clip(kind, samples, "pkg", path, build_sounds.group_of("pkg", path), 0)


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    """Noise with an envelope of its own, so that two seeds are two sounds."""
    rng = np.random.default_rng(seed)
    size = int(seconds * RATE)
    envelope = np.interp(np.arange(size), np.linspace(0, size, 24), rng.uniform(0, 1, 24))
    return (rng.standard_normal(size) * envelope).astype(np.float32)


def test_table_is_rich_and_well_formed(kinds: list[build_sounds.Kind]) -> None:
    assert len(kinds) >= 150
    assert sum(kind.core for kind in kinds) >= 45
    for kind in kinds:
        assert kind.role in ("event", "background"), kind.name
        assert len(set(kind.phrases) | set(kind.captions)) >= 3, kind.name
        assert kind.sources, kind.name
        assert all(isinstance(text, str) for text in kind.phrases + kind.captions), kind.name


def test_patterns_match_the_end_of_a_path() -> None:
    assert build_sounds.matches("games/x/Sounds/Bark.ogg", "Sounds/Bark")
    assert build_sounds.matches("games/x/rain.wav", "rain")
    assert not build_sounds.matches("games/x/train.wav", "rain")
    assert not build_sounds.matches("games/x/Bark2.ogg", "Bark")


def test_trim_and_segments() -> None:
    sound = np.concatenate([np.zeros(RATE), noise(1, 20.0), np.zeros(RATE)]).astype(np.float32)
    trimmed = build_sounds.trim(sound)
    assert 19.5 * RATE < trimmed.size < 20.2 * RATE
    pieces = build_sounds.segments(trimmed)
    assert len(pieces) == 3
    assert max(piece.size for piece in pieces) <= build_sounds.SEGMENT_SECONDS * RATE
    assert build_sounds.trim(np.zeros(RATE, np.float32)).size == 0
    assert len(build_sounds.segments(noise(2, 120.0))) == build_sounds.SEGMENTS_PER_FILE


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bursts_are_counted(count: int) -> None:
    bark = noise(3, 0.2) + 0.5
    gap = np.zeros(int(0.4 * RATE), np.float32)
    sound = np.concatenate([part for _ in range(count) for part in (bark, gap)])
    assert build_sounds.count_bursts(sound) == count


def test_duplicates_go_and_strangers_stay(kinds: list[build_sounds.Kind]) -> None:
    one, other = noise(4), noise(5)
    again = one + 0.003 * np.random.default_rng(0).standard_normal(one.size).astype(np.float32)
    clips = [make_clip(kinds[0], s, f"{i}.wav") for i, s in enumerate([one, other, again, one])]
    assert [clip.path for clip in build_sounds.drop_duplicates(clips)] == ["0.wav", "1.wav"]


def test_split_holds_out_whole_groups(kinds: list[build_sounds.Kind]) -> None:
    clips = [make_clip(kinds[0], noise(6, 0.2), f"dog_{i // 2}.wav") for i in range(40)]
    held = build_sounds.test_groups(clips, core=True)
    assert 2 <= len(held) <= 4
    assert not build_sounds.test_groups(clips[:2], core=True)
    assert len(build_sounds.test_groups(clips[:10], core=False)) == 1


def test_captions_are_several_and_repeatable(kinds: list[build_sounds.Kind]) -> None:
    for kind in kinds:
        clip = make_clip(kind, noise(7, 0.3), "a.wav")
        texts = build_sounds.captions(clip)
        assert len(texts) >= 2
        assert texts == build_sounds.captions(clip)


def test_containers() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sound/dog.ogg", b"OggS")
        archive.writestr("readme.txt", b"no")
    found = list(archives.sounds_in("a.pk3", buffer.getvalue()))
    assert found == [("a.pk3/sound/dog.ogg", b"OggS")]

    riff = b"RIFF" + bytes(60)
    entry = bytes([4]) + b"Cow\0" + riff
    cat = struct.pack("<II", 8, len(riff)) + entry
    assert list(archives.sounds_in("b.cat", cat)) == [("b.cat/00_Cow.wav", riff)]


def test_qt_resources() -> None:
    def name(text: str) -> bytes:
        return struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")

    names = name("dir") + name("a.ogg")
    body = b"OggS-data"
    payload = struct.pack(">I", len(body)) + body
    tree = struct.pack(">IHII", 0, 2, 1, 1)
    tree += struct.pack(">IHII", 0, 2, 1, 2)
    tree += struct.pack(">IHHHI", len(name("dir")), 0, 0, 0, 0)
    offsets = (20, 20 + len(tree), 20 + len(tree) + len(payload))
    data = b"qres" + struct.pack(">4I", 1, *offsets) + tree + payload + names
    assert list(archives.sounds_in("c.rcc", data)) == [("c.rcc/dir/a.ogg", body)]


def test_credits_follow_the_most_specific_paragraph(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "copyright").write_text(
        "Format: x\n\nFiles: *\nCopyright: Anna\nLicense: GPL-2+\n\n"
        "Files: data/sounds/dog.ogg data/cat.*\nCopyright: 2010 Berta\nLicense: CC0\n text\n"
    )
    licences = attribution.Licences(tmp_path)
    assert licences.of("pkg", "games/pkg/sounds/dog.ogg") == ("2010 Berta", "CC0")
    assert licences.of("pkg", "games/pkg/sounds/cow.ogg") == ("Anna", "GPL-2+")
    document = licences.document(["pkg:games/pkg/sounds/dog.ogg"])
    assert "CC0: 2010 Berta (1)" in document


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3+", "GPL-3.0-or-later"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("LGPL-3.0-or-later", "LGPL-3.0-or-later"),
        ("GPL", "GPL"),
        ("GPL-2 or GPL-3", "GPL-2.0-only OR GPL-3.0-only"),
        ("CC-BY-3.0 and CC0", "CC-BY-3.0 AND CC0-1.0"),
        ("CC-BY-SA-3", "CC-BY-SA-3.0"),
        ("CC-BY-SA-3.0+", "CC-BY-SA-3.0+"),
        ("Expat", "MIT"),
        ("Public Domain", "public-domain"),
        ("free-art", "free-art"),
    ],
)
def test_licences_have_the_names_of_spdx(name, expected):
    assert attribution.spdx(name) == attribution.spdx(expected) == expected


def test_midi_is_whole() -> None:
    data = rendered.midi(0, [(0.0, 1.0, 60, 100), (0.5, 1.0, 64, 100)])
    assert data[:4] == b"MThd" and data[14:18] == b"MTrk"
    assert struct.unpack(">I", data[18:22])[0] == len(data) - 22
    assert rendered.variable(0) == b"\x00"
    assert rendered.variable(480) == b"\x83\x60"


def test_missing_tools_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_sounds.shutil, "which", lambda tool: None)
    with pytest.raises(SystemExit, match="apt-get install espeak-ng"):
        build_sounds.require_tools()
