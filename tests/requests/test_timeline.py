"""What is heard when, as users write it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.timeline import (
    MIN_REGION_S,
    Region,
    parse_timeline,
    read_timeline,
    timeline_duration,
)


def test_regions_with_times_of_all_kinds():
    text = "0-3s a dog barks; 2.5-6 rain;-500ms wind\n 6s-  thunder, far away ;; "
    assert parse_timeline(text, 10.0) == [
        Region(0.0, 3.0, "a dog barks"),
        Region(0.0, 0.5, "wind"),
        Region(2.5, 6.0, "rain"),
        Region(6.0, 10.0, "thunder, far away"),
    ]


def test_a_colon_and_an_en_dash_are_read_as_they_are_meant():
    regions = parse_timeline("0–3s: a dog barks; 3-6s: rain", 10.0)
    assert regions == [Region(0.0, 3.0, "a dog barks"), Region(3.0, 6.0, "rain")]
    assert parse_timeline("0-3s rain, 3 drops, 4-wheel drive", 10.0)


def test_one_prompt_at_several_times():
    assert parse_timeline("0-1s,4-5s a dog barks", 5.0) == [
        Region(0.0, 1.0, "a dog barks"),
        Region(4.0, 5.0, "a dog barks"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" ; \n", "is empty"),
        ("0-3s", "neither a time with a prompt"),
        ("scene.txt", "nor an existing file"),
        ("soon a dog", "'soon' cannot be read"),
        ("3-2s a dog", "ends before it starts"),
        ("2-2s a dog", "is empty"),
        ("0-11s a dog", "the sound, which lasts 10.000 s"),
        ("12-13s a dog", "the sound, which lasts 10.000 s"),
        ("0-100ms a click", "too short: 0.1 s"),
        ("0-2s,1-3s a dog", "overlap"),
        ("0-3 a dog, 3-6 rain", "a semicolon or a new line goes between regions"),
        ("0-3s a dog | 3-6s rain", "a semicolon or a new line goes between regions"),
        ("0-1s a dog;" * 101, "101 regions"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text, words):
    with pytest.raises(UsageError, match="--timeline") as error:
        parse_timeline(text, 10.0)
    assert words in error.value.message


def test_an_error_shows_what_is_valid():
    with pytest.raises(UsageError) as error:
        parse_timeline("rain", 10.0)
    assert "0-3s a dog barks; 2-6s rain" in error.value.hint


def test_it_lasts_until_the_last_region_ends_unless_one_is_open():
    assert timeline_duration("4-7s rain; 0-3s a dog", 3600) == 7.0
    assert timeline_duration("4s- rain; 0-3s a dog", 3600) is None
    with pytest.raises(UsageError, match="the longest possible sound, which lasts 3600"):
        timeline_duration("0-4000s rain", 3600)


def test_a_file_is_read_and_text_is_itself(tmp_path):
    path = tmp_path / "scene.txt"
    path.write_bytes("\ufeff0-3s a dog barks\r\n\r\n2-6s  rain;6-10s Glück\n".encode())
    assert read_timeline(str(path)) == "0-3s a dog barks; 2-6s rain;6-10s Glück"
    assert len(parse_timeline(read_timeline(str(path)), 10.0)) == 3
    assert read_timeline("0-3s a dog; 3-5s rain") == "0-3s a dog; 3-5s rain"


@pytest.mark.parametrize("content", [b"\xff0", b"0\x00", b"0-1s a\n" * 20_000])
def test_a_file_that_is_no_timeline_is_refused(tmp_path, content):
    path = tmp_path / "scene.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"scene\.txt"):
        read_timeline(str(path))
    with pytest.raises(UsageError, match="Is a directory"):
        read_timeline(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a named pipe"):
        read_timeline(str(tmp_path / "pipe"))
    path.write_bytes("0-3s Glück".encode("utf-16"))
    assert read_timeline(str(path)) == "0-3s Glück"


WORDS = st.text("abcdefg, é犬.", min_size=1, max_size=12).filter(str.strip)
MILLISECONDS = st.integers(0, 60_000)


@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS, WORDS), min_size=1, max_size=8))
def test_what_is_written_is_what_is_read(drawn):
    regions = [
        Region(start / 1000, (start + length) / 1000 + MIN_REGION_S, words.strip())
        for start, length, words in drawn
    ]
    text = ";".join(f"{r.start_s:.3f}-{r.end_s:.3f}s {r.prompt}" for r in regions)
    parsed = parse_timeline(text, 200.0)
    assert [region.start_s for region in parsed] == sorted(region.start_s for region in parsed)
    assert sorted((r.prompt, round(r.start_s, 3), round(r.end_s, 3)) for r in parsed) == sorted(
        (r.prompt, round(r.start_s, 3), round(r.end_s, 3)) for r in regions
    )
    assert timeline_duration(text, 200.0) == max(region.end_s for region in parsed)


@given(st.text("0123456789.-;, smkz\n\x00aé", max_size=30))
def test_any_text_gives_regions_inside_of_the_sound_or_a_usage_error(text):
    try:
        regions = parse_timeline(text, 7.0)
    except UsageError:
        return
    assert regions
    for region in regions:
        assert 0 <= region.start_s < region.end_s <= 7.0
        assert region.prompt.strip() == region.prompt != ""
