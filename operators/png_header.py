"""Size and orientation of a PNG from its chunks, all of them: an orientation may stand behind the pixels.

Pillow decodes the whole picture to find it there; this steps over the pixels, whose checksums are left to the
decoder. The checksums of all other chunks are compared, as Pillow does before the pixels.

Text is plain under the names that the PNG specification registers; any other may be EXIF or XMP in disguise.
Animations are left to Pillow.
"""

import zlib
from struct import Struct
from typing import Final

from operators.exif_header import UPRIGHT, read_orientation

Size = tuple[int, int]

_BEGINNING: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_HEADER: Final = Struct(">LL5BL")
_CHUNK: Final = Struct(">L4s").unpack_from
_CHUNK_BYTES: Final = 12
"""Of a chunk without content: length, name, checksum."""
_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PIXELS: Final = frozenset(
    {(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3), (8, 4),
     (16, 4), (8, 6), (16, 6)}
)  # fmt: skip
"""Bits and colour type that go together."""
_PALETTE: Final = 3
_FIRST_CHUNK: Final = 33
"""Where the chunks behind the header begin."""
_SMALLEST_CHUNK: Final = {
    b"PLTE": 3, b"tRNS": 6, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 0, b"bKGD": 0,
    b"hIST": 0, b"tIME": 0, b"iDOT": 0, b"vpAg": 0, b"oFFs": 0, b"caNv": 0, b"orNT": 0, b"eXIf": 0,
}  # fmt: skip
"""Chunks that say nothing about size and orientation, and the bytes that Pillow needs of them."""
_XMP: Final = b"XML:com.adobe.xmp\x00\x00"
"""Not compressed."""
_TEXTS: Final = frozenset(
    {b"Title", b"Author", b"Description", b"Copyright", b"Creation Time", b"Software", b"Disclaimer",
     b"Warning", b"Source", b"Comment", b"date:create", b"date:modify", b"date:timestamp"}
)  # fmt: skip
_ANY: Final = 1 << 32
_MAX_TEXT_BYTES: Final = 1 << 16
_MAX_PROFILE_BYTES: Final = 1 << 20


def read_png_header(data: bytes) -> tuple[Size, int] | None:
    """Size as stored, and orientation; None where it takes Pillow to tell, or a part is missing."""
    if not data.startswith(_BEGINNING) or len(data) < _FIRST_CHUNK:
        return None
    width, height, bits, color_type, packing, filtering, interlace, checksum = _HEADER.unpack_from(
        data, len(_BEGINNING)
    )
    is_plain = packing == filtering == 0 and interlace <= 1 and (bits, color_type) in _PIXELS
    if not is_plain or zlib.crc32(data[12:29]) != checksum:
        return None
    orientation = _scan_chunks(data, color_type)
    return None if orientation is None else ((width, height), orientation)


def _scan_chunks(data: bytes, color_type: int) -> int | None:
    """The orientation, if all chunks to the end are plain and those with pixels stand together."""
    orientation: int | None = None
    names = b""  # of chunks in turn; a run of the same name once
    offset = _FIRST_CHUNK
    last = len(data) - _CHUNK_BYTES
    while offset <= last:
        length, name = _CHUNK(data, offset)
        start = offset + 8
        offset += _CHUNK_BYTES + length
        if name == b"IDAT":
            if b"IDAT" in names and not names.endswith(b"IDAT"):
                return None
        elif name == b"IEND":
            is_whole = data.startswith(_END, start - 8) and b"IDAT" in names
            has_colors = color_type != _PALETTE or b"PLTE" in names.partition(b"IDAT")[0]
            return (orientation or UPRIGHT) if is_whole and has_colors else None
        elif not _is_plain_chunk(name, data, start, length, color_type):
            return None
        elif name == b"eXIf":
            block = data[start : start + length]
            if orientation is not None or (orientation := read_orientation(block)) is None:
                return None
        if not names.endswith(name):
            names += name
    return None


def _is_plain_chunk(name: bytes, data: bytes, start: int, length: int, color_type: int) -> bool:
    """Whether a chunk is as it was written, and nothing in it needs Pillow."""
    end = start + length
    if zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        return False
    return length >= _SMALLEST_CHUNK.get(name, _ANY) or _is_plain_content(name, data[start:end], color_type)


def _is_plain_content(name: bytes, body: bytes, color_type: int) -> bool:
    """Whether a chunk of variable content can change nothing about size and orientation."""
    match name:
        case b"tRNS":
            return color_type == _PALETTE
        case b"tEXt":
            return body.partition(b"\x00")[0] in _TEXTS and len(body) <= _MAX_TEXT_BYTES
        case b"iTXt":
            return body.startswith(_XMP) and b"tiff:Orientation" not in body and len(body) <= _MAX_TEXT_BYTES
        case b"iCCP":
            _, separator, rest = body.partition(b"\x00")
            return bool(separator) and rest[:1] == b"\x00" and _is_bounded(rest[1:])
        case _:
            return False


def _is_bounded(packed: bytes) -> bool:
    """Whether a colour profile unpacks to less than Pillow's limit."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, _MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
