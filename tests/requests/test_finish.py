import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.finish import (
    Finish,
    parse_decibels,
    parse_loudness,
    parse_low_cut,
    parse_peak,
    parse_rate,
)


def test_levels_and_rates_are_read_as_people_write_them():
    assert parse_loudness("-16LUFS") == parse_loudness(" -16 lufs") == parse_loudness("-16") == -16
    assert parse_peak("-1dB") == parse_peak("-1dBTP") == -1
    assert parse_decibels("12 dB", "--duck") == 12
    assert [parse_low_cut(text) for text in ("30", "80 Hz", "0.1k")] == [30, 80, 100]
    assert [parse_rate(text) for text in ("48000", "44.1k", "48kHz")] == [48000, 44100, 48000]


@given(st.text(max_size=8))
def test_any_text_is_a_value_or_a_usage_error(text):
    for parse in (parse_low_cut, parse_loudness, parse_peak, parse_rate):
        try:
            assert isinstance(parse(text), int | float)
        except UsageError as error:
            assert len(error.message) < 300


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loudness_lufs": 3.0}, "--loudness 3.0"),
        ({"peak_db": 1.0}, "--peak 1.0"),
        ({"rate_hz": 48000.5}, "--rate 48000.5"),
        ({"rate_hz": 10**9}, "--rate 1000000000"),
        ({"channels": 3}, "--channels 3"),
        ({"channels": True}, "--channels True"),
        ({"fade_in_s": -1.0}, "--fade-in -1.0"),
        ({"fade_out_s": float("nan")}, "--fade-out nan"),
        ({"low_cut_hz": 5}, "--low-cut 5"),
        ({"broadcast": 1}, "--broadcast"),
    ],
)
def test_impossible_values_are_named(values, words):
    with pytest.raises(UsageError, match=words):
        Finish(**values)


def test_only_what_is_asked_for_is_recorded():
    assert Finish().to_dict() == {}
    asked = Finish(fade_in_s=0.1, rate_hz=48_000)
    assert asked.to_dict() == {"fade_in_s": 0.1, "rate_hz": 48_000}
    assert Finish(**asked.to_dict()) == asked
