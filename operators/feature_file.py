"""`feat.bin`: the features of one item, of which any one view is read and checked alone.

An item has media, a medium has frames (a picture is one frame), a frame has views: 5 for a picture cut into
four crops and the whole, 1 for a frame of a clip. Views stand in that order. All numbers are little endian.

    offset  size  field
         0     8  magic 89 31 54 46 45 41 54 0A
         8     2  format version, 1
        10     2  codec version
        12     4  number of media M
        16    16  codec name, ASCII, filled up with zeros
        32     4  number of views V
        36     4  patches a view
        40     4  width of a patch
        44     4  0: a section begins with a class row; 1: it has none
        48     8  size of the whole file
        56     8  xxh3_64 of bytes 0..56 and of both tables
        64   8*M  per medium: frames u32, views a frame u32
       ...  24*V  per view: offset u64, length u64, xxh3_64 of the section u64
       ...        zeros up to a multiple of 64
       ...        per view: the section, zeros up to a multiple of 64 (the last one ends the file)

    section = class row (fp16 x width), where the encoder has one, + the view as its codec wrote it

A section is one contiguous range, so one view costs one ranged read after the header. The header carries its
own checksum and is read without trusting any count in it: sizes are checked against the bytes at hand before
use. It costs 64 + 8 M + 24 V bytes and the padding: 0.01 % of a picture's five views.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Final, NamedTuple

import torch
import xxhash
from jaxtyping import Float16
from torch import Tensor

from operators.codec.interface import Buffer, tensor_from_bytes, tensor_to_bytes
from schemas.errors import CorruptError, MismatchError
from schemas.feature import FeatureSpec

MAGIC: Final = b"\x891TFEAT\n"
FORMAT_VERSION: Final = 1
PREFIX_BYTES: Final = 64
"""So many bytes tell how long the header is."""
ALIGNMENT: Final = 64
_WITH_CLASS_ROWS: Final = 0
_WITHOUT_CLASS_ROWS: Final = 1
_BYTES_PER_HALF: Final = 2
_PREFIX = struct.Struct("<8sHHI16sIIIIQQ")
_MEDIUM = struct.Struct("<II")
_VIEW = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class MediumShape:
    """How many views a medium has: a picture is 1 frame, a clip is frames of 1 view."""

    num_frames: int
    views_per_frame: int

    @property
    def num_views(self) -> int:
        """Views of all frames."""
        return self.num_frames * self.views_per_frame


class ViewEntry(NamedTuple):
    """Where a view's section stands in the file, and its checksum."""

    offset: int
    length: int
    xxh3: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHeader:
    """What a feature file tells of itself."""

    codec: str
    codec_version: int
    num_patches: int
    width: int
    num_bytes: int
    media: tuple[MediumShape, ...]
    views: tuple[ViewEntry, ...]
    has_class_rows: bool = True

    @property
    def class_row_bytes(self) -> int:
        """What stands in a section before the view."""
        return _BYTES_PER_HALF * self.width if self.has_class_rows else 0

    @property
    def header_bytes(self) -> int:
        """Length of the header without the padding."""
        return _header_bytes(len(self.media), len(self.views))


@dataclass(frozen=True, slots=True)
class ViewSection:
    """One view, checked but still encoded."""

    class_row: Float16[Tensor, " width"] | None
    """None: the encoder has no class token."""
    payload: memoryview


