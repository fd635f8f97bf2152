"""What a training run reads, in which order, and how: the part `data` of a training configuration.

`HOW` names what decides no number: places, threads, processes. Everything else is an input of the order; a
run is resumed with the same.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from schemas.configuration import StrictModel
from schemas.recipe import ByteSize

Count = Annotated[int, Field(gt=0)]

HOW: Final = {"threads", "workers", "cache"}
"""Fields of `DataConfig` that decide neither what is seen nor in which order."""


class FramesConfig(StrictModel):
    """Which cached frames of a video are read; an image has one. `all`, or neither: all of them."""

    max: Count | None = None
    """The first N at most."""
    uniform: Count | None = None
    """N spread over the clip, or all where it has fewer."""

    @model_validator(mode="before")
    @classmethod
    def _read_all(cls, value: object) -> object:
        return {} if value == "all" else value

    @model_validator(mode="after")
    def _one_policy(self) -> "FramesConfig":
        if self.max is not None and self.uniform is not None:
            raise ValueError("give either max or uniform, not both")
        return self


class CacheConfig(StrictModel):
    """Feature shards kept on this machine's disk, shared by all of its processes."""

    folder: str
    """A local folder; a run finds there what an earlier one left."""
    max_bytes: ByteSize = 64 * 2**30
    """The longest unused shards go first. Two blocks should fit."""
    fetch: Literal["auto", "shards", "items"] = "auto"
    """shards: whole, a block ahead; items: nothing is kept, each item is a ranged read. auto: shards where
    the corpus is remote and at most two machines read it: whole shards multiply traffic by the machines."""


class DataConfig(StrictModel):
    """Which examples, in which units, and how they are read."""

    sources: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None
    """Name of a source to its weight; divided by the largest, a weight is the share of the source that an
    epoch sees. Omitted: all sources once."""
    unit: Literal["count", "cell", "pack"] = "count"
    """What goes through the model at once. count: `micro_batch` examples of like length; cell: examples of
    like length, at most `unit_tokens` with their padding; pack: examples that fill one sequence of
    `unit_tokens`, which the language model reads as one row without padding: positions begin anew with each
    example, and none attends to another."""
    batch: Count = 256
    """Examples of an optimizer step, where units are counted."""
    micro_batch: Count = 8
    """Examples of a unit by count."""
    unit_tokens: Count = 4096
    """Tokens of a cell or a pack, those of media among them."""
    units: Count | None = None
    """Cells or packs of an optimizer step. Omitted: batch / micro_batch."""
    alike: bool = False
    """The units of a step are alike in length, too (unit: count): with several GPUs and no accumulation ranks
    then hardly wait for each other, and sources clump."""
    tail: Literal["short", "drop"] = "short"
    """The last step of an epoch, of which each kind of media has one: of fewer units, or left out."""
    max_tokens: Annotated[int, Field(ge=8)] = 2048
    """Text tokens of an example; longer ones are left out and counted, never cut."""
    views: Literal["whole", "all"] = "whole"
    """Of a picture cached with its four crops: the whole picture alone, or all five views (stage 2, HD)."""
    frames: FramesConfig = FramesConfig()
    exclude: tuple[str, ...] = ()
    """Shards that the order leaves out, as printed when one cannot be read."""
    shards_per_block: Count = 32
    """Shards that are open at a time: more mix better, and take more of page cache or disk."""
    threads: Annotated[int, Field(ge=0, le=64)] = 2
    """Steps that are read ahead, one thread each."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that read ahead instead of threads."""
    cache: CacheConfig | None = None

    @model_validator(mode="after")
    def _units_fit(self) -> "DataConfig":
        if self.unit == "count" and self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        if self.unit == "count" and self.units is not None:
            raise ValueError("`units` goes with cells and packs; by count, batch / micro_batch says how many")
        if self.unit != "count" and self.alike:
            raise ValueError("`alike` goes with `unit: count`: cells and packs cost alike as they are")
        return self

    @property
    def units_per_step(self) -> int:
        """Units of an optimizer step, over all ranks."""
        return self.units or max(1, self.batch // self.micro_batch)

    @property
    def order_fields(self) -> dict[str, object]:
        """What decides what is seen, and in which order."""
        return self.model_dump(mode="json", exclude=HOW)

    def in_counts(self, batch: int, micro_batch: int) -> "DataConfig":
        """The same examples in small steps by count, read by this process: to be looked at."""
        return self.model_copy(
            update={
                "unit": "count",
                "batch": batch,
                "micro_batch": micro_batch,
                "units": None,
                "alike": False,
                "tail": "short",
                "workers": 0,
            }
        )
