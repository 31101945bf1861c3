"""Rows of CSV and JSON Lines."""

import pytest

from auffusion_cli.tables import BadRow, Row, read_rows


def rows(text, format="csv", **options):
    return [
        (row.line, row.values if isinstance(row, Row) else row.reason)
        for row in read_rows(text, format, **options)
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_separated_by_commas_semicolons_and_tabs(delimiter):
    text = f"caption{delimiter}id\r\ndog, barking{delimiter}1\r\n\r\n"
    if delimiter == ",":
        text = text.replace("dog, barking", '"dog, barking"')
    assert rows(text) == [(2, {"caption": "dog, barking", "id": "1"})]


def test_one_column_is_not_divided():
    assert rows("prompt\ndog; barking") == [(2, {"prompt": "dog; barking"})]


def test_a_quoted_field_may_have_line_breaks():
    assert rows('id,caption\n1,"a dog\nbarks"\n2,rain\n') == [
        (2, {"id": "1", "caption": "a dog\nbarks"}),
        (4, {"id": "2", "caption": "rain"}),
    ]


def test_both_halves_of_a_row_with_a_bare_line_break_are_bad():
    found = rows("id,caption\n0,wind\n1,a dog\nbarking\n2,rain\n3,sea\n")
    assert found == [
        (2, {"id": "0", "caption": "wind"}),
        (3, "may go on in line 4: a line break is to be quoted"),
        (4, "has 1 fields; the header has 2"),
        (5, "may go on from line 4: a line break is to be quoted"),  # as if the caption came first
        (6, {"id": "3", "caption": "sea"}),
    ]


def test_an_open_quote_takes_no_other_row_with_it():
    found = rows('id,caption\n1,"a dog\n2,rain\n3,wind\n')
    assert found[0] == (2, "is not CSV: a quote is not closed")
    assert [line for line, _ in found] == [2, 3, 4]
    assert found[1][1] == {"id": "2", "caption": "rain"}


def test_a_column_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="'a' twice"):
        rows("a,b,a\n1,2,3")


def test_json_lines():
    text = '{"a": 1}\n\n"x"\n[1]\n{"a"\n' + "[" * 100_000 + "\n" + "9" * 5_000
    found = rows(text, "jsonl", string_column="a")
    assert found[:2] == [(1, {"a": 1}), (3, {"a": "x"})]
    assert [line for line, _ in found] == [1, 3, 4, 5, 6, 7]
    assert all(isinstance(reason, str) for _, reason in found[2:])
    assert rows('"x"', "jsonl") == [(1, "is not a JSON object")]
    assert isinstance(next(read_rows("[1]", "jsonl")), BadRow)