def pack_features(
    payloads: Sequence[bytes],
    class_rows: Float16[Tensor, "views width"] | None,
    *,
    media: Sequence[MediumShape],
    codec: str,
    codec_version: int,
    num_patches: int,
    width: int,
) -> bytes:
    """The file over these views, as their codec wrote them; without class rows where the encoder has none.

    Raises:
        MismatchError: when media, class rows and views differ in number, or class rows are not of `width`,
            or a name is too long.
    """
    num_views = sum(medium.num_views for medium in media)
    shape = None if class_rows is None else tuple(class_rows.shape)
    if not num_views or len(payloads) != num_views or shape not in (None, (num_views, width)):
        raise MismatchError(
            f"media of {num_views} views come with {len(payloads)} encoded views and class rows of shape "
            f"{shape}; an item needs as many of each, {width} wide, and one view at least"
        )
    if not (codec.isascii() and 0 < len(codec) <= 16):
        raise MismatchError(f"codec name {codec!r} must be 1 to 16 ASCII characters")
    rows = [b""] * num_views if class_rows is None else [tensor_to_bytes(row) for row in class_rows]
    sections = [row + payload for row, payload in zip(rows, payloads, strict=True)]
    views = _place(sections, _align(_header_bytes(len(media), num_views)))
    header = FeatureHeader(
        codec=codec,
        codec_version=codec_version,
        num_patches=num_patches,
        width=width,
        num_bytes=views[-1].offset + views[-1].length,
        media=tuple(media),
        views=views,
        has_class_rows=class_rows is not None,
    )
    parts = bytearray(_pack_header(header))
    for view, section in zip(views, sections, strict=True):
        parts += bytes(view.offset - len(parts))
        parts += section
    return bytes(parts)


def describe_mismatch(header: FeatureHeader, spec: FeatureSpec) -> str | None:
    """How a file is none of a spec, in words; None where it is one."""
    found = (header.codec, header.codec_version, header.num_patches, header.width, header.has_class_rows)
    encoder, codec = spec.encoder, spec.codec
    wanted = (codec.name, codec.version, encoder.num_patches, encoder.width, encoder.class_row)
    if found == wanted:
        return None
    return f"is of (codec, version, patches, width, class rows) {found}, its spec says {wanted}"


def measure_header(prefix: Buffer) -> int:
    """Bytes that the header takes, by the first `PREFIX_BYTES` of a file; not to be trusted beyond its size.

    Raises:
        CorruptError: when this is no feature file, or one of an unknown version.
    """
    if len(prefix) < PREFIX_BYTES:
        raise CorruptError(f"a feature file of {len(prefix)} bytes ends inside its header")
    magic, version, _, num_media, _, num_views, *_ = _PREFIX.unpack_from(prefix)
    if magic != MAGIC:
        raise CorruptError(f"no feature file: it begins with {bytes(magic).hex()}, not {MAGIC.hex()}")
    if version != FORMAT_VERSION:
        raise CorruptError(
            f"feature file of version {version}, this program reads {FORMAT_VERSION}: "
            "it is damaged, or made by a newer program"
        )
    return _header_bytes(num_media, num_views)


def read_header(data: Buffer) -> FeatureHeader:
    """The header at the beginning of `data`, which may end anywhere after it.

    Raises:
        CorruptError: when it is cut short, damaged, of an unknown version or not a feature file.
    """
    length = measure_header(data)
    if len(data) < length:
        raise CorruptError(f"a feature file of {len(data)} bytes ends inside its header of {length} bytes")
    view = memoryview(data)
    _, _, codec_version, num_media, name, _, num_patches, width, kind, num_bytes, digest = (
        _PREFIX.unpack_from(view)
    )
    if _header_digest(view[:length]) != digest:
        raise CorruptError("the header of a feature file does not match its checksum")
    tables = view[PREFIX_BYTES:length]
    media_bytes = num_media * _MEDIUM.size
    header = FeatureHeader(
        codec=bytes(name).rstrip(b"\0").decode("ascii", errors="replace"),
        codec_version=codec_version,
        num_patches=num_patches,
        width=width,
        num_bytes=num_bytes,
        media=tuple(starmap(MediumShape, _MEDIUM.iter_unpack(tables[:media_bytes]))),
        views=tuple(starmap(ViewEntry, _VIEW.iter_unpack(tables[media_bytes:]))),
        has_class_rows=kind == _WITH_CLASS_ROWS,
    )
    _check_layout(header, kind)
    return header


def view_range(header: FeatureHeader, index: int) -> tuple[int, int]:
    """Offset and length of the section of a view, to be read in one go."""
    view = header.views[index]
    return view.offset, view.length


