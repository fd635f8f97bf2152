"""The short way of reading rows says what the long way says, or nothing."""

import contextlib
import json

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.annotations import LAYOUTS
from operators.annotations.conversation import LEAKED_LABEL
from operators.annotations.media import name_media
from operators.annotations.turns import LLAVA_SPELLING
from operators.annotations.usual import name_usual_media, read_usual_rows
from pipelines.ingest.rows.usual_rows import UsualDecoder
from schemas.errors import SampleError
from schemas.record import MediumReference, count_chars, encode_conversation

words = st.sampled_from(
    ["<image>", "<video>", "<", "<b>", "a", " ", "\n", "é", "\\", '"', '\\\\"', LEAKED_LABEL, "word"]
)
texts = st.lists(words, max_size=4).map("".join)
roles = st.sampled_from(["human", "gpt", "human", "gpt", "system"])
sound = st.tuples(texts, texts).map(
    lambda pair: [{"from": "human", "value": f"<image>\n{pair[0]}"}, {"from": "gpt", "value": f"b{pair[1]}"}]
)
mixed = st.lists(st.builds(lambda role, text: {"from": role, "value": text}, roles, texts), max_size=5)
odd = st.sampled_from([[], None, "text", [1], [{"from": "human"}], [{"from": "gpt", "value": 1}]])
scalars = st.none() | st.integers() | st.booleans() | st.just(1.5) | texts
paths = st.sampled_from(["a.jpg", "b/c.png", "é.jpg", ""])
rows = st.fixed_dictionaries(
    {"conversations": sound | sound | mixed | odd},
    optional={
        "id": scalars | st.just([1]),
        "image": paths | paths | st.none() | st.lists(paths, max_size=2),
        "video": paths | st.none(),
        "images": st.lists(paths, max_size=2),
        "source": scalars | st.just({"a": ["b"]}),
    },
)


def decode(rows, decoder, writes_lines=False):
    """Rows by the decoder, as a file holds them."""
    spelled = [json.dumps(row, ensure_ascii=False) for row in rows]
    if writes_lines:
        return decoder.decode_lines(memoryview("\n".join(spelled).encode()))
    return decoder.decode_list(memoryview(f"[{','.join(spelled)}]".encode()))


USUAL = {"id": "1", "image": "a.jpg", "conversations": [
    {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]}  # fmt: skip


@given(rows=st.lists(rows, min_size=1, max_size=5), writes_lines=st.booleans())
@example(rows=[USUAL, {"conversations": USUAL["conversations"]}], writes_lines=False)
@settings(max_examples=400, deadline=None)
def test_what_is_read_the_short_way_is_what_parse_reads(rows, writes_lines):
    decoder = UsualDecoder(LLAVA_SPELLING)
    assert decode(rows, decoder, writes_lines) == rows, "at first nothing is known of the fields"
    again = decode(rows, decoder, writes_lines)
    columns = decoder.take_columns(again)
    if columns is None:
        assert again == rows
        return
    names = {name for row in rows for name in row}
    assert set(columns) == names
    for name in names - {"conversations"}:
        assert list(columns[name]) == [row.get(name) for row in rows]
    found = read_usual_rows(columns, LLAVA_SPELLING)
    assert found.rows == sorted(set(found.rows))
    for row, record_id, path, said, num_chars in zip(
        found.rows, found.record_ids, found.paths, found.conversations, found.num_chars, strict=True
    ):
        record = LAYOUTS["llava"].parse(rows[row])
        media = (MediumReference(found.kind, path),) if path else ()
        assert record == (record_id, record.texts, media, ())
        assert said == encode_conversation(record.texts)
        assert num_chars == count_chars(record.texts)


def test_usual_rows_are_read_the_short_way():
    decoder = UsualDecoder(LLAVA_SPELLING)
    said = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Ho."}]
    rows = [USUAL, USUAL | {"id": 7}, {"conversations": said}]
    decode(rows, decoder)
    columns = decoder.take_columns(decode(rows, decoder))
    assert columns is not None
    found = read_usual_rows(columns, LLAVA_SPELLING)
    assert (found.rows, found.record_ids, found.paths) == ([0, 1, 2], ["1", "7", ""], ["a.jpg", "a.jpg", ""])


def test_very_long_conversations_are_left_to_the_long_way():
    decoder = UsualDecoder(LLAVA_SPELLING)
    pair = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Ho."}]
    rows = [{"conversations": pair * count} for count in (1, 512, 513, 2)]
    decode(rows, decoder)
    found = read_usual_rows(decoder.take_columns(decode(rows, decoder)), LLAVA_SPELLING)
    assert found.rows == [0, 1, 3]


def test_a_field_that_is_new_is_learned():
    decoder = UsualDecoder(LLAVA_SPELLING)
    for row in (USUAL, USUAL | {"source": "x"}):
        assert decode([row], decoder) == [row]
        assert decoder.take_columns(decode([row], decoder)) is not None
    assert decoder.take_columns(decode([USUAL], decoder)) is not None


def test_a_key_that_stands_twice_is_no_usual_row():
    decoder = UsualDecoder(LLAVA_SPELLING)
    decode([USUAL], decoder)
    spelled = json.dumps([USUAL])
    doubles = [
        spelled.replace('"id": "1"', '"id": "1", "id": "2"'),
        spelled.replace('"from": "gpt"', '"from": "gpt", "fr\\u006fm": "gpt"'),
        spelled.replace('"image": "a.jpg"', '"image": "a.jpg", "image": null'),
    ]
    for text in doubles:
        assert msgspec.json.decode(text)
        assert text != spelled
        try:
            decoder.decode_list(memoryview(text.encode()))
        except msgspec.DecodeError:
            continue
        raise AssertionError(text)


cells = st.none() | paths | st.sampled_from([[], ["a.jpg"], 0, 1, False, {}])


@given(rows=st.lists(st.tuples(cells, cells, cells, cells) | cells.map(lambda one: (one, None, None, None))))
@example(rows=[("a.jpg", None, None, None), (None,) * 4])
@example(rows=[(None, "a.mp4", None, None)])
def test_media_named_by_many_rows_are_those_named_by_each(rows):
    usual = name_usual_media(rows) if rows else None
    if usual is None:
        assert len(rows) != 1 or rows[0] != ("a.jpg", None, None, None)
        return
    kind, named = usual
    one_by_one = []
    for row in rows:
        with contextlib.suppress(SampleError):
            one_by_one += name_media(*row)
    assert one_by_one == [MediumReference(kind, path) for path in named]
