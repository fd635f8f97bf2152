"""How fast the stages of a run were: what was written, by the wall time of the stage.

Leaves that an earlier run had committed do not count as written, only as found. Of featurize also who waited
for whom: an encoder that waits for views is short of decoders.
"""

from collections import Counter, defaultdict
from dataclasses import replace

from jobs.totals import in_mebibytes
from schemas.events import Counted, EncoderUsed, Event, StageEnded


class Throughput:
    """An observer that adds up, by stage."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: dict[str, float] = {}
        self._used: dict[str, EncoderUsed] = {}

    def __call__(self, event: Event) -> None:
        """Take up what counts."""
        match event:
            case Counted():
                written = {"items": event.num_items, "views": event.num_views, "bytes": event.num_bytes}
                found = {"found": event.num_found, "reused": event.num_views_reused}
                self._counts[event.stage].update(written | found)
            case EncoderUsed():
                before = self._used.get(event.stage)
                self._used[event.stage] = _add(before, event) if before else event
            case StageEnded():
                self._seconds[event.stage] = self._seconds.get(event.stage, 0.0) + event.seconds
            case _:
                pass

    def as_values(self) -> dict[str, object]:
        """As plain values: totals and rates of the stages that had something to write."""
        return {stage: self._describe(stage) for stage in self._counts if stage in self._seconds}

    def as_lines(self) -> list[str]:
        """As words, a line a stage."""
        return [self._spell(stage) for stage in self._counts if stage in self._seconds]

    def _describe(self, stage: str) -> dict[str, float]:
        counts, seconds = self._counts[stage], self._seconds[stage]
        values = {"seconds": round(seconds, 3), "shards_found": counts["found"]}
        for name in ("items", "views", "bytes"):
            values |= {name: counts[name], f"{name}_per_s": round(counts[name] / max(seconds, 1e-9), 1)}
        if stage == "featurize":
            values["views_reused"] = counts["reused"]
        if used := self._used.get(stage):
            values |= {
                "encoder_busy": round(used.busy_s / used.seconds, 4),
                "encoder_waited": round(used.waited_s / used.seconds, 4),
                "decoders_busy": round(used.decoders_busy_s / (used.seconds * used.num_decoders), 4),
            }
        return values

    def _spell(self, stage: str) -> str:
        counts, seconds = self._counts[stage], max(self._seconds[stage], 1e-9)
        rates = [f"{counts['items'] / seconds:,.1f} items/s"]
        if counts["views"]:
            rates.append(f"{counts['views'] / seconds:,.1f} views/s")
        rates.append(f"{in_mebibytes(round(counts['bytes'] / seconds))}/s")
        found = f"; {counts['found']} shards were there" if counts["found"] else ""
        found += f"; {counts['reused']} of the views were there" if counts["reused"] else ""
        if used := self._describe(stage) if stage in self._used else None:
            found += (
                f"; encoder busy {used['encoder_busy']:.0%}, waited for views {used['encoder_waited']:.0%}; "
                f"decoders busy {used['decoders_busy']:.0%}"
            )
        return f"  {stage} wrote {counts['items']} items in {seconds:,.1f} s: {', '.join(rates)}{found}"


def _add(one: EncoderUsed, other: EncoderUsed) -> EncoderUsed:
    """Both together; encoders have the same number of decoders throughout a stage."""
    return replace(
        one,
        seconds=one.seconds + other.seconds,
        busy_s=one.busy_s + other.busy_s,
        waited_s=one.waited_s + other.waited_s,
        decoders_busy_s=one.decoders_busy_s + other.decoders_busy_s,
    )
