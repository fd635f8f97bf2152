"""Media as the rows of a range ask for them: each once, in a few lists of paths.

Nearly all media of a range are of one kind and named by their whole path, so what travels from the scan to
the probe, and tells the answers apart when the range is read, is the paths alone. They are dealt out to
buckets by the hash of the path: sources that name the same file find it in the same bucket.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from xxhash import xxh3_64_intdigest

from schemas.record import MediumKind, MediumReference

_HASH_BITS: Final = 64


class AskedMedia(msgspec.Struct, array_like=True, gc=False):
    """Distinct media of one kind."""

    kind: MediumKind
    by_stem: bool
    """Whether the paths lack their extension."""
    paths: list[str]

    def references(self) -> Iterator[MediumReference]:
        """The media, one by one."""
        return (MediumReference(self.kind, path, self.by_stem) for path in self.paths)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[AskedMedia])


class MediaNames:
    """The media that rows name, each once; it grows."""

    def __init__(self) -> None:
        self._paths: dict[tuple[MediumKind, bool], dict[str, None]] = {}

    def add(self, references: Iterable[MediumReference]) -> None:
        """Add media that are files."""
        for kind, path, by_stem in references:
            self._paths.setdefault((kind, by_stem), {})[str(path)] = None

    def add_paths(self, kind: MediumKind, paths: Iterable[str]) -> None:
        """Add media that are named by their whole paths."""
        self._paths.setdefault((kind, False), {}).update(dict.fromkeys(paths))

    def deal_out(self, bits: int) -> list[bytes]:
        """A blob for each bucket, which `unpack_asked` reads."""
        buckets: list[list[AskedMedia]] = [[] for _ in range(1 << bits)]
        for (kind, by_stem), paths in self._paths.items():
            dealt: list[list[str]] = [[] for _ in buckets]
            for path in paths:
                dealt[request_hash(path) >> (_HASH_BITS - bits)].append(path)
            for bucket, some in zip(buckets, dealt, strict=True):
                if some:
                    bucket.append(AskedMedia(kind, by_stem, some))
        return [_ENCODER.encode(bucket) if bucket else b"" for bucket in buckets]


def unpack_asked(blob: bytes) -> list[AskedMedia]:
    """The media of a bucket; their order is that of the answers."""
    return _DECODER.decode(blob) if blob else []


def request_hash(path: str) -> int:
    """64 bits that spread media evenly."""
    return xxh3_64_intdigest(path.encode())
