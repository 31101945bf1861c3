"""Published test lists and the files of AudioCaps' downloaders -> prompts and real sounds."""

import csv
import json
import sys
from pathlib import Path

import pytest

from small_data import write_sound

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "comparison"))

import test_list as recipe

CAPTIONS = {"7fmOlUlwoNg": "A machine\nclicks", "-JP1GqPEKtw": "A saw", "_AcJVyToQUQ": "Laughter"}


def lines(rows):
    return "\n".join(map(json.dumps, rows))


def write_table(path):
    rows = [
        (str(number), id, "20", caption)
        for number, (id, caption) in enumerate(
            [*CAPTIONS.items(), ("7fmOlUlwoNg", "Another caption")], start=100
        )
    ]
    with path.open("w", newline="") as file:
        names = ("audiocap_id", "youtube_id", "start_time", "caption")
        csv.writer(file).writerows([names, *rows])


def write_lists(folder):
    """The same clips as the papers publish them."""
    tango = [{"location": f"/data/{id}_20.wav", "captions": text} for id, text in CAPTIONS.items()]
    (folder / "tango.json").write_text(lines(tango))
    ours = [{"audio_path": f"/data/{id}_0.wav", "text": text} for id, text in CAPTIONS.items()]
    (folder / "auffusion.json").write_text(lines(ours))
    audioldm = [{"wav": f"/mnt/Y{id}.wav", "caption": text} for id, text in CAPTIONS.items()]
    (folder / "audioldm.json").write_text(json.dumps({"data": audioldm}))
    write_table(folder / "test.csv")


def made(capsys, arguments, folder):
    recipe.main([*map(str, arguments), "-o", str(folder)])
    with (folder / "prompts.csv").open() as file:
        prompts = {row["name"]: row["prompt"] for row in csv.DictReader(file)}
    sounds = {path.stem: path.resolve().name for path in (folder / "real").iterdir()}
    return prompts, sounds, capsys.readouterr().out


@pytest.mark.parametrize("name", ["tango.json", "auffusion.json", "audioldm.json", "test.csv"])
def test_all_lists_name_the_same_clips(tmp_path, capsys, name):
    """The third clip is not there."""
    write_lists(tmp_path)
    sounds = tmp_path / "sounds"
    for path in ("audio/7fmOlUlwoNg_20.wav", "Y-JP1GqPEKtw.wav", "other.wav"):
        write_sound(sounds / path, duration_s=0.2)
    prompts, links, printed = made(capsys, [tmp_path / name, "--sounds", sounds], tmp_path / "made")
    assert prompts == {"7fmOlUlwoNg": "A machine clicks", "-JP1GqPEKtw": "A saw"}
    assert links == {"7fmOlUlwoNg": "7fmOlUlwoNg_20.wav", "-JP1GqPEKtw": "Y-JP1GqPEKtw.wav"}
    assert "2 of 3 clips" in printed


def test_files_with_the_numbers_of_the_table_are_found(tmp_path, capsys):
    audiocaps = tmp_path / "audiocaps"
    for path in ("train/101.wav", "test/102.wav"):
        write_sound(audiocaps / path, duration_s=0.2)
    write_table(audiocaps / "test.csv")
    arguments = [audiocaps / "test.csv", "--sounds", audiocaps]
    prompts, links, _ = made(capsys, arguments, tmp_path / "made")
    assert prompts == {"_AcJVyToQUQ": "Laughter"} and links == {"_AcJVyToQUQ": "102.wav"}
    with pytest.raises(SystemExit, match="exists"):  # nothing is replaced
        made(capsys, arguments, tmp_path / "made")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"location": "a/../../7fmOlUlwoNgX.wav", "captions": "x"}', "line 1"),
        ('{"location": "7fmOlUlwoNg_20.wav", "captions": ["x"]}', "line 1"),
        ('{"data": [3]}', r"data\[0\]"),
        ("[" * 100_000, "line 1"),
        ('{"location": "7fmOlUlwoNg_20.wav", "captions": "x"}', "has none of 1 clips"),
    ],
)
def test_what_is_no_list_is_told(tmp_path, content, reason):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SystemExit, match=reason):
        recipe.main(
            [str(tmp_path / "x.json"), "--sounds", str(tmp_path), "-o", str(tmp_path / "o")]
        )
    assert not (tmp_path / "o").exists()
