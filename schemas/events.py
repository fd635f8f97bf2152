"""What happens in a run, as plain records: for logs, counters and dashboards.

They name stages, units and reasons, and nothing of what a unit holds: no location, no output of a process, no
setting, so that no secret gets into a log this way. Numbers are of the event alone, never running totals.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage has units to do."""

    stage: str
    num_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """A unit is finished; parts of one that was divided do not count."""

    stage: str
    unit: int
    seconds: float
    """By its last worker, the way of the result included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRetried:
    """The outside failed; the unit is tried again after a pause."""

    stage: str
    unit: int
    error: str
    """Class of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDivided:
    """Several workers of a unit died; it is run item by item."""

    stage: str
    unit: int
    num_parts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A worker died, or took too long and was killed."""

    stage: str
    unit: int | None
    """What it was doing, and what is done again; None: nothing."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What units brought into the corpus, or found there."""

    stage: str
    num_items: int
    num_views: int = 0
    num_bytes: int = 0
    num_found: int = 0
    """Units that an earlier run had committed; their items are not counted."""
    num_views_reused: int = 0
    """Of the views: features were there already, in another shard or corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Records or items that cannot be used."""

    stage: str
    code: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderUsed:
    """How busy an encoder was while it made a shard, and the decoders that feed it: who waits for whom."""

    stage: str
    seconds: float
    busy_s: float
    waited_s: float
    """For views. The rest went to the start and the end of the shard, and to waiting for the writer."""
    num_decoders: int
    decoders_busy_s: float
    """Of all decoders together, reading of media included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded:
    """A stage is over."""

    stage: str
    seconds: float
    num_done: int
    is_complete: bool
    """Not so: it failed or was stopped."""


Event = (
    StageStarted
    | UnitDone
    | UnitRetried
    | UnitDivided
    | WorkerLost
    | Counted
    | Rejected
    | EncoderUsed
    | StageEnded
)
