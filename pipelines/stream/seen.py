"""What one step of a run shows its ranks: units, examples, and the facts of their media.

The step is planned and read as training does; the facts come from the table of media. A file of that table
is read whole where items of the step may lie in it, so that a look costs some seconds of a large corpus.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from infra.storage import Storage
from operators.batch import TrainingExample
from operators.stored import StoredFeatures
from pipelines.commit import read_object
from pipelines.stream.columns import read_columns
from pipelines.stream.stream import FeatureStream
from pipelines.stream.units import Unit
from pipelines.stream.walk import Position, deal
from schemas.corpus import ObjectEntry

_FACTS = ("item_key", "position", "sha256", "kind", "num_bytes", "width_px", "height_px", "duration_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumFacts:
    """What was found out about a medium when it was ingested."""

    sha256: str
    kind: str
    num_bytes: int
    width_px: int
    height_px: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMedium:
    """A medium as the step sees it."""

    facts: MediumFacts | None
    """None: the corpus has no table of media."""
    num_frames: int
    views_per_frame: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenExample:
    """An example, and where it lies."""

    example: TrainingExample
    item_key: str
    shard: str
    num_tokens: int
    """Of the sequence that the order plans with."""
    media: tuple[SeenMedium, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUnit:
    """A unit, and the rank that takes it."""

    rank: int
    cost: int
    examples: tuple[SeenExample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenStep:
    """A step; its number within its epoch counts from 0."""

    position: Position
    steps_of_epoch: int
    units: tuple[SeenUnit, ...]


def look_at_step(
    stream: FeatureStream, storage: Storage, media: Collection[ObjectEntry], number: int, world_size: int = 1
) -> SeenStep:
    """What the ranks see in one step of a run.

    Args:
        stream: of any rank.
        storage: the corpus.
        media: the files of the table of media.
        number: of the step, counted from 0 over all epochs.
        world_size: ranks that share the step.

    Raises:
        ConfigError: when the run has no such step.
        CorruptError: naming the shard that cannot be read, and the line that leaves it out.
    """
    planned = stream.walk.find(number)
    rows = [int(row) for unit in planned.units for row in unit.rows]
    keys = {stream.loader.read_text(row).item_key for row in rows}
    facts = _read_facts(storage, media, keys)
    units = [
        (rank, unit)
        for rank in range(world_size)
        for unit in deal(planned.units, rank, world_size)
        if unit is not None
    ]
    return SeenStep(
        position=planned.position,
        steps_of_epoch=stream.num_steps(planned.position.epoch),
        units=tuple(_see_unit(stream, rank, unit, facts) for rank, unit in units),
    )


def _see_unit(stream: FeatureStream, rank: int, unit: Unit, facts: dict[str, list[MediumFacts]]) -> SeenUnit:
    examples = tuple(_see_example(stream, int(row), facts) for row in unit.rows)
    return SeenUnit(rank=rank, cost=unit.cost, examples=examples)


def _see_example(stream: FeatureStream, row: int, facts: dict[str, list[MediumFacts]]) -> SeenExample:
    text = stream.loader.read_text(row)
    example = stream.loader.load_example(row)
    known = facts.get(text.item_key, [])
    stored = [medium for medium in example.media if isinstance(medium, StoredFeatures)]
    return SeenExample(
        example=example,
        item_key=text.item_key,
        shard=stream.catalog.shards[stream.catalog.shard_of(row)].name,
        num_tokens=int(stream.catalog.table.lengths[row]),
        media=tuple(
            SeenMedium(
                facts=known[place] if place < len(known) else None,
                num_frames=medium.num_frames,
                views_per_frame=medium.views_per_frame,
            )
            for place, medium in enumerate(stored)
        ),
    )


def _read_facts(
    storage: Storage, media: Collection[ObjectEntry], keys: set[str]
) -> dict[str, list[MediumFacts]]:
    """The media of some items, in their places."""
    found: dict[str, list[tuple[int, MediumFacts]]] = defaultdict(list)
    wanted = np.array(sorted(keys), dtype="U32")
    for entry in media:
        columns = read_columns(read_object(storage, entry), entry.path, _FACTS)
        names = columns["item_key"].astype("U32")
        for row in np.flatnonzero(np.isin(names, wanted)).tolist():
            facts = MediumFacts(
                sha256=str(columns["sha256"][row]),
                kind=str(columns["kind"][row]),
                num_bytes=int(columns["num_bytes"][row]),
                width_px=int(columns["width_px"][row]),
                height_px=int(columns["height_px"][row]),
                duration_s=float(columns["duration_s"][row]),
            )
            found[str(names[row])].append((int(columns["position"][row]), facts))
    return {
        key: [facts for _, facts in sorted(placed, key=lambda one: one[0])] for key, placed in found.items()
    }
