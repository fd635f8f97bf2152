"""Keys that stand twice are found, however they are spelled, and nothing else is."""

import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.ingest.rows.json_values import (
    LostKeyError,
    RowDecoder,
    RowProblem,
    count_usual_strings,
    parse_row,
)

text = st.text(alphabet=st.sampled_from('a"\\: é'), max_size=4)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.just(1.5) | text


class Pairs(list):
    """An object whose keys may stand twice."""


values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from("ab") | text, inner), max_size=3).map(Pairs)
    ),
    max_leaves=8,
)
usual_objects = st.dictionaries(text, text, max_size=3)
usual_rows = st.lists(
    st.dictionaries(
        text, scalars | st.lists(text, max_size=3) | st.lists(usual_objects, max_size=3), max_size=4
    ),
    max_size=4,
)


def spell(value, colon, rng):
    if isinstance(value, Pairs):
        entries = (f"{spell_text(key, rng)}{colon}{spell(inner, colon, rng)}" for key, inner in value)
        return "{" + ",".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(spell(inner, colon, rng) for inner in value) + "]"
    return spell_text(value, rng) if isinstance(value, str) else json.dumps(value)


def spell_text(value, rng):
    escaped = "".join(
        f"\\u{ord(letter):04x}" if rng.random() < 0.2 else json.dumps(letter)[1:-1] for letter in value
    )
    return f'"{escaped}"'


def has_doubles(value):
    if isinstance(value, Pairs):
        return len({key for key, _ in value}) < len(value) or any(has_doubles(inner) for _, inner in value)
    return isinstance(value, list) and any(map(has_doubles, value))


@given(rows=st.lists(values, max_size=4), colon=st.sampled_from([":", ": ", " :", "\n:\t"]), rng=st.randoms())
@settings(max_examples=400, deadline=None)
def test_rows_decode_exactly_when_no_key_stands_twice(rows, colon, rng):
    spelled = spell(rows, colon, rng).encode()
    if has_doubles(rows):
        with pytest.raises(LostKeyError):
            RowDecoder().decode_list(memoryview(spelled))
    else:
        assert RowDecoder().decode_list(memoryview(spelled)) == json.loads(spelled)
    for row in rows:
        raw = spell(row, colon, rng).encode()
        parsed = parse_row(raw, 7)
        assert isinstance(parsed, RowProblem) == has_doubles(row)


@given(rows=usual_rows)
@settings(deadline=None)
def test_usual_rows_are_decoded_without_writing_them_again(rows):
    decoder = RowDecoder()
    assert decoder.decode_list(memoryview(msgspec.json.encode(rows))) == rows
    assert decoder._written == b""


@given(
    rows=usual_rows | st.lists(st.dictionaries(text, st.lists(text | usual_objects, max_size=3), max_size=3))
)
def test_strings_of_usual_rows_are_counted(rows):
    def count(value):
        if isinstance(value, dict):
            return len(value) + sum(map(count, value.values()))
        return sum(map(count, value)) if isinstance(value, list) else isinstance(value, str)

    lists = [cell for row in rows for cell in row.values() if isinstance(cell, list)]
    is_mixed = any(len({type(one) for one in cell}) > 1 for cell in lists)
    assert count_usual_strings(rows) == (-1 if is_mixed else count(rows))


def test_what_is_not_usual_is_decoded_all_the_same():
    rows = [1, "a", [], {"a": {"b": [[1], {"c": [None]}]}}, {"a": [{"b": 1}, "c"]}]
    decoder = RowDecoder()
    assert decoder.decode_list(memoryview(json.dumps(rows).encode())) == rows
    assert decoder._written


@given(texts=st.lists(st.text(alphabet='ab"\\', max_size=7), max_size=6))
@example(texts=["\\", '\\"', '"', "\\\\"])
def test_quotes_of_strings_are_counted_whatever_stands_in_them(texts):
    decoder = RowDecoder()
    assert decoder.count_quotes(memoryview(json.dumps(texts).encode())) == 2 * len(texts)
    assert decoder.count_quotes(memoryview(b'"\\\\"')) == 2


def test_problems_name_the_place_of_the_row():
    problem = parse_row(b'{"a": NaN}', 4711)
    assert isinstance(problem, RowProblem)
    assert "no JSON" in problem.message
    assert "byte 4711" in problem.message
