"""Which shards a sweep, or a run, holds out: whole ones, of every modality that has more than one.

A shard is a random sample of its modality, so any of them will do; those of the highest prefixes are taken.
"""

import math
from collections.abc import Iterable

from schemas.errors import ConfigError
from schemas.plan import Leaf
from schemas.record import Modality


def choose_held_out(plan: Iterable[Leaf], share: float, excluded: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of shards that hold at least `share` of the items of each modality, if it has shards enough.

    One shard of each modality is always left to train on.

    Args:
        plan: of the corpus.
        share: of the items, between 0 and 1.
        excluded: shards that nobody reads.

    Raises:
        ConfigError: no modality has two shards.
    """
    left_out = frozenset(excluded)
    leaves = [leaf for leaf in plan if leaf.name not in left_out]
    chosen: list[str] = []
    for modality in Modality:
        mine = sorted((leaf for leaf in leaves if leaf.modality is modality), key=lambda leaf: leaf.prefix)
        wanted = math.ceil(share * sum(leaf.num_items for leaf in mine))
        while len(mine) > 1 and wanted > 0:
            leaf = mine.pop()
            chosen.append(leaf.name)
            wanted -= leaf.num_items
    if not chosen:
        raise ConfigError(
            "no kind of media has two shards, so none can be held out; build with smaller `shards`, or (of a "
            "sweep) write `held_out: null` and name shards in `data.exclude` of the base"
        )
    return tuple(sorted(chosen))
