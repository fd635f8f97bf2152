"""The metrics of a run: each named once, and told from events by one function.

Who exports them (`infra.ray_metrics`) knows metrics, not events; who watches them (`infra/monitoring`) knows
names, and a test holds the two together. Counters count, gauges are set, histograms sort seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from schemas.events import (
    Counted,
    EncoderUsed,
    Event,
    Rejected,
    StageEnded,
    StageStarted,
    UnitDivided,
    UnitDone,
    UnitRetried,
    WorkerLost,
)

Kind = Literal["counter", "gauge", "histogram"]
SECONDS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
"""Bounds of the histograms."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; every one of them is told by stage."""

    name: str
    kind: Kind
    description: str
    tags: tuple[str, ...] = ("stage",)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a counter is raised by, a gauge is set to, or a histogram takes up."""

    metric: Metric
    value: float
    tags: dict[str, str]


STAGE_UNITS: Final = Metric("onetoken_stage_units", "gauge", "Units of the stage that was started last")
STAGE_SECONDS: Final = Metric("onetoken_stage_seconds", "histogram", "Wall time of whole stages")
UNIT_SECONDS: Final = Metric("onetoken_unit_seconds", "histogram", "Wall time of units")
UNITS: Final = Metric("onetoken_units_done", "counter", "Units that were finished")
UNITS_FOUND: Final = Metric("onetoken_units_found", "counter", "Units that an earlier run had committed")
ITEMS: Final = Metric("onetoken_items", "counter", "Items written; of ingest, examples")
VIEWS: Final = Metric("onetoken_views", "counter", "Views encoded")
BYTES: Final = Metric("onetoken_bytes", "counter", "Bytes of shards written; of ingest, of media read")
REJECTS: Final = Metric("onetoken_rejects", "counter", "Records or items rejected", ("stage", "code"))
RETRIES: Final = Metric("onetoken_unit_retries", "counter", "Units tried again because the outside failed")
REDONE: Final = Metric("onetoken_units_redone", "counter", "Units done again because their worker was lost")
DIVIDED: Final = Metric("onetoken_units_divided", "counter", "Units run item by item to find a killer")
DEATHS: Final = Metric("onetoken_worker_deaths", "counter", "Workers that died or took too long")
ENCODER_BUSY: Final = Metric("onetoken_encoder_busy_seconds", "counter", "Time in which encoders worked")
ENCODER_WAITED: Final = Metric("onetoken_encoder_waited_seconds", "counter", "Time in which they had no view")
DECODERS_BUSY: Final = Metric("onetoken_decoders_busy_seconds", "counter", "Time in which decoders worked")

METRICS: Final = (
    STAGE_UNITS,
    STAGE_SECONDS,
    UNIT_SECONDS,
    UNITS,
    UNITS_FOUND,
    ITEMS,
    VIEWS,
    BYTES,
    REJECTS,
    RETRIES,
    REDONE,
    DIVIDED,
    DEATHS,
    ENCODER_BUSY,
    ENCODER_WAITED,
    DECODERS_BUSY,
)


def list_samples(event: Event) -> Iterator[Sample]:
    """What an event means for the metrics."""
    stage = {"stage": event.stage}
    match event:
        case StageStarted():
            yield Sample(STAGE_UNITS, event.num_units, stage)
        case StageEnded():
            yield Sample(STAGE_SECONDS, event.seconds, stage)
        case UnitDone():
            yield Sample(UNITS, 1, stage)
            yield Sample(UNIT_SECONDS, event.seconds, stage)
        case UnitRetried() | UnitDivided() | WorkerLost():
            yield from (Sample(metric, 1, stage) for metric in _name_losses(event))
        case Counted():
            counts = {
                ITEMS: event.num_items,
                VIEWS: event.num_views,
                BYTES: event.num_bytes,
                UNITS_FOUND: event.num_found,
            }
            yield from (Sample(metric, count, stage) for metric, count in counts.items() if count)
        case EncoderUsed():
            yield Sample(ENCODER_BUSY, event.busy_s, stage)
            yield Sample(ENCODER_WAITED, event.waited_s, stage)
            yield Sample(DECODERS_BUSY, event.decoders_busy_s, stage)
        case Rejected():
            yield Sample(REJECTS, event.number, stage | {"code": event.code})


def _name_losses(event: UnitRetried | UnitDivided | WorkerLost) -> tuple[Metric, ...]:
    """What a repeat, or its cause, raises by one."""
    match event:
        case UnitRetried():
            return (RETRIES,)
        case UnitDivided():
            return (DIVIDED,)
        case WorkerLost():
            return (DEATHS,) if event.unit is None else (DEATHS, REDONE)
