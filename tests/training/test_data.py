"""Lists in all forms, damaged in all ways."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.training.data import Clip, Manifest, load_clips
from auffusion_cli.training.list_values import Reading
from small_data import write_lines, write_sound

rows_of_junk = st.lists(
    st.dictionaries(
        st.sampled_from(["file_name", "text", "phrases", "kind", "role", "start_s", "duration_s"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
    ),
    max_size=4,
)


def write_table(path: Path, columns: list[str], rows: list[list]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


# Recognised forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "train/7.ogg",
        "audio/train/7.wav",
        "train/7.mp3",
        "-a_B_30.wav",
        "audio/-a_B_30.flac",
        "-a_B.wav",
        "Y-a_B.WAV",
        "train/Y-a_B.flac",
    ],
)
def test_audiocaps_finds_audio_under_every_name(tmp_path, name):
    columns = ["audiocap_id", "youtube_id", "start_time", "caption"]
    write_table(tmp_path / "train.csv", columns, [["7", "-a_B", "30", "A dog, barking\n twice"]])
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert load_clips(tmp_path) == Manifest((Clip(tmp_path / name, ("A dog, barking twice",)),))


@pytest.mark.parametrize("suffix", [".opus", ".aiff", ".AIF", ".w64"])
def test_audiocaps_finds_every_format_that_can_be_read(tmp_path, suffix):
    columns = ["audiocap_id", "youtube_id", "start_time", "caption"]
    write_table(tmp_path / "train.csv", columns, [["7", "abc", "30", "A dog\nbarks"]])
    (tmp_path / f"abc_30{suffix}").touch()
    (clip,) = load_clips(tmp_path).clips
    assert (clip.path.suffix, clip.captions) == (suffix, ("A dog barks",))


def test_audiocaps_merges_captions_and_lists_what_is_missing(tmp_path):
    columns = ["audiocap_id", "youtube_id", "start_time", "caption"]
    rows = [["1", "aa", 0, "one"], ["2", "bb", 10, "gone"], ["3", "aa", 0, "two"]]
    write_table(tmp_path / "test.csv", columns, rows)
    (tmp_path / "2.wav").touch()  # a number outside the split's folder is no audiocap_id
    (tmp_path / "test").mkdir()
    (tmp_path / "test/3.ogg").touch()
    manifest = load_clips(tmp_path, "test")
    assert manifest.clips == (Clip(tmp_path / "test/3.ogg", ("one", "two")),)
    (problem,) = manifest.problems
    assert problem.reason == "missing"
    assert "test.csv, line 3" in problem.where
    assert "bb" in problem.detail
    with pytest.raises(DataError, match=r"no val\.csv"):
        load_clips(tmp_path, "val")


def test_metadata_jsonl_with_every_field(tmp_path):
    write_sound(tmp_path / "train/a/dog.wav")
    row = {
        "file_name": "a/dog.wav",
        "text": ["A dog barks.", " a dog\tbarking ", "A dog barks."],
        "phrases": "dog barking",
        "kind": "dog",
        "role": "event",
        "start_s": 1.5,
        "duration_s": 2,
        "credit": {"unknown": "keys are ignored"},
    }
    write_lines(tmp_path / "train/metadata.jsonl", [row, {**row, "text": "woof", "kind": None}])
    expected = Clip(
        path=tmp_path / "train/a/dog.wav",
        captions=("A dog barks.", "a dog barking", "woof"),
        phrases=("dog barking",),
        kind="dog",
        role="event",
        start_s=1.5,
        duration_s=2.0,
    )
    assert load_clips(tmp_path) == Manifest((expected,))


def test_metadata_csv_rows_are_wordings(tmp_path):
    write_sound(tmp_path / "a.wav")
    rows = [["a.wav", "one, with a comma"], ["a.wav", "two"], ["b.wav", "gone"], ["a.wav", ""]]
    write_table(tmp_path / "metadata.csv", ["file_name", "text"], rows)
    manifest = load_clips(tmp_path)
    assert [clip.captions for clip in manifest.clips] == [("one, with a comma", "two")]
    assert [(p.reason, p.where) for p in manifest.problems] == [
        ("missing", f"{tmp_path / 'metadata.csv'}, line 4")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path, separator, encoding):
    table = 'file_name,text\r\na.wav,"A dög;\nbarks, twice"\r\n'.replace(",", separator, 1)
    table = table.replace("a.wav,", f"a.wav{separator}")
    (tmp_path / "metadata.csv").write_bytes(table.encode(encoding))
    write_sound(tmp_path / "a.wav")
    (clip,) = load_clips(tmp_path).clips
    assert clip.captions == ("A dög; barks, twice",)


def test_validation_folder_is_val_and_undivided_data_is_train(tmp_path):
    write_sound(tmp_path / "set/validation/a.wav")
    write_lines(tmp_path / "set/validation/metadata.jsonl", [{"file_name": "a.wav", "text": "a"}])
    assert len(load_clips(tmp_path / "set", "val").clips) == 1
    with pytest.raises(DataError, match="not divided into splits"):
        load_clips(tmp_path / "set/validation", "test")


@pytest.mark.parametrize("keys", [("audio_path", "text"), ("location", "captions")])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_lines_as_tango_and_the_original_write_them(tmp_path, keys, suffix):
    inside = write_sound(tmp_path / "lists/audio/a.wav")
    elsewhere = write_sound(tmp_path / "elsewhere/b.wav")
    rows = [
        {"dataset_name": "x", keys[0]: name, keys[1]: text}
        for name, text in [("audio/a.wav", "a"), (str(elsewhere), "b"), ("c.wav", "c")]
    ]
    manifest = load_clips(write_lines(tmp_path / f"lists/train{suffix}", rows))
    assert [(clip.path, clip.captions) for clip in manifest.clips] == [
        (inside, ("a",)),
        (elsewhere, ("b",)),
    ]
    assert [problem.reason for problem in manifest.problems] == ["missing"]


def test_wavcaps(tmp_path):
    rows = [{"id": "Yab.wav", "caption": "A.", "duration": 1.0}, {"id": 12, "caption": ""}]
    (tmp_path / "list.json").write_text(json.dumps({"num_captions_per_audio": 1, "data": rows}))
    audio = tmp_path / "waveforms/Yab.flac"
    audio.parent.mkdir()
    audio.touch()
    (tmp_path / "12.flac").touch()
    manifest = load_clips(tmp_path / "list.json")
    assert manifest.clips == (Clip(audio, ("A.",)),)
    assert [(p.reason, p.where) for p in manifest.problems] == [
        ("captionless", f"{tmp_path / 'list.json'}, data[1]")
    ]


def test_audioldm(tmp_path):
    sound = write_sound(tmp_path / "audio/a.wav")
    rows = [
        {"wav": "audio/a.wav", "seg_label": "", "labels": "/m/01", "caption": "A\ndog"},
        {"wav": str(sound), "caption": "B"},
    ]
    (tmp_path / "list.json").write_text(json.dumps({"data": rows}))
    clips = load_clips(tmp_path / "list.json").clips
    assert [(clip.path, clip.captions) for clip in clips] == [(sound, ("A dog",)), (sound, ("B",))]


def test_sounds_that_cannot_be_read_are_listed_unless_one_of_their_name_can(tmp_path):
    for name in ("a.m4a", "b.m4a", "b.wav", "c/d.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).with_suffix(".txt").write_text("a sound")
    clips = load_clips(tmp_path).clips
    assert sorted(clip.path.name for clip in clips) == ["a.m4a", "b.wav", "d.webm"]


def test_audiocaps_prefers_audio_that_can_be_read(tmp_path):
    columns = ["audiocap_id", "youtube_id", "start_time", "caption"]
    write_table(tmp_path / "train.csv", columns, [["7", "abc", "30", "A"], ["8", "def", "0", "B"]])
    for name in ("abc_30.m4a", "converted/abc_30.flac", "def_0.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = load_clips(tmp_path).clips
    assert [clip.path.name for clip in clips] == ["abc_30.flac", "def_0.m4a"]


def test_sounds_with_a_text_file_beside_each(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("A dog barks.\n\na  dog\n")
    write_sound(tmp_path / "more/b.flac")
    write_sound(tmp_path / "val/c.wav")
    (tmp_path / "val/c.txt").write_text("a cat")
    manifest = load_clips(tmp_path)
    assert manifest.clips == (Clip(tmp_path / "a.wav", ("A dog barks.", "a dog")),)
    assert [(p.reason, p.where) for p in manifest.problems] == [
        ("captionless", str(tmp_path / "more/b.txt"))
    ]
    assert load_clips(tmp_path, "val").clips == (Clip(tmp_path / "val/c.wav", ("a cat",)),)
    with pytest.raises(DataError, match=r"no test\.csv"):
        load_clips(tmp_path, "test")
    with pytest.raises(UsageError, match=r"--caption-column: text files .* have no columns"):
        load_clips(tmp_path, reading=Reading(caption_column="text"))
    (tmp_path / "a.txt").write_bytes(b"x" * 200_000)
    with pytest.raises(DataError, match=r"a\.txt: is larger than"):
        load_clips(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_is_a_list(tmp_path, suffix):
    sound = write_sound(tmp_path / "a.wav")
    separator = "\t" if suffix == ".tsv" else ","
    table = "audio_path,caption\na.wav,a dog\na.wav,woof\n".replace(",", separator)
    (tmp_path / f"list{suffix}").write_text(table)
    assert load_clips(tmp_path / f"list{suffix}") == Manifest((Clip(sound, ("a dog", "woof")),))
    (tmp_path / f"list{suffix}").write_text("path\na.wav\n")
    with pytest.raises(DataError, match="line 2: has no audio_path, location, file_name, wav"):
        load_clips(tmp_path / f"list{suffix}")


def test_tables_of_a_folder_may_be_tsv(tmp_path):
    sound = write_sound(tmp_path / "train/7.wav")
    (tmp_path / "train.tsv").write_text(
        'audiocap_id\tyoutube_id\tstart_time\tcaption\n7\tab\t30\t"A dog\nbarks"\n'
    )
    assert load_clips(tmp_path).clips == (Clip(sound, ("A dog barks",)),)
    (tmp_path / "train/metadata.tsv").write_text("file_name\ttext\n7.wav\ta dog\n")
    (tmp_path / "train.tsv").unlink()
    assert load_clips(tmp_path).clips == (Clip(sound, ("a dog",)),)


def write_data(folder, name, content):
    """A sound and what describes it; returns what `--data` names."""
    write_sound(folder / "a.wav")
    (folder / name).write_text(content)
    return folder / name if name.startswith("list") else folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,caption_1,caption_2,caption_3\na.wav,one,,two\n"),
        ("list.csv", "file_name,caption_1,keywords,caption_2\na.wav,one,dog,two\n"),
        ("list.jsonl", '{"audio_path": "a.wav", "caption1": "one", "caption2": "two"}'),
    ],
)
def test_captions_may_be_in_numbered_columns_as_clothos(tmp_path, name, content):
    data = write_data(tmp_path, name, content)
    (clip,) = load_clips(data).clips
    assert clip.captions == ("one", "two")
    first = Reading(caption_column="caption1" if "caption1" in content else "caption_1")
    (clip,) = load_clips(data, reading=first).clips
    assert clip.captions == ("one",)


AUDIOCAPS_ROW = "audiocap_id,youtube_id,start_time,caption,sentence\n7,a,30,no,yes\n"


def test_a_table_of_audiocaps_by_itself_is_told_from_a_list(tmp_path):
    (tmp_path / "train.csv").write_text(AUDIOCAPS_ROW)
    with pytest.raises(DataError, match="line 2: has no audio_path") as caught:
        load_clips(tmp_path / "train.csv")
    assert caught.value.hint == "Of AudioCaps name the folder of its tables."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", AUDIOCAPS_ROW),
        ("metadata.csv", "file_name,text,sentence\na.wav,no,yes\n"),
        ("metadata.jsonl", '{"file_name": "a.wav", "text": "no", "sentence": ["yes"]}'),
        ("list.jsonl", '{"audio_path": "a.wav", "text": "no", "sentence": "yes"}'),
        ("list.json", '{"data": [{"wav": "a.wav", "caption": "no", "sentence": "yes"}]}'),
        ("list.json", '{"data": [{"id": "a", "caption": "no", "sentence": "yes"}]}'),
    ],
)
def test_captions_come_from_the_column_asked_for(tmp_path, name, content):
    data = write_data(tmp_path, name, content)
    (clip,) = load_clips(data, reading=Reading(caption_column="sentence")).clips
    assert clip.captions == ("yes",)
    with pytest.raises(DataError, match=r"(has no|no column) '?other") as caught:
        load_clips(data, reading=Reading(caption_column="other"))
    assert "sentence" in caught.value.hint and "--caption-column" in caught.value.hint


def test_lists_in_the_encoding_asked_for(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.wav,Tür\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text") as caught:
        load_clips(tmp_path)
    assert "--encoding" in caught.value.hint
    (clip,) = load_clips(tmp_path, reading=Reading(encoding="latin-1")).clips
    assert clip.captions == ("Tür",)
    with pytest.raises(DataError, match="'latin-x' is not the name of an encoding"):
        load_clips(tmp_path, reading=Reading(encoding="latin-x"))


# Hostile and damaged lists ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../a.wav",
        "/etc/passwd",
        "b/../../a.wav",
        "..\\a.wav",
        "C:\\a.wav",
        "\\\\host\\a",
        "a\0.wav",
    ],
)
def test_paths_stay_in_the_folder(tmp_path, name):
    write_sound(tmp_path / "a.wav")
    rows = [{"file_name": "fine.wav", "text": "x"}, {"file_name": name, "text": "x"}]
    write_lines(tmp_path / "set/metadata.jsonl", rows)
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2: file_name"):
        load_clips(tmp_path / "set")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"file_name": "a.wav", "text": "x"}\n{"file_na', "line 2: is not JSON"),
        (b"[" * 100_000, "line 1: is nested too deeply"),
        (b"1" * 5000, "line 1: holds a number with too many digits|line 1: is not a JSON object"),
        (b'["a.wav"]', "line 1: is not a JSON object"),
        (b'{"file_name": "a.wav", "text": 3}', "text holds int"),
        (b'{"file_name": "a.wav", "text": ["x", null]}', "text holds NoneType"),
        (b'{"file_name": "a.wav", "text": "\\ud800"}', "text is not valid Unicode"),
        (b'{"file_name": "a.wav", "text": "\\u0000"}', "text is not valid Unicode"),
        (b'{"file_name": "a.wav", "text": "' + b"x" * 3000 + b'"}', "3000 characters"),
        (b'{"file_name": "a.wav", "text": "x", "role": "chorus"}', "one of event, background"),
        (b'{"file_name": "a.wav", "text": "x", "start_s": NaN}', "start_s is nan"),
        (b'{"file_name": "a.wav", "text": "x", "duration_s": "-1"}', "duration_s is '-1'"),
        (b'{"text": "x"}', "file_name is missing"),
        (b'{"file_name": "a.wav", "text": "\xff"}', "is not UTF-8"),
        (b"", "lists no clips"),
    ],
)
def test_damaged_jsonl_names_file_and_line(tmp_path, content, message):
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_clips(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,text\na.wav,x\n", "no column file_name"),
        ("file,caption\na.wav,x\n", "no column file_name, text"),
        ("", "lists no clips"),
        ("file_name,text\na.wav,x,y\n", "line 2: has 3 fields; the header has 2"),
        ("file_name,text\na.wav\n", "line 2: has 1 fields; the header has 2"),
        ('file_name,text\na.wav,"never closed\n', "line 2: is not CSV: a quote is not closed"),
        ("file_name,text\na.wav,half a\ncaption\n", "line 2: may go on in line 3"),
        (f'file_name,text\na.wav,"{"x" * 200_000}"\n', "field larger than field limit"),
    ],
)
def test_damaged_csv_names_file_and_line(tmp_path, content, message):
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load_clips(tmp_path)


def test_clips_that_contradict_themselves(tmp_path):
    rows = [{"file_name": "a.wav", "text": "x", "kind": kind} for kind in ("dog", "cat")]
    write_lines(tmp_path / "metadata.jsonl", rows)
    with pytest.raises(DataError, match="line 2: kind 'cat' differs"):
        load_clips(tmp_path)


def test_nothing_recognised(tmp_path):
    with pytest.raises(UsageError, match=r"--data .* does not exist"):
        load_clips(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no train\.csv"):
        load_clips(tmp_path)
    (tmp_path / "list.jsonl").touch()
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path)
    assert "list.jsonl" in caught.value.hint
    with pytest.raises(UsageError, match="neither a folder nor"):
        load_clips(write_sound(tmp_path / "a.wav"))


text = st.characters(codec="utf-8", exclude_characters="\0")
hostile = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@hostile
@given(content=st.binary(max_size=200) | rows_of_junk.map(lambda rows: json.dumps(rows).encode()))
@pytest.mark.parametrize(
    "name", ["metadata.csv", "metadata.jsonl", "train.csv", "list.json", "list.jsonl", "list.tsv"]
)
def test_any_bytes_load_or_are_a_data_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        manifest = load_clips(path if name.startswith("list") else tmp_path)
    except DataError:
        return
    assert all(clip.captions and clip.path.is_file() for clip in manifest.clips)


@hostile
@given(rows=rows_of_junk)
def test_any_rows_load_or_are_a_data_error(tmp_path, rows):
    write_sound(tmp_path / "a.wav", duration_s=0.01)
    write_lines(tmp_path / "metadata.jsonl", [{"file_name": "a.wav", **row} for row in rows])
    try:
        manifest = load_clips(tmp_path)
    except DataError as error:
        assert str(tmp_path) in error.message
        return
    for clip in manifest.clips:
        assert clip.path.resolve().is_relative_to(tmp_path)
        assert all(text == " ".join(text.split()) for text in clip.captions)


@hostile
@given(texts=st.lists(st.text(text, min_size=1, max_size=50), min_size=1, max_size=4))
def test_csv_and_jsonl_agree(tmp_path, texts):
    """The same wordings, whatever characters they hold, come out of both forms alike."""
    for name in ("csv", "jsonl"):
        (tmp_path / name).mkdir(exist_ok=True)
        write_sound(tmp_path / name / "a.wav", duration_s=0.01)
    write_lines(tmp_path / "jsonl/metadata.jsonl", [{"file_name": "a.wav", "text": texts}])
    table = tmp_path / "csv/metadata.csv"
    write_table(table, ["file_name", "text"], [["a.wav", text] for text in texts])
    one, other = load_clips(tmp_path / "jsonl"), load_clips(tmp_path / "csv")
    assert [clip.captions for clip in one.clips] == [clip.captions for clip in other.clips]
