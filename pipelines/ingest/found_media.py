"""Findings as columns: how what the probe found out travels to where rows are read, and on into the tables.

A finding answers what was asked at its place. Nearly every medium is sound, so its values lie in flat
buffers, which join and sort by millions without an object each; why a medium cannot be used stands beside
them, by its place, where the columns hold nothing of meaning.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]

from operators.sniff import FORMATS
from pipelines.ingest.columns import Texts, flat_column, list_column, text_column
from pipelines.ingest.findings import Finding, FoundMedium, RejectedMedium
from schemas.errors import RejectCode

_arrow: Any = pyarrow

DIGEST_DIGITS: Final = 64
MEDIA_COLUMNS: Final = _arrow.schema(
    [
        ("sha256", _arrow.string()),
        ("kind", _arrow.string()),
        ("extension", _arrow.string()),
        ("num_bytes", _arrow.int64()),
        ("width_px", _arrow.int32()),
        ("height_px", _arrow.int32()),
        ("duration_s", _arrow.float64()),
        ("location", _arrow.string()),
    ]
)
_FORMAT_NUMBERS: Final = {(one.kind.value, one.extension): place for place, one in enumerate(FORMATS)}
_KINDS: Final = list_column(_arrow.string(), [one.kind.value for one in FORMATS])
_EXTENSIONS: Final = list_column(_arrow.string(), [one.extension for one in FORMATS])
_FORMAT: Final = _arrow.schema([("format", _arrow.uint8())])
_NOTHING: Final = FoundMedium(
    "0" * DIGEST_DIGITS, FORMATS[0].kind.value, FORMATS[0].extension, 0, 0, 0, 0.0, ""
)
"""What stands in the columns for a medium that cannot be used."""


class FoundMedia(msgspec.Struct, array_like=True, gc=False):
    """Findings, column by column; bytes of machine numbers, but for texts."""

    sha256s: bytes = b""
    """64 digits each."""
    formats: bytes = b""
    """Places in `FORMATS`, one byte each."""
    are_by_stem: bytes = b""
    """One byte each; see `FoundMedium`."""
    num_bytes: bytes = b""
    """64 bits each, as floating-point numbers of seconds are; sizes in pixels are 32."""
    widths_px: bytes = b""
    heights_px: bytes = b""
    durations_s: bytes = b""
    location_lengths: bytes = b""
    locations: bytes = b""
    rejected: dict[int, RejectedMedium] = {}
    """By place."""

    def __len__(self) -> int:
        """How many findings these are."""
        return len(self.formats)

    def sha256(self, place: int) -> str:
        """The digest of one."""
        return self.sha256s[place * DIGEST_DIGITS : (place + 1) * DIGEST_DIGITS].decode()

    def columns(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """What the table of media has columns for, as a batch of Arrow."""
        formats = flat_column(_FORMAT, "format", self.formats)
        digests = np.full(len(self), DIGEST_DIGITS, np.int32).tobytes()
        arrays = [
            text_column(_arrow.string(), digests, self.sha256s),
            _KINDS.take(formats),
            _EXTENSIONS.take(formats),
            flat_column(MEDIA_COLUMNS, "num_bytes", self.num_bytes),
            flat_column(MEDIA_COLUMNS, "width_px", self.widths_px),
            flat_column(MEDIA_COLUMNS, "height_px", self.heights_px),
            flat_column(MEDIA_COLUMNS, "duration_s", self.durations_s),
            text_column(_arrow.string(), self.location_lengths, self.locations),
        ]
        return _arrow.RecordBatch.from_arrays(arrays, schema=MEDIA_COLUMNS)

    def refuse(self, unwanted: frozenset[str]) -> None:
        """Count media with these digests as rejected, whatever was found."""
        if not unwanted:
            return
        locations = self.columns().column("location")
        for place in range(len(self)):
            digest = self.sha256(place)
            if digest in unwanted and place not in self.rejected:
                location = locations[place].as_py()
                message = f"{location!r} is {digest}, which the recipe lists under reject_media"
                self.rejected[place] = RejectedMedium(RejectCode.UNWANTED_MEDIUM, message)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(FoundMedia)
_ROWS_DECODER: Final = msgspec.msgpack.Decoder(tuple[list[int], FoundMedia])


def list_media(findings: Sequence[Finding]) -> FoundMedia:
    """Findings as columns; asking a struct for its own class is cheap, for another one ten times dearer."""
    rejected = {place: one for place, one in enumerate(findings) if not isinstance(one, FoundMedium)}
    found = [one if isinstance(one, FoundMedium) else _NOTHING for one in findings]
    locations = Texts()
    locations.add([one.location for one in found])
    lengths, texts = locations.flatten()
    return FoundMedia(
        sha256s="".join([one.sha256 for one in found]).encode(),
        formats=bytes([_FORMAT_NUMBERS[one.kind, one.extension] for one in found]),
        are_by_stem=bytes([one.is_by_stem for one in found]),
        num_bytes=array("q", [one.num_bytes for one in found]).tobytes(),
        widths_px=array("i", [one.width_px for one in found]).tobytes(),
        heights_px=array("i", [one.height_px for one in found]).tobytes(),
        durations_s=array("d", [one.duration_s for one in found]).tobytes(),
        location_lengths=lengths,
        locations=texts,
        rejected=rejected,
    )


def join_media(parts: Sequence[FoundMedia]) -> FoundMedia:
    """Findings one behind the other."""
    if not parts:
        return FoundMedia()
    columns = zip(*[msgspec.structs.astuple(part)[:-1] for part in parts], strict=True)
    starts = list(accumulate(map(len, parts), initial=0))[:-1]
    rejected = {
        start + place: why
        for start, part in zip(starts, parts, strict=True)
        for place, why in part.rejected.items()
    }
    flat = [b"".join(pieces) for pieces in columns]
    return FoundMedia(*flat, rejected=rejected)


def pack_media(found: FoundMedia) -> bytes:
    """Findings as a blob; none is the empty blob."""
    return _ENCODER.encode(found) if len(found) else b""


def unpack_media(blob: bytes) -> FoundMedia:
    """Findings of a blob."""
    return _DECODER.decode(blob) if blob else FoundMedia()


def pack_media_of_rows(rows: Sequence[Sequence[Finding]]) -> bytes:
    """Findings of embedded media, row by row, as a blob."""
    return _ENCODER.encode((list(map(len, rows)), list_media([finding for row in rows for finding in row])))


def unpack_media_of_rows(blob: bytes) -> tuple[list[int], FoundMedia]:
    """How many media each row holds, and what was found of them."""
    return _ROWS_DECODER.decode(blob) if blob else ([], FoundMedia())
