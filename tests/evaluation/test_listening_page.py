"""The material of a listening test: clips of several systems and their words."""

import numpy as np
import pytest

from auffusion_cli.errors import UsageError
from auffusion_cli.evaluation.listening_page import pair_clips
from auffusion_cli.signal.audio import write_audio


@pytest.fixture
def write(tmp_path):
    def write(name, prompt=None):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        record = prompt and {"task": "generate", "prompt": prompt}
        write_audio(tmp_path / name, np.zeros(800), 16000, provenance=record)

    write("ours/dog.wav", "a dog barks")
    write("ours/cat.wav", "a cat meows")
    write("real/dog.flac")
    return write


@pytest.fixture
def systems(tmp_path):
    return {"ours": tmp_path / "ours", "real": tmp_path / "real"}


def test_clips_are_paired_by_name_and_have_the_words_that_a_file_was_made_from(write, systems):
    (clip,), left_out = pair_clips(systems, None)
    assert (clip.name, clip.words, left_out) == ("dog", "a dog barks", ["cat"])
    assert clip.sounds == {
        "ours": systems["ours"] / "dog.wav",
        "real": systems["real"] / "dog.flac",
    }


def test_a_list_has_the_last_word(write, systems):
    write("real/cat.wav", "a lion roars")
    clips, _ = pair_clips(systems, {"real/cat": "an animal", "dog": "a hound"})
    assert {clip.name: clip.words for clip in clips} == {"cat": "an animal", "dog": "a hound"}
    with pytest.raises(UsageError, match=r"cat\.wav .*made with different words"):
        pair_clips(systems, None)


def test_two_sounds_of_one_name_are_refused(write, systems):
    write("ours/dog.flac")
    with pytest.raises(UsageError, match=r"dog\.flac and .*dog\.wav have one name"):
        pair_clips(systems, None)


def test_nothing_in_common_is_refused(write, systems):
    (systems["real"] / "dog.flac").rename(systems["real"] / "fox.flac")
    with pytest.raises(UsageError, match="no sound has the same name in all"):
        pair_clips(systems, None)
