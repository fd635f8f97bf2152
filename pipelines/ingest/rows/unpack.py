"""Text inside gzip, unpacked as it is read, so far as it is no bomb.

One stream, so one reader; `zlib` gives some 400 MB/s. Members that follow each other are one text, as `gzip`
has it. Offsets in messages count unpacked bytes.
"""

import gzip
import io
import zlib
from typing import Final

from pipelines.ingest.rows.text_source import choose_block_bytes
from schemas.errors import CorruptError

MAX_RATIO = 200
"""Text packs 3 to 10 times smaller, indented lists of nothing 100 times."""
FREE_BYTES = 64 << 20
"""So much may come of however few."""
MAX_UNPACKED_BYTES: Final = 64 << 30

_BLOCK_BYTES: Final = 256 << 10
_DAMAGE: Final = (gzip.BadGzipFile, EOFError, zlib.error)


class UnpackedText:
    """The text inside a gzip file, forward only."""

    def __init__(self, file: io.RawIOBase, name: str) -> None:
        self._name = name
        self._packed = _Counted(file)
        buffered = io.BufferedReader(self._packed, choose_block_bytes(file) or _BLOCK_BYTES)
        self._text = gzip.GzipFile(fileobj=buffered, mode="rb")
        self._num_bytes = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """See `Readable.readinto`.

        Raises:
            CorruptError: when the file is cut or damaged, or becomes too large.
        """
        try:
            count = self._text.readinto(buffer)
        except _DAMAGE as error:
            raise CorruptError(
                f"annotations {self._name}: gzip is damaged behind byte {self._num_bytes} of its text: "
                f"{error}; get the file again"
            ) from error
        self._num_bytes += count
        limit = min(MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * self._packed.num_bytes))
        if self._num_bytes > limit:
            raise CorruptError(
                f"annotations {self._name}: {self._packed.num_bytes} bytes of gzip become more than {limit}; "
                "unpack the file first if that is right"
            )
        return count


class _Counted(io.RawIOBase):
    """A file that tells how much was read of it, and is not closed with its reader."""

    def __init__(self, file: io.RawIOBase) -> None:
        self.num_bytes = 0
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = self._file.readinto(buffer) or 0
        self.num_bytes += count
        return count
