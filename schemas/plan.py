"""The shard plan: the leaves of the prefix trees over item keys, in order.

A leaf is what a worker is given, so it is a value of its own; a plan of a hundred thousand of them is kept as
columns, some 60 bytes a leaf where the values would take a kilobyte. On disk it is a list of leaves.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, overload

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from schemas.configuration import StrictModel
from schemas.record import Modality

_MODALITIES: Final = tuple(Modality)


class Leaf(StrictModel):
    """One leaf of the shard plan: the items of a modality whose keys begin with these bits."""

    modality: Modality
    prefix: str
    """Bits, `""` for the root."""
    num_items: int
    num_media_bytes: int
    num_views: int

    @property
    def name(self) -> str:
        """The shard's name: stable as long as the leaf does not split."""
        return f"{self.modality.value}-{self.prefix or 'all'}"


class ShardPlan(Sequence[Leaf]):
    """Leaves by their place; each is made when it is asked for."""

    __slots__ = ("_ends", "_modalities", "_numbers", "_prefixes")

    def __init__(self, leaves: Iterable[Leaf] = ()) -> None:
        self._modalities = array("B")
        self._prefixes = bytearray()
        self._ends = array("Q", [0])
        self._numbers = array("q")
        for leaf in leaves:
            self._modalities.append(_MODALITIES.index(leaf.modality))
            self._prefixes += leaf.prefix.encode()
            self._ends.append(len(self._prefixes))
            self._numbers.extend((leaf.num_items, leaf.num_media_bytes, leaf.num_views))

    def __len__(self) -> int:
        return len(self._modalities)

    @overload
    def __getitem__(self, index: int) -> Leaf: ...
    @overload
    def __getitem__(self, index: slice) -> list[Leaf]: ...
    def __getitem__(self, index: int | slice) -> Leaf | list[Leaf]:
        if isinstance(index, slice):
            return [self._make(place) for place in range(len(self))[index]]
        return self._make(range(len(self))[index])

    def __iter__(self) -> Iterator[Leaf]:
        return (self._make(place) for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardPlan):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - as of a list

    def __repr__(self) -> str:
        return f"ShardPlan({len(self)} leaves)"

    def find_places(self, without: Modality) -> Sequence[int]:
        """Places of the leaves of all modalities but one."""
        left_out = _MODALITIES.index(without)
        return array("Q", (place for place, number in enumerate(self._modalities) if number != left_out))

    def _make(self, place: int) -> Leaf:
        num_items, num_media_bytes, num_views = self._numbers[3 * place : 3 * place + 3]
        return Leaf(
            modality=_MODALITIES[self._modalities[place]],
            prefix=self._prefixes[self._ends[place] : self._ends[place + 1]].decode(),
            num_items=num_items,
            num_media_bytes=num_media_bytes,
            num_views=num_views,
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A plan as it is, or any leaves; written as their list."""
        leaves = core_schema.no_info_after_validator_function(
            cls, core_schema.generator_schema(handler.generate_schema(Leaf))
        )
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), leaves],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(_write_leaves),
        )


def _write_leaves(plan: Iterable[Leaf]) -> list[dict[str, Any]]:
    return [leaf.model_dump(mode="json") for leaf in plan]
