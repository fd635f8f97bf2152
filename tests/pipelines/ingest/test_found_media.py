"""What is asked of media and found of them, as columns: the same as one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.sniff import FORMATS
from pipelines.ingest.asked import MediaNames, request_hash, unpack_asked
from pipelines.ingest.findings import FoundMedium, RejectedMedium
from pipelines.ingest.found_media import (
    DIGEST_DIGITS,
    join_media,
    list_media,
    pack_media,
    pack_media_of_rows,
    unpack_media,
    unpack_media_of_rows,
)
from pipelines.ingest.items import Found, ItemTable
from schemas.errors import RejectCode
from schemas.record import MediumKind, MediumReference

BITS = 2

texts = st.text(st.characters(exclude_categories=["Cs"]))
digests = st.text("0123456789abcdef", min_size=DIGEST_DIGITS, max_size=DIGEST_DIGITS)
sizes = st.integers(0, 2**31 - 1)
found = st.builds(
    lambda form, *values: FoundMedium(values[0], form.kind.value, form.extension, *values[1:]),
    st.sampled_from(FORMATS), digests, st.integers(0, 2**62), sizes, sizes, st.floats(0, 1e6),
    texts, st.booleans(),
)  # fmt: skip
rejected = st.builds(
    RejectedMedium, st.sampled_from(RejectCode), st.text(st.characters(exclude_categories=["Cs"]))
)
findings = st.lists(found | rejected, max_size=6)


def rows_of(media):
    """Findings one by one, from their columns."""
    rows = media.columns().to_pylist()
    return [
        media.rejected[place]
        if place in media.rejected
        else FoundMedium(**row, is_by_stem=bool(media.are_by_stem[place]))
        for place, row in enumerate(rows)
    ]


@given(parts=st.lists(findings, max_size=4))
def test_findings_come_back_from_columns_in_order(parts):
    blobs = [pack_media(list_media(part)) for part in parts]
    joined = join_media([unpack_media(blob) for blob in blobs])
    together = [finding for part in parts for finding in part]
    assert rows_of(joined) == together
    assert [joined.sha256(place) for place in range(len(joined)) if place not in joined.rejected] == [
        one.sha256 for one in together if isinstance(one, FoundMedium)
    ]


@given(rows=st.lists(findings, max_size=4))
def test_findings_of_rows_keep_their_rows(rows):
    lengths, media = unpack_media_of_rows(pack_media_of_rows(rows))
    assert lengths == [len(row) for row in rows]
    assert rows_of(media) == [finding for row in rows for finding in row]


@given(some=findings.filter(len), place=st.integers(0))
def test_unwanted_media_are_rejected_and_no_others(some, place):
    media = list_media(some)
    unwanted = media.sha256(place % len(some))
    media.refuse(frozenset([unwanted]))
    for before, after in zip(some, rows_of(media), strict=True):
        if isinstance(before, FoundMedium) and before.sha256 == unwanted:
            message = f"{before.location!r} is {unwanted}, which the recipe lists under reject_media"
            assert after == RejectedMedium(RejectCode.UNWANTED_MEDIUM, message)
        else:
            assert after == before


references = st.builds(
    MediumReference, st.sampled_from(MediumKind), st.sampled_from(["a", "b/c", "d.jpg", "ü"]), st.booleans()
)


@given(named=st.lists(references))
def test_media_are_asked_for_once_each_in_the_bucket_of_their_path(named):
    names = MediaNames()
    for reference in named:
        if reference.by_stem:
            names.add([reference])
        else:
            names.add_paths(reference.kind, [reference.path])
    asked = [
        [one for some in unpack_asked(blob) for one in some.references()] for blob in names.deal_out(BITS)
    ]
    assert sorted(one for bucket in asked for one in bucket) == sorted(set(named))
    for bucket, some in enumerate(asked):
        assert [request_hash(one.path) >> (64 - BITS) for one in some] == [bucket] * len(some)


def test_items_that_rows_brought_are_forgotten_with_the_part_that_is_written():
    media = list_media([FoundMedium(digit * 64, "image", "jpg", 1, 1, 1, 0.0, digit) for digit in "ab"])
    names = MediaNames()
    names.add_paths(MediumKind.IMAGE, ["a", "b"])
    asked = [one for blob in names.deal_out(0) for one in unpack_asked(blob)]
    table = ItemTable("source", Found(media, asked))
    both = tuple(MediumReference(MediumKind.IMAGE, name) for name in "ab")

    def add():
        """Some items over no medium, and one over two."""
        items = np.array([*(table.find_text(b"%d" % number) for number in range(50)), table.find(both)])
        owners, positions, places = table.media_of(items)
        assert (owners.tolist(), positions.tolist(), places.tolist()) == ([52, 52], [0, 1], [0, 1])
        return items.tolist(), table.keys_of(items), table.modalities_of(items), table.beginnings[2:]

    once = add()
    assert len(table.beginnings) == 53
    table.forget_added()
    assert len(table.beginnings) == 2
    assert table.by_path(MediumKind.IMAGE) == {"a": 0, "b": 1}
    assert add() == once
