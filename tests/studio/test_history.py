"""Everything made stays on the disk, as ordinary files, and is found again."""

import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import AudioError
from auffusion_cli.requests.finish import Finish
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import FinishRequest
from auffusion_cli.studio.history import History, UnknownSoundError


def record():
    """That of a file that was finished."""
    request = FinishRequest("clip.wav", "0" * 64)
    own = {"finish": Finish(peak_db=-1.0)}
    return Provenance.without_model(request, 1.2, np.zeros(2, np.int16), **own).to_dict()


@pytest.fixture
def add(history, recording_file):
    def add(title, **more):
        content = recording_file.read_bytes()
        return history.add(
            lambda path: path.write_bytes(content), title=title, task="recording", **more
        )

    return add


def test_it_is_there_again_after_a_restart(history, add):
    first = add("dog barking", remarks=["a remark"], record=record())
    second = add("thunder", parent=first.id)
    history.mark(first.id, "kept")
    again = History(history.folder)
    assert [sound.title for sound in again.search()] == ["thunder", "dog barking"]
    assert again.find(first.id) == history.find(first.id)
    assert again.find(first.id).state == "kept" and again.find(first.id).remarks == ("a remark",)
    assert again.source_path(second) == again.path(first)
    assert again.path(first).name.startswith("dog-barking-")


def test_all_words_have_to_occur(history, add):
    add("Dog barking in rain")
    add("rain on a roof")
    assert [sound.title for sound in history.search("RAIN dog")] == ["Dog barking in rain"]
    assert len(history.search("rain")) == 2 and history.search("dog roof") == []


def test_what_is_discarded_is_out_of_sight_until_it_is_deleted(history, add):
    sound = add("a click")
    history.mark(sound.id, "discarded")
    assert history.search() == [] and history.path(sound).exists()
    assert [one.id for one in history.search(state="discarded")] == [sound.id]
    history.delete(sound.id)
    assert list(history.folder.iterdir()) == []
    with pytest.raises(UnknownSoundError):
        history.find(sound.id)


def test_a_family_is_a_sound_with_all_its_versions(history, add):
    first = add("one")
    add("another")
    second = add("two", parent=first.id)
    third = add("three", parent=second.id)
    fourth = add("four", parent=first.id)
    family = [one.title for one in history.family(history.find(third.id))]
    assert family == ["one", "two", "three", "four"]
    history.delete(first.id)
    assert [one.title for one in history.family(history.find(third.id))] == ["two", "three"]
    assert history.source_path(fourth) is None


def test_a_file_deleted_by_hand_is_forgotten(history, add):
    sound = add("gone")
    history.path(sound).unlink()
    assert history.search() == [] and History(history.folder).search() == []


def test_a_sound_that_is_deleted_while_it_is_marked_is_gone(history, add, monkeypatch):
    sound = add("a")
    deletion = threading.Thread(target=history.delete, args=[sound.id])

    def find(history, sound_id):
        found = really_find(history, sound_id)
        if not deletion.ident:
            deletion.start()
            deletion.join(0.2)
        return found

    really_find = History.find
    monkeypatch.setattr(History, "find", find)
    history.mark(sound.id, "kept")
    deletion.join()
    assert list(history.folder.iterdir()) == [] and history.search() == []


def test_nothing_is_left_of_what_is_no_sound(history):
    with pytest.raises(AudioError):
        history.add(lambda path: path.write_bytes(b"no sound"), title="x", task="recording")
    assert list(history.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["../other/secret.wav", "/etc/passwd", ".hidden.wav", "", ".."])
def test_a_note_cannot_name_a_file_elsewhere(history, add, name):
    sound = add("a")
    note = history.folder / f"{sound.file}.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"file": name}))
    assert History(history.folder).search() == []


@pytest.mark.parametrize("change", [{"task": "generate"}, {"source": "../x"}, {"versions": 1}])
def test_a_sound_whose_record_cannot_be_used_has_none(history, add, change):
    sound = add("a")
    note = history.folder / f"{sound.file}.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"record": record() | change}))
    assert History(history.folder).search() == [sound]


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    return tmp_path_factory.mktemp("notes")


@settings(max_examples=50)
@given(st.integers() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_any_note_is_read_or_left_out(notes, value):
    (notes / "x.wav.json").write_text(json.dumps(value))
    assert History(notes).search() == []
