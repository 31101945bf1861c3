import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.masks import Span, parse_bands, parse_duration, parse_times


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2-4s", 2, 4),
        ("2.5-4", 2.5, 4),
        ("500-900ms", 0.5, 0.9),
        ("500ms-2s", 0.5, 2),
        ("-1s", 0, 1),
        ("8s-", 8, 10),
        ("8-", 8, 10),
        (" .5 - 1.5S ", 0.5, 1.5),
        ("0:03.2-0:04", 3.2, 4),
        ("0:00:01-0:02", 1, 2),
        ("-0:02", 0, 2),
        ("0:09-", 9, 10),
        ("3-0:04", 3, 4),
        ("0:01-1500ms", 1, 1.5),
        ("9-10.005", 9, 10),  # as rounded as lengths are shown
    ],
)
def test_spans_of_time(text, start, end):
    [span] = parse_times([text], 10.0)
    assert (span.start, span.end) == (pytest.approx(start), pytest.approx(end))


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("4k-8k", 4000, 8000),
        ("4-8k", 4000, 8000),
        ("0-500", 0, 500),
        ("500-2k", 500, 2000),
        ("500hz-2kHz", 500, 2000),
        ("-200", 0, 200),
        ("4k-", 4000, 8000),
    ],
)
def test_bands(text, start, end):
    assert parse_bands([text], 8000.0) == [Span(start, end)]


def test_several_are_put_in_order():
    assert parse_times(["6-7s, 1-2s", "2-3"], 10.0) == [Span(1, 2), Span(2, 3), Span(6, 7)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "s-",
        "-s",
        "2",
        "2-4-6",
        "2x-4",
        "2k-4k",
        "a-b",
        "1e3-2",
        "1-2,",
        "--1",
        "٢-٤",
        "inf-",
        "0:03ms-4",
        "0:03s-4",
        "1:2:3:4-5",
        "1::2-3",
    ],
)
def test_what_is_no_span_is_refused(text):
    with pytest.raises(UsageError, match="--mask"):
        parse_times([text], 10.0)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["12-14s"], "outside"),
        (["10-"], "outside"),
        (["8-12s"], "beyond"),
        (["500-2s"], "outside"),
        (["1-3", "2-4"], "overlap"),
        (["1-3", "1-3"], "overlap"),
    ],
)
def test_misfits_tell_the_length_of_the_clip(texts, words):
    with pytest.raises(UsageError, match=words) as error:
        parse_times(texts, 10.0)
    assert "10.000 s" in error.value.message and "--mask" in error.value.message


@pytest.mark.parametrize(("text", "words"), [("3-3", "empty"), ("4-2", "ends before it starts")])
def test_spans_that_are_none_say_so_and_no_more(text, words):
    with pytest.raises(UsageError, match=words) as error:
        parse_times([text], 10.0)
    assert "10.000" not in error.value.message and f"--mask {text}" in error.value.message


@pytest.mark.parametrize("text", ["7k-9k", "8k-", "9k-", "2k-1k", "500-500", "1s-2s", "0:01-4k"])
def test_bands_that_no_model_makes_are_refused(text):
    with pytest.raises(UsageError, match="--band"):
        parse_bands([text], 8000.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("0.5s", 0.5), ("1", 1), ("0", 0), ("1.5 MS", 0.0015)]
)
def test_durations(text, seconds):
    assert parse_duration(text, "--crossfade") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1ms", "20 m", "ms", "1e9", "nan", "1:30s", ":30"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageError, match="--crossfade"):
        parse_duration(text, "--crossfade")


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=8, unique=True), st.randoms())
def test_written_spans_are_read_again(edges_ms, random):
    """Any spans apart from each other, in any order and any unit."""
    edges_ms = sorted(edges_ms)
    pairs = list(zip(edges_ms[::2], edges_ms[1::2], strict=False))
    texts = [
        random.choice([f"{a}-{b}ms", f"{a / 1000}-{b / 1000}s", f"{a}ms-{b / 1000}"])
        for a, b in pairs
    ]
    random.shuffle(texts)
    expected = [(a / 1000, b / 1000) for a, b in pairs]
    spans = parse_times([",".join(texts)], 10.0)
    assert [(pytest.approx(s.start), pytest.approx(s.end)) for s in spans] == expected


@given(st.text(alphabet="0123456789.-,smkhz ", max_size=12) | st.text(max_size=12))
def test_any_text_gives_spans_inside_the_clip_or_a_usage_error(text):
    for parse, top in ((parse_times, 5.0), (parse_bands, 8000.0)):
        try:
            spans = parse([text], top)
        except UsageError:
            continue
        edges = [edge for span in spans for edge in (span.start, span.end)]
        assert spans and edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= top
        assert all(span.start < span.end for span in spans)


@given(st.floats(0, 100), st.floats(0, 100))
def test_any_two_numbers_are_a_span_or_an_error(a, b):
    text = f"{a:.6f}-{b:.6f}"
    a, b = float(f"{a:.6f}"), float(f"{b:.6f}")
    assume(abs(b - 50) > 0.02 and abs(a - 50) > 0.02)
    if a < b < 50:
        assert parse_times([text], 50.0) == [Span(a, b)]
    else:
        with pytest.raises(UsageError):
            parse_times([text], 50.0)


@pytest.mark.parametrize("text", ["0:3-5", "0:60-2:00", "1:-2", ":03-4"])
def test_seconds_of_a_clock_have_two_digits(text):
    with pytest.raises(UsageError, match="cannot be read"):
        parse_times([text], 4000.0)
