"""The only module that hands work to Ray: disposable actors that pull units.

Ray promises at-least-once and an actor that is lost may never be placed again, so an actor holds no work but
the unit that it runs: when it dies, the unit returns to the queue and another actor is hired, which gets work
once it answered a ping. A unit whose worker died twice ends the run and is named. Commits make repeats
harmless. What this gives up, against Ray Data: blocks in the object store and automatic balancing.
"""

import importlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra.ray_cluster import check_source, source_digest
from pipelines.engine import ONE_CPU, Resources, Result, Unit, Worker
from schemas.errors import PipelineError, WorkerLostError, WorkError

MAX_DEATHS: Final = 2


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error that a unit let through, carried home as a value."""

    error: PipelineError


class _Host:
    """Lives in a Ray actor: builds the work once, then does units."""

    def __init__(self, spec: Worker[Any, Any], expected_source: str) -> None:
        self._spec = spec
        self._expected_source = expected_source
        self._work: Callable[[Any], Any] | None = None

    def ping(self) -> _Failure | None:
        """Prepare to work; whoever answers is alive."""
        try:
            check_source(self._expected_source)
            self._work = self._spec.build()
        except PipelineError as error:
            return _Failure(error)
        return None

    def run(self, unit: Any) -> Any:  # noqa: ANN401 - any unit, any result
        """Do one unit."""
        if self._work is None:
            return _Failure(WorkError("a worker was given work before it was built"))
        try:
            return self._work(unit)
        except PipelineError as error:
            return _Failure(error)


class RayEngine:
    """Runs units on actors of the cluster that this process is connected to (`infra.ray_cluster`)."""

    name = "ray"

    @property
    def has_gpu(self) -> bool:
        """See `Engine.has_gpu`."""
        ray: Any = importlib.import_module("ray")
        return ray.cluster_resources().get("GPU", 0) >= 1

    def run(
        self, spec: Worker[Unit, Result], units: Sequence[Unit], resources: Resources = ONE_CPU
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.run`.

        Raises:
            WorkerLostError: when the workers of one unit died `MAX_DEATHS` times.
        """
        if units:
            yield from _Dispatch(spec, units, resources).results()


class _Dispatch:
    """The state of one run: who is being hired, who is busy with what, what waits."""

    def __init__(self, spec: Worker[Any, Any], units: Sequence[Any], resources: Resources) -> None:
        import ray

        self._ray: Any = ray
        self._spec = spec
        self._units = units
        self._waiting = deque(range(len(units)))
        self._deaths: dict[int, int] = {}
        self._hired_in_vain = 0
        self._young: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._source = source_digest()
        self._actor_class: Any = ray.remote(
            num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_restarts=0, max_task_retries=0
        )(_Host)
        self._num_slots = self._count_slots(resources)

    def _count_slots(self, resources: Resources) -> int:
        cluster = self._ray.cluster_resources()
        slots = (
            math.floor(cluster.get("CPU", 0) / resources.num_cpus) if resources.num_cpus else len(self._units)
        )
        if resources.num_gpus:
            slots = min(slots, math.floor(cluster.get("GPU", 0) / resources.num_gpus))
        if slots < 1:
            raise WorkError(
                f"the cluster has {cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs; "
                f"a worker needs {resources.num_cpus:g} and {resources.num_gpus:g}"
            )
        return min(slots, len(self._units))

    def results(self) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) until no unit is left."""
        try:
            for _ in range(self._num_slots):
                self._hire()
            while self._waiting or self._busy:
                ready, _ = self._ray.wait([*self._young, *self._busy], num_returns=1)
                yield from self._receive(ready[0])
        finally:
            for actor in [*self._young.values(), *(actor for actor, _ in self._busy.values())]:
                self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._actor_class.remote(self._spec, self._source)
        self._young[actor.ping.remote()] = actor

    def _give_work(self, actor: Any) -> None:  # noqa: ANN401 - a Ray actor handle
        if self._waiting:
            index = self._waiting.popleft()
            self._busy[actor.run.remote(self._units[index])] = (actor, index)
        else:
            self._ray.kill(actor)

    def _receive(self, reference: Any) -> Iterator[tuple[int, Any]]:  # noqa: ANN401 - a Ray object reference
        if reference in self._young:
            actor, index = self._young.pop(reference), None
        else:
            actor, index = self._busy.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise WorkError(f"{self._describe(index)} failed in a worker: {error}") from error
        except self._ray.exceptions.RayError as error:  # the actor died, its machine did, or memory ran out
            self._bury(index, error)
            self._hire()
            return
        if isinstance(answer, _Failure):
            raise answer.error
        self._give_work(actor)
        if index is not None:
            yield index, answer

    def _bury(self, index: int | None, error: Exception) -> None:
        if index is None:
            self._hired_in_vain += 1
            if self._hired_in_vain > MAX_DEATHS * self._num_slots:
                raise WorkerLostError(f"workers die before they start: {error}") from error
            return
        self._deaths[index] = self._deaths.get(index, 0) + 1
        if self._deaths[index] >= MAX_DEATHS:
            raise WorkerLostError(
                f"{self._describe(index)} killed its worker {MAX_DEATHS} times: {error}"
            ) from error
        self._waiting.appendleft(index)

    def _describe(self, index: int | None) -> str:
        return "the start" if index is None else f"unit {index} ({self._units[index]!r:.200})"
