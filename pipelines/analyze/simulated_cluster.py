"""Machines that exist as arithmetic: a `Crew` for the product's dispatcher, in a time of its own.

Workers start, take units, finish them and commit, and die with their machines, as events on a clock that
jumps from one to the next. A machine fails at random; it comes back after a while. Some failures only cut it
off: then its workers finish what they hold, and commit it, while the dispatcher has given it to others.
Reports of ten seconds are told together, as they are where thousands of workers report to one process.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from pipelines.host import Done, Lost, Ready, Report

QUANTUM_S: Final = 10.0
TICK_S: Final = 1e-3
"""A wait in vain ends a moment after its limit, as real ones do: what was due at the limit is overdue."""

Work = Callable[[Any], Any]
"""What a worker does with a unit: commits it, and tells of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterModel:
    """What machines are like."""

    nodes: int = 1000
    slots: int = 8
    """Workers of a node."""
    mean_time_to_failure_s: float = 100 * 3600.0
    """Of one node."""
    repair_s: float = 900.0
    start_s: float = 20.0
    """For a worker to import and to build."""
    detect_s: float = 15.0
    """Until a lost node is missed."""
    cut_share: float = 0.2
    """Of failures that only cut a node off."""
    speed_spread: float = 0.1
    """Log-normal, of nodes."""
    unit_spread: float = 0.2
    """Log-normal, of units of one size."""
    seed: int = 0


@dataclass(slots=True)
class _Node:
    speed: float
    is_alive: bool = True
    is_cut: bool = False
    workers: set[int] = field(default_factory=set[int])


@dataclass(slots=True)
class ClusterTotals:
    """What happened."""

    failures: int = 0
    cut: int = 0
    lost_s: float = 0.0
    """Of work that died with its machine."""
    repeated_s: float = 0.0
    """Of work whose unit somebody else had committed."""
    done_s: float = 0.0
    """Of work that counts."""


class SimulatedCrew:
    """Workers on simulated machines."""

    def __init__(self, model: ClusterModel, work: Work, cost_s: Callable[[Any], float]) -> None:
        """Machines that are all well.

        Args:
            model: what they are like.
            work: done when a unit is finished; returns its result, and whether it is the first of it.
            cost_s: seconds of a unit on a machine of mean speed.
        """
        self.num_slots = model.nodes * model.slots
        self.now_s = 0.0
        self.totals = ClusterTotals()
        self._model, self._work, self._cost_s = model, work, cost_s
        self._random = np.random.default_rng(model.seed)
        speeds = np.exp(self._random.normal(0, model.speed_spread, model.nodes))
        self._nodes = [_Node(float(speed)) for speed in speeds]
        self._free = deque(node for _ in range(model.slots) for node in range(model.nodes))
        self._waiting: deque[int] = deque()
        self._hired: set[int] = set()
        self._places: dict[int, int] = {}
        self._held: dict[int, tuple[Any, float]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._reports: list[tuple[int, Report]] = []
        for node in range(model.nodes):
            self._after(self._draw_failure_s(), self._make_failure(node))

    def clock(self) -> float:
        """The simulated time."""
        return self.now_s

    def hire(self) -> int:
        """See `Crew.hire`."""
        worker = next(self._numbers)
        self._hired.add(worker)
        self._waiting.append(worker)
        self._place_waiting()
        return worker

    def give(self, worker: int, unit: Any) -> None:  # noqa: ANN401 - any unit
        """See `Crew.give`."""
        node = self._places.get(worker)
        if node is None:
            return  # its machine is gone; that will be told
        spread = float(self._random.lognormal(0, self._model.unit_spread))
        seconds = self._cost_s(unit) * spread / self._nodes[node].speed
        self._held[worker] = (unit, self.now_s)
        self._after(seconds, lambda: self._finish(worker, node, unit, seconds))

    def wait(self, limit_s: float) -> Sequence[tuple[int, Report]]:
        """See `Crew.wait`; the clock goes on to the next reports, or to the limit."""
        end_s = self.now_s + limit_s
        while self._events and self._events[0][0] <= end_s:
            self.now_s = max(self.now_s, self._events[0][0])
            if self._reports and self.now_s > end_s:
                break
            heapq.heappop(self._events)[2]()
            if self._reports:
                end_s = min(end_s, self.now_s + QUANTUM_S)
        if not self._reports and end_s < float("inf"):
            self.now_s = end_s + TICK_S
        reports, self._reports = self._reports, []
        return [(worker, report) for worker, report in reports if self._is_told(worker, report)]

    def dismiss(self, worker: int) -> None:
        """See `Crew.dismiss`."""
        self._hired.discard(worker)
        self._held.pop(worker, None)
        node = self._places.pop(worker, None)
        if node is None:
            if worker in self._waiting:
                self._waiting.remove(worker)
            return
        self._nodes[node].workers.discard(worker)
        if self._nodes[node].is_alive:
            self._free.append(node)
            self._place_waiting()

    def close(self) -> None:
        """See `Crew.close`; nothing is left anyway."""

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._numbers), action))

    def _place_waiting(self) -> None:
        while self._waiting and self._free:
            node = self._free.popleft()
            if not self._nodes[node].is_alive:
                continue
            worker = self._waiting.popleft()
            self._places[worker] = node
            self._nodes[node].workers.add(worker)
            self._after(self._model.start_s, self._make_report(worker, Ready()))

    def _make_report(self, worker: int, report: Report) -> Callable[[], None]:
        def tell() -> None:
            self._reports.append((worker, report))

        return tell

    def _is_told(self, worker: int, report: Report) -> bool:
        """A lost worker is told of once, a dismissed one never."""
        if worker not in self._hired:
            return False
        if isinstance(report, Lost):
            self._hired.discard(worker)
            return True
        return worker in self._places

    def _finish(self, worker: int, node: int, unit: Any, seconds: float) -> None:  # noqa: ANN401
        held = self._held.get(worker)
        is_here = held is not None and held[0] is unit and worker in self._nodes[node].workers
        if not is_here and not (self._nodes[node].is_cut and held is None):
            return
        result, is_first = self._work(unit)
        if is_first:
            self.totals.done_s += seconds
        else:
            self.totals.repeated_s += seconds
        if is_here:
            del self._held[worker]
            self._reports.append((worker, Done(result)))

    def _make_failure(self, node: int) -> Callable[[], None]:
        return lambda: self._fail(node)

    def _fail(self, number: int) -> None:
        node = self._nodes[number]
        node.is_alive = False
        node.is_cut = bool(self._random.random() < self._model.cut_share)
        self.totals.failures += 1
        self.totals.cut += node.is_cut
        for worker in sorted(node.workers):
            held = self._held.pop(worker, None)
            if held is not None and not node.is_cut:
                self.totals.lost_s += self.now_s - held[1]
            self._places.pop(worker)
            self._after(self._model.detect_s, self._make_report(worker, Lost("its machine is gone")))
        node.workers.clear()
        self._after(self._model.repair_s, lambda: self._repair(number))

    def _repair(self, number: int) -> None:
        node = self._nodes[number]
        node.is_alive, node.is_cut = True, False
        self._free = deque(place for place in self._free if place != number)
        self._free.extend([number] * self._model.slots)
        self._after(self._draw_failure_s(), self._make_failure(number))
        self._place_waiting()

    def _draw_failure_s(self) -> float:
        return float(self._random.exponential(self._model.mean_time_to_failure_s))
