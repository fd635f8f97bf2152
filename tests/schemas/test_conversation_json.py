"""How a conversation is written down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.digest import canonical_json
from schemas.errors import RejectCode, SampleError
from schemas.record import count_chars, encode_conversation

TEXTS = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=7).map(tuple)


@given(texts=TEXTS)
def test_it_is_canonical_json(texts):
    pairs = [["gpt" if index % 2 else "human", text] for index, text in enumerate(texts)]
    assert encode_conversation(texts) == canonical_json(pairs)
    assert count_chars(texts) == sum(len(text) for text in texts)


def test_every_character_that_json_escapes():
    text = "".join(map(chr, [*range(0x100), 0x2028, 0xFFFF, 0x10FFFF]))
    assert encode_conversation((text,)) == canonical_json([["human", text]])


@pytest.mark.parametrize("half", [chr(0xD800), chr(0xDFFF)])
def test_half_a_surrogate_pair_is_refused(half):
    with pytest.raises(SampleError, match="half a surrogate pair") as caught:
        encode_conversation(("q", f"a{half}"))
    assert caught.value.code is RejectCode.BAD_TYPE
