"""Which rows of a source are used: all, the first, the last, or those of lowest rank.

`random:N` takes the N rows whose bytes have the lowest sha256, as far as its first eight bytes tell: the same
rows on every machine and in every order of the file, and with a larger N a superset of those with a smaller
one. Rows of the same rank are taken in order. It costs eight bytes a row, and as many while it chooses.
"""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64


def rank_row(raw: bytes) -> int:
    """The rank of a row, from its bytes: 64 bits that are evenly spread."""
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")


def choose_rows(
    take: str, num_rows: int, ranks: UInt64[np.ndarray, " rows"] | None = None
) -> range | Int64[np.ndarray, " taken"]:
    """The indices, ascending, of the rows that are used.

    Args:
        take: as in a recipe, checked there.
        num_rows: of the whole selection.
        ranks: of all rows, which `random` needs.
    """
    if take == "all":
        return range(num_rows)
    how, _, amount = take.partition(":")
    wanted = min(num_rows, _count_wanted(amount, num_rows))
    if how == "first":
        return range(wanted)
    if how == "last":
        return range(num_rows - wanted, num_rows)
    if ranks is None or len(ranks) != num_rows:
        raise ValueError("random needs a rank for every row")
    return _find_lowest(ranks, wanted)


def _find_lowest(ranks: UInt64[np.ndarray, " rows"], wanted: int) -> Int64[np.ndarray, " taken"]:
    if wanted == 0:
        return np.empty(0, np.int64)
    highest = np.partition(ranks, wanted - 1)[wanted - 1]
    is_taken = ranks < highest
    ties = np.flatnonzero(ranks == highest)
    is_taken[ties[: wanted - int(np.count_nonzero(is_taken))]] = True
    return np.flatnonzero(is_taken).astype(np.int64)


def _count_wanted(amount: str, num_rows: int) -> int:
    if amount.endswith("%"):
        return -(-int(amount[:-1]) * num_rows // 100)
    return int(amount)