def open_section(header: FeatureHeader, index: int, section: Buffer) -> ViewSection:
    """The view in the bytes of its section.

    Raises:
        CorruptError: when they do not match length or checksum.
    """
    payload = check_section(header, index, section)
    if not header.has_class_rows:
        return ViewSection(None, payload)
    class_row = tensor_from_bytes(memoryview(section)[: header.class_row_bytes], torch.float16)
    return ViewSection(class_row, payload)


def check_section(header: FeatureHeader, index: int, section: Buffer) -> memoryview:
    """The encoded view in the bytes of its section, without the class row.

    Raises:
        CorruptError: when they do not match length or checksum.
    """
    view = header.views[index]
    if len(section) != view.length or xxhash.xxh3_64_intdigest(section) != view.xxh3:
        raise CorruptError(f"view {index} of {len(header.views)} does not match its checksum")
    return memoryview(section)[header.class_row_bytes :]


def cut_views(header: FeatureHeader, data: memoryview) -> list[memoryview]:
    """The encoded views of a whole file that is known to be as it was written."""
    skipped = header.class_row_bytes
    return [data[view.offset + skipped : view.offset + view.length] for view in header.views]


def check_views(header: FeatureHeader, data: memoryview) -> list[memoryview]:
    """The encoded views of a whole file.

    Raises:
        CorruptError: when one does not match its checksum.
    """
    return [
        check_section(header, number, data[view.offset : view.offset + view.length])
        for number, view in enumerate(header.views)
    ]


def check_size(header: FeatureHeader, num_bytes: int) -> None:
    """See that a file is as long as its header says.

    Raises:
        CorruptError: when it is not.
    """
    if header.num_bytes != num_bytes:
        raise CorruptError(f"a feature file of {header.num_bytes} bytes has {num_bytes}")


def _align(position: int) -> int:
    return position + -position % ALIGNMENT


def _header_bytes(num_media: int, num_views: int) -> int:
    return PREFIX_BYTES + num_media * _MEDIUM.size + num_views * _VIEW.size


def _place(sections: Sequence[bytes], offset: int) -> tuple[ViewEntry, ...]:
    views: list[ViewEntry] = []
    for section in sections:
        views.append(ViewEntry(offset, len(section), xxhash.xxh3_64_intdigest(section)))
        offset = _align(offset + len(section))
    return tuple(views)


def _pack_header(header: FeatureHeader) -> bytes:
    prefix = (
        MAGIC,
        FORMAT_VERSION,
        header.codec_version,
        len(header.media),
        header.codec.encode("ascii"),
        len(header.views),
        header.num_patches,
        header.width,
        _WITH_CLASS_ROWS if header.has_class_rows else _WITHOUT_CLASS_ROWS,
        header.num_bytes,
    )
    packed = bytearray(_PREFIX.pack(*prefix, 0))
    packed += b"".join(_MEDIUM.pack(medium.num_frames, medium.views_per_frame) for medium in header.media)
    packed += b"".join(_VIEW.pack(view.offset, view.length, view.xxh3) for view in header.views)
    struct.pack_into("<Q", packed, PREFIX_BYTES - 8, _header_digest(packed))
    return bytes(packed)


def _header_digest(header: Buffer) -> int:
    view = memoryview(header)
    return xxhash.xxh3_64_intdigest(bytes(view[: PREFIX_BYTES - 8]) + bytes(view[PREFIX_BYTES:]))


def _check_layout(header: FeatureHeader, kind: int) -> None:
    """A checksum does not prove that the writer was sound."""
    position = _align(header.header_bytes)
    is_sound = kind in (_WITH_CLASS_ROWS, _WITHOUT_CLASS_ROWS)
    for view in header.views:
        is_sound &= view.offset == position and view.length >= header.class_row_bytes
        position = _align(view.offset + view.length)
    num_views = 0
    for medium in header.media:
        is_sound &= medium.num_views > 0
        num_views += medium.num_views
    last = header.views[-1] if header.views else ViewEntry(0, 0, 0)
    is_sound &= 0 < num_views == len(header.views) and last.offset + last.length == header.num_bytes
    if not is_sound:
        raise CorruptError("the tables of a feature file contradict each other")
