"""Room for the bytes of many items: one buffer that is used again for batch after batch.

Items are read straight into it, one after the other at multiples of 64, and decoded from there. Memory that
is new for every batch would be handed out by the kernel page by page, which takes longer than reading.
Pinned, a GPU copies from it without the kernel's help.
"""

from typing import Any, Final, cast

import torch

from operators.feature_file import FeatureHeader, check_section, measure_header, read_header, view_range
from schemas.errors import CorruptError, WorkError

ALIGNMENT: Final = 64


class ItemRoom:
    """A buffer that fills up from its start; for one thread."""

    def __init__(self, num_bytes: int, *, is_pinned: bool = False) -> None:
        self._tensor = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_pinned)
        self._view = memoryview(cast("Any", self._tensor.numpy()))
        self._used = 0

    def clear(self) -> None:
        """Begin anew; what was taken will be overwritten."""
        self._used = 0

    def take(self, num_bytes: int) -> memoryview:
        """The next bytes, to be written to.

        Raises:
            WorkError: when there are not so many left.
        """
        start = self._used
        if start + num_bytes > len(self._view):
            raise WorkError(
                f"a batch needs {start + num_bytes} bytes of room and has {len(self._view)}; make "
                "more, or read fewer items at once"
            )
        self._used += num_bytes + -num_bytes % ALIGNMENT
        return self._view[start : start + num_bytes]


class ItemCheck:
    """Header and views of an item against their checksums, while its bytes come in.

    What has just been read is still in the core's cache: checked later, it would come from memory once more.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.payloads: list[memoryview] = []
        """Encoded views, as far as they have been checked."""
        self._header: FeatureHeader | None = None

    @property
    def header(self) -> FeatureHeader:
        """The header, when all has been seen.

        Raises:
            CorruptError: when the item ended before its last view.
        """
        if self._header is None or len(self.payloads) < len(self._header.views):
            raise CorruptError(f"a feature file of {len(self.data)} bytes ends inside its views")
        return self._header

    def see(self, num_bytes: int) -> None:
        """So many bytes of the item are there now.

        Raises:
            CorruptError: when one of them is not as it was written.
        """
        if self._header is None:
            if num_bytes < len(self.data) and num_bytes < measure_header(self.data[:num_bytes]):
                return
            self._header = read_header(self.data[:num_bytes])
        for place in range(len(self.payloads), len(self._header.views)):
            offset, length = view_range(self._header, place)
            if offset + length > num_bytes:
                return
            section = self.data[offset : offset + length]
            self.payloads.append(check_section(self._header, place, section))
