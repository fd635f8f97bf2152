"""What a medium is, told from its first bytes alone.

Names lie: a GIF called `.jpg` and an HTML page called `.mp4` stand in every large data set. Only the formats
listed here are ever handed to a decoder, and each decoder is told the format and may not guess another, so
nothing that points at other files (playlists, concat lists, SVG, PostScript) is opened, whatever its name.

A whitelist leaves things out on purpose: AVIF, HEIC and JPEG 2000 are not in every build of the libraries,
and a corpus must not depend on the build.
"""

from dataclasses import dataclass
from typing import Final

from schemas.record import MediumKind

HEAD_BYTES: Final = 1024
"""How much of a file `sniff_format` wants to see; less is fine for a shorter file."""

_TS_PACKET_BYTES = 188
_STILL_PICTURE_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
_QUICKTIME_ATOMS = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})


@dataclass(frozen=True, slots=True)
class MediumFormat:
    """A format that is decoded: its kind, the extension that is stored, and the decoder's name for it."""

    kind: MediumKind
    extension: str
    decoder: str
    """Pillow's format for pictures, FFmpeg's demuxer for clips."""


JPEG: Final = MediumFormat(MediumKind.IMAGE, "jpg", "JPEG")
PNG: Final = MediumFormat(MediumKind.IMAGE, "png", "PNG")
GIF: Final = MediumFormat(MediumKind.IMAGE, "gif", "GIF")
WEBP: Final = MediumFormat(MediumKind.IMAGE, "webp", "WEBP")
BMP: Final = MediumFormat(MediumKind.IMAGE, "bmp", "BMP")
TIFF: Final = MediumFormat(MediumKind.IMAGE, "tif", "TIFF")
MP4: Final = MediumFormat(MediumKind.VIDEO, "mp4", "mp4")
MOV: Final = MediumFormat(MediumKind.VIDEO, "mov", "mov")
MKV: Final = MediumFormat(MediumKind.VIDEO, "mkv", "matroska")
WEBM: Final = MediumFormat(MediumKind.VIDEO, "webm", "webm")
AVI: Final = MediumFormat(MediumKind.VIDEO, "avi", "avi")
MPEG_TS: Final = MediumFormat(MediumKind.VIDEO, "ts", "mpegts")
MPEG_PS: Final = MediumFormat(MediumKind.VIDEO, "mpg", "mpeg")
FLV: Final = MediumFormat(MediumKind.VIDEO, "flv", "flv")

FORMATS: Final = (JPEG, PNG, GIF, WEBP, BMP, TIFF, MP4, MOV, MKV, WEBM, AVI, MPEG_TS, MPEG_PS, FLV)

_PREFIXES: Final = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"\x00\x00\x01\xba", MPEG_PS),
    (b"FLV\x01", FLV),
)


def sniff_format(head: bytes) -> MediumFormat | None:
    """The format of a file that starts with `head`, or None where it is not one of `FORMATS`."""
    for prefix, medium_format in _PREFIXES:
        if head.startswith(prefix):
            return medium_format
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": AVI}.get(head[8:12])
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return WEBM if b"webm" in head[:64] else MKV
    if head[:2] == b"BM" and head[6:10] == b"\x00\x00\x00\x00":
        return BMP
    if head[4:8] == b"ftyp":
        return _sniff_brand(head[8:12])
    if head[4:8] in _QUICKTIME_ATOMS:
        return MOV
    if _is_transport_stream(head):
        return MPEG_TS
    return None


def _sniff_brand(brand: bytes) -> MediumFormat | None:
    if brand in _STILL_PICTURE_BRANDS:
        return None
    return MOV if brand == b"qt  " else MP4


def _is_transport_stream(head: bytes) -> bool:
    sync_bytes = head[::_TS_PACKET_BYTES][:3]
    return len(sync_bytes) == 3 and sync_bytes == b"\x47" * 3
