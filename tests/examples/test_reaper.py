"""The REAPER script, run by Lua with a stand-in for REAPER, over a studio that listens."""

import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from auffusion_cli.signal.recording import Recording, read_recording, write_recording
from auffusion_cli.signal.sound_file import read_record

lupa = pytest.importorskip("lupa", reason="needs Lua: pip install lupa")
SCRIPT = Path(__file__).parents[2] / "examples" / "reaper" / "auffusion.lua"
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


class Reaper(SimpleNamespace):
    """A project with a time selection, perhaps with a selected item; what was put into it."""

    def __init__(self, folder, selection, words, item=None):
        self.folder, self.selection, self.words, self.item = folder, selection, words, item
        self.told, self.tracks, self.inserted = [], [], {}

    def functions(self):
        def set_value(_owner, name, value):
            self.inserted[name] = value

        return {
            "GetSet_LoopTimeRange": lambda *_: self.selection,
            "GetUserInputs": lambda *_: (True, self.words),
            "GetProjectPath": lambda: str(self.folder),
            "GetSelectedMediaItem": lambda *_: self.item,
            "GetActiveTake": lambda item: item,
            "TakeIsMIDI": lambda _: False,
            "GetMediaItemTake_Source": lambda take: take,
            "GetMediaSourceFileName": lambda source, _: str(source["file"]),
            "GetMediaItemTakeInfo_Value": lambda take, name: take[name],
            "GetMediaItemInfo_Value": lambda item, name: item[name],
            "ExecProcess": self.exec_process,
            "CountTracks": lambda _: len(self.tracks),
            "InsertTrackAtIndex": lambda index, _: self.tracks.append(index),
            "GetTrack": lambda _, index: index,
            "AddMediaItemToTrack": lambda track: track,
            "AddTakeToMediaItem": lambda item: item,
            "PCM_Source_CreateFromFile": lambda file: file,
            "SetMediaItemTake_Source": lambda _, file: self.inserted.update(file=file),
            "SetMediaItemTakeInfo_Value": set_value,
            "SetMediaItemInfo_Value": set_value,
            "ShowMessageBox": lambda text, *_: self.told.append(text),
            **dict.fromkeys(("Undo_BeginBlock", "Undo_EndBlock", "UpdateArrange"), lambda *_: None),
        }

    def exec_process(self, command, _timeout):
        done = subprocess.run(shlex.split(command), capture_output=True, text=True)
        return f"{done.returncode}\n{done.stdout}"

    def run(self, address):
        lua = lupa.LuaRuntime(unpack_returned_tuples=True)
        lua.globals().reaper = lua.table_from(self.functions())
        lua.execute(SCRIPT.read_text().replace("http://127.0.0.1:8420", address))
        return self


def test_a_sound_of_the_selections_length_comes_onto_a_new_track(address, tmp_path):
    reaper = Reaper(tmp_path, (3.0, 3.8), 'it\'s "rain" \\ $HOME').run(address)
    assert reaper.told == [] and reaper.tracks == [0]
    assert (reaper.inserted["D_POSITION"], reaper.inserted["D_LENGTH"]) == pytest.approx((3, 0.8))
    record = read_record(reaper.inserted["file"])
    assert record.request.prompt == reaper.words and record.settings.duration_s == 0.8
    assert list(tmp_path.iterdir()) == [Path(reaper.inserted["file"])]


def test_of_the_selected_item_the_selected_part_is_filled(address, tmp_path):
    (folder := tmp_path / "my takes").mkdir()
    samples = np.random.default_rng(0).normal(0, 2**27, (9600, 2)).astype(np.int32) >> 16 << 16
    write_recording(folder / "a take.wav", Recording(samples, 8000, "PCM_16", ""))
    item = {"file": folder / "a take.wav", "D_STARTOFFS": 0.1, "D_PLAYRATE": 1.0}
    item |= {"D_POSITION": 10.0, "D_LENGTH": 1.0}
    reaper = Reaper(tmp_path, (10.3, 10.6), "a dog", item).run(address)
    assert reaper.told == []
    made = reaper.inserted["file"]
    assert read_record(made).request.masks == ("0.400-0.700s",)
    after = read_recording(made).samples
    assert np.array_equal(after[:3199], samples[:3199])
    assert not np.array_equal(after[3200:5600], samples[3200:5600])
    assert reaper.inserted["D_STARTOFFS"] == 0.1 and reaper.inserted["D_POSITION"] == 10.0


@pytest.mark.parametrize(
    ("selection", "words", "told"),
    [
        ((3.0, 3.0), "rain", "Select a time first"),
        ((3.0, 4.0), "", "The studio says: the prompt is empty"),
    ],
)
def test_what_cannot_be_is_told(selection, words, told, address, tmp_path):
    reaper = Reaper(tmp_path, selection, words).run(address)
    assert told in reaper.told[0] and not reaper.tracks and not list(tmp_path.iterdir())


def test_without_a_studio_it_says_so(tmp_path):
    reaper = Reaper(tmp_path, (0.0, 1.0), "rain").run("http://127.0.0.1:9")
    assert "auffusion studio" in reaper.told[0]
