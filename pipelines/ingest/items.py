"""The items that the records of a range are about, from their text or from what the probe found out.

Items go by number here. First come those over one medium each, by the place of the medium among the findings:
their columns are made of the columns of the findings, with nothing done medium by medium but what looking one
up by its path takes. Behind them come, as rows name them, items over several media and conversations without;
these are forgotten with every part that is written, for a file read in sequence has any number of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Int32, Int64

from infra.storage import Storage
from operators.sniff import FORMATS
from pipelines.ingest.asked import AskedMedia, unpack_asked
from pipelines.ingest.found_media import (
    DIGEST_DIGITS,
    FoundMedia,
    join_media,
    unpack_media,
    unpack_media_of_rows,
)
from pipelines.scatter import Scattered, read_blob, read_blobs
from schemas.digest import sha256_hex
from schemas.errors import RejectCode, SampleError
from schemas.medium import KEY_BITS, KEY_DIGITS, item_key_of_media, item_key_of_text, modality_of
from schemas.record import MediumKind, MediumReference, Modality, Repair, begin_example_id

MODALITIES: Final = tuple(Modality)
"""By the number that stands for them in parts."""
REPAIR_BITS: Final = {repair: 1 << place for place, repair in enumerate(Repair)}
KEY_BYTES: Final = KEY_BITS // 8

_TEXT: Final = MODALITIES.index(Modality.TEXT)
_MULTI: Final = MODALITIES.index(Modality.MULTI)
_MODALITY_OF_FORMAT: Final = bytes([MODALITIES.index(modality_of((one.kind,))) for one in FORMATS]).ljust(256)
_REPAIRS_BY_STEM: Final = bytes([0, REPAIR_BITS[Repair.FOUND_BY_STEM]]).ljust(256)


@dataclass(frozen=True, slots=True)
class Found:
    """What a range gets to know of the media that it asked for, or that stand in its rows."""

    media: FoundMedia
    asked: Sequence[AskedMedia] = ()
    """Whose answers the findings are, in this order."""
    row_lengths: Sequence[int] = ()
    """How many of the findings are of each row that is used, in order, where media stand in the rows."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Where the findings are that a range asked for."""

    references: Scattered | None = None
    findings: tuple[Scattered, ...] = ()
    """One object for each bucket of the references."""
    place: int = 0
    """Of the range among those that asked."""
    row_findings: Scattered | None = None
    """Of media that stand in the rows that are used."""
    unwanted: frozenset[str] = frozenset()
    """Digests of media that count as rejected, whatever was found."""

    def load(self, storage: Storage) -> Found:
        """What was found."""
        rows = self.row_findings
        found = self._load_asked(storage) if rows is None else _load_rows(storage, rows)
        found.media.refuse(self.unwanted)
        return found

    def _load_asked(self, storage: Storage) -> Found:
        buckets = (
            [unpack_asked(blob) for blob in read_blobs(storage, self.references)] if self.references else []
        )
        blobs = [
            read_blob(storage, scattered, self.place)
            for scattered, asked in zip(self.findings, buckets, strict=True)
            if asked
        ]
        media = join_media([unpack_media(blob) for blob in blobs])
        return Found(media, [one for asked in buckets for one in asked])


