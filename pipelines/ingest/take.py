"""Which rows of a source are used: all, the first, the last, or those of lowest hash.

`random:N` takes the N rows whose bytes have the lowest sha256: the same rows on every machine and in
every order of the file, and with a larger N a superset of those with a smaller one. Rows with the same
bytes are taken in order. Anything but `all` reads the annotation file twice.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Container, Iterable


class _Everything:
    def __contains__(self, item: object) -> bool:
        return True


def choose_rows(take: str, read_raw: Callable[[], Iterable[bytes]]) -> Container[int]:
    """The indices, over all files of the source, of the rows that are used.

    Args:
        take: as in a recipe, checked there.
        read_raw: starts a pass over the bytes of all rows.
    """
    if take == "all":
        return _Everything()
    how, _, amount = take.partition(":")
    num_rows = sum(1 for _ in read_raw())
    wanted = min(num_rows, _count_wanted(amount, num_rows))
    match how:
        case "first":
            return range(wanted)
        case "last":
            return range(num_rows - wanted, num_rows)
        case _:
            hashed = ((hashlib.sha256(raw).digest(), index) for index, raw in enumerate(read_raw()))
            return {index for _, index in heapq.nsmallest(wanted, hashed)}


def _count_wanted(amount: str, num_rows: int) -> int:
    if amount.endswith("%"):
        return math.ceil(int(amount[:-1]) * num_rows / 100)
    return int(amount)
