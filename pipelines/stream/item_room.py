"""Room for the bytes of many items: one buffer that is used again for batch after batch.

What is read goes straight into it, piece after piece at multiples of 64. Memory that is new for every batch
would be handed out by the kernel page by page, which takes longer than reading.
"""

from typing import Any, Final, cast

import torch

from schemas.errors import WorkError

ALIGNMENT: Final = 64


class ItemRoom:
    """A buffer that fills up from its start; for one thread."""

    def __init__(self, num_bytes: int) -> None:
        self._tensor = torch.empty(num_bytes, dtype=torch.uint8)
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