class ItemTable:
    """The items of one range."""

    def __init__(self, source: str, found: Found) -> None:
        self.media = found.media
        """Of all items; the first items are over one each."""
        self._source = source
        self._members: dict[int, tuple[int, ...]] = {}
        """Places of the media of items over several."""
        self._known: dict[tuple[MediumReference, ...], int | SampleError] = {}
        self._places = _number_paths(found.asked)
        self._by_path = {
            kind: self._drop_rejected(self._places.get((kind, False), {})) for kind in MediumKind
        }
        ends = np.cumsum([0, *found.row_lengths]).tolist()
        self._rows = [range(start, end) for start, end in pairwise(ends)]
        digests = found.media.sha256s.decode()
        keys = [digests[at : at + KEY_DIGITS] for at in range(0, len(digests), DIGEST_DIGITS)]
        self._keys = bytearray.fromhex("".join(keys))
        self._modalities = bytearray(found.media.formats.translate(_MODALITY_OF_FORMAT))
        self._repairs = bytearray(found.media.are_by_stem.translate(_REPAIRS_BY_STEM))
        self.beginnings = [begin_example_id(source, key) for key in keys]
        """Of the ids of its examples, for each item."""

    def by_path(self, kind: MediumKind) -> Mapping[str, int]:
        """Items over one medium, by its whole path; of a medium that cannot be used, `find` tells why."""
        return self._by_path[kind]

    def find(self, references: tuple[MediumReference, ...]) -> int:
        """The item over the media that a record names.

        Raises:
            SampleError: with the code of the first medium that cannot be used.
        """
        known = self._known.get(references)
        if known is None:
            places = tuple([self._places[kind, by_stem][str(path)] for kind, path, by_stem in references])
            try:
                known = self._put_together(places)
            except SampleError as error:
                known = error
            self._known[references] = known
        if isinstance(known, SampleError):
            raise known
        return known

    def find_embedded(self, row: int, num_media: int, conversation: bytes) -> int:
        """The item over the media that stand in a row itself, or of its conversation where there are none.

        Args:
            row: its place among those that are used.
            num_media: how many the row names.
            conversation: what is said.

        Raises:
            SampleError: EMPTY_FILE or BAD_TYPE when the row holds fewer or more media than it names; else
                with the code of the first that cannot be used.
        """
        places = tuple(self._rows[row])
        if len(places) != num_media:
            code = RejectCode.EMPTY_FILE if len(places) < num_media else RejectCode.BAD_TYPE
            held = f"its columns of pictures hold {len(places)}"
            raise SampleError(code, f"the row names {num_media} pictures in 'image', {held}")
        return self._put_together(places) if places else self.find_text(conversation)

    def find_text(self, conversation: bytes) -> int:
        """The item of a conversation without media."""
        return self._add(item_key_of_text(sha256_hex(conversation)), _TEXT)

    def keys_of(self, items: Int64[np.ndarray, " rows"]) -> bytes:
        """The keys of items, one behind the other."""
        return np.frombuffer(bytes(self._keys), f"V{KEY_BYTES}")[items].tobytes()

    def modalities_of(self, items: Int64[np.ndarray, " rows"]) -> bytes:
        """Their places in `MODALITIES`."""
        return np.frombuffer(bytes(self._modalities), np.int8)[items].tobytes()

    def repairs_of(self, items: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Bits of the mends that finding their media took."""
        return np.frombuffer(bytes(self._repairs), np.uint8)[items].astype(np.int64)

    def media_of(
        self, items: Int64[np.ndarray, " rows"]
    ) -> tuple[Int64[np.ndarray, " media"], Int32[np.ndarray, " media"], Int64[np.ndarray, " media"]]:
        """Every medium of every item: the item, its position in it, its place among the media."""
        singles = items[items < len(self.media)]
        several = [(item, self._members.get(item, ())) for item in items[items >= len(self.media)].tolist()]
        owners = [item for item, members in several for _ in members]
        positions = [position for _, members in several for position in range(len(members))]
        places = [place for _, members in several for place in members]
        return (
            np.concatenate([singles, np.array(owners, np.int64)]),
            np.concatenate([np.zeros(len(singles), np.int32), np.array(positions, np.int32)]),
            np.concatenate([singles, np.array(places, np.int64)]),
        )

    def forget_added(self) -> None:
        """Drop the items that rows brought: they were written, and their numbers are given again."""
        num_media = len(self.media)
        del self._keys[num_media * KEY_BYTES :]
        del self._modalities[num_media:]
        del self._repairs[num_media:]
        del self.beginnings[num_media:]
        self._members.clear()
        self._known.clear()

    def _drop_rejected(self, places: dict[str, int]) -> dict[str, int]:
        rejected = self.media.rejected
        return {path: at for path, at in places.items() if at not in rejected} if rejected else places

    def _put_together(self, places: tuple[int, ...]) -> int:
        for place in places:
            if place in self.media.rejected:
                why = self.media.rejected[place]
                raise SampleError(why.code, why.message)
        if len(places) == 1:
            return places[0]
        key = item_key_of_media(tuple([self.media.sha256(place) for place in places]))
        repairs = 0
        for place in places:
            repairs |= self._repairs[place]
        item = self._add(key, _MULTI, repairs)
        self._members[item] = places
        return item

    def _add(self, key: str, modality: int, repairs: int = 0) -> int:
        self._keys += bytes.fromhex(key)
        self._modalities.append(modality)
        self._repairs.append(repairs)
        self.beginnings.append(begin_example_id(self._source, key))
        return len(self.beginnings) - 1


def combine_repairs(repairs: Iterable[Repair]) -> int:
    """The bits of some repairs."""
    bits = 0
    for repair in repairs:
        bits |= REPAIR_BITS[repair]
    return bits


def _load_rows(storage: Storage, findings: Scattered) -> Found:
    lengths, media = unpack_media_of_rows(read_blob(storage, findings, 0))
    return Found(media, row_lengths=lengths)


def _number_paths(asked: Iterable[AskedMedia]) -> dict[tuple[MediumKind, bool], dict[str, int]]:
    """The places of findings by what was asked for."""
    places: dict[tuple[MediumKind, bool], dict[str, int]] = {}
    at = 0
    for one in asked:
        numbers = range(at, at + len(one.paths))
        places.setdefault((one.kind, one.by_stem), {}).update(zip(one.paths, numbers, strict=True))
        at = numbers.stop
    return places
