"""The only module that hands work to Ray: a crew of actors for the dispatcher.

Ray promises at-least-once and an actor that is lost may never be placed again, so actors are disposable (no
restarts, no retries by Ray) and `pipelines.dispatch` replaces them. An actor whose machine cannot be
reached is killed as far as Ray can, its unit goes to another one, and commits make it harmless if the first
one goes on. What this gives up, against Ray Data: blocks in the object store and automatic balancing. What
it leaves out: machines that join while a stage runs get work from the next stage on.
"""

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.ray_cluster import check_source, source_digest
from pipelines.dispatch import START_LIMIT_S, Dispatch
from pipelines.engine import DATA_WORKER, Observer, Resources, Result, Unit, Worker, observe_nothing
from pipelines.host import Broken, Failed, Host, Lost, Report, keep_memory, process_settings
from schemas.errors import PipelineError, WorkError


class _Host:
    """Lives in a Ray actor. The worker comes pickled, so that what it imports finds the environment set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        keep_memory()
        self._host: Host | None = None

    def build(self, spec: bytes, expected_source: str) -> Report:
        """Prepare to work; whoever answers is alive."""
        ray: Any = importlib.import_module("ray")
        try:
            check_source(expected_source)
        except PipelineError as error:
            return Failed(error)
        self._host = Host(ray.cloudpickle.loads(spec))
        return self._host.build()

    def run(self, unit: Any) -> Report:  # noqa: ANN401 - any unit
        """Do one unit."""
        return self._host.run(unit) if self._host else Lost("it was given work before it was built")


class RayEngine:
    """Runs units on actors of the cluster that this process is connected to (`infra.ray_cluster`)."""

    name = "ray"

    def __init__(
        self,
        num_workers: int | None = None,
        start_limit_s: float = START_LIMIT_S,
        observer: Observer = observe_nothing,
    ) -> None:
        self.observer = observer
        self._num_workers = num_workers
        self._start_limit_s = start_limit_s

    @property
    def has_gpu(self) -> bool:
        """See `Engine.has_gpu`."""
        ray: Any = importlib.import_module("ray")
        return ray.cluster_resources().get("GPU", 0) >= 1

    def run(
        self,
        spec: Worker[Unit, Result],
        units: Sequence[Unit],
        resources: Resources = DATA_WORKER,
        stage: str = "",
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.run`.

        Raises:
            WorkError: when the cluster has no room for one worker.
        """
        if not units:
            return
        crew = _Actors(spec, resources, self._num_workers or len(units))
        dispatch = Dispatch(
            crew,
            spec,
            units,
            unit_limit_s=resources.unit_limit_s,
            start_limit_s=self._start_limit_s,
            observer=self.observer,
            stage=stage,
        )
        yield from dispatch.results()


class _Actors:
    """A `Crew` of actors; a reference to what each is doing leads back to it."""

    def __init__(self, spec: Worker[Any, Any], resources: Resources, num_workers: int) -> None:
        import ray

        self._ray: Any = ray
        self.num_slots = min(num_workers, _count_slots(self._ray.cluster_resources(), resources))
        self._spec = self._ray.put(self._ray.cloudpickle.dumps(spec))
        self._source = source_digest()
        self._environment = process_settings(resources.num_cpus)
        self._actor_class: Any = self._ray.remote(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            memory=resources.memory_bytes or None,
            max_restarts=0,
            max_task_retries=0,
        )(_Host)
        self._actors: dict[int, Any] = {}
        self._references: dict[Any, int] = {}
        self._num_hired = 0

    def hire(self) -> int:
        """See `Crew.hire`."""
        actor = self._actor_class.remote(self._environment)
        self._num_hired += 1
        self._actors[self._num_hired] = actor
        self._references[actor.build.remote(self._spec, self._source)] = self._num_hired
        return self._num_hired

    def give(self, worker: int, unit: Any) -> None:  # noqa: ANN401 - any unit
        """See `Crew.give`."""
        self._references[self._actors[worker].run.remote(unit)] = worker

    def wait(self, limit_s: float) -> Sequence[tuple[int, Report]]:
        """See `Crew.wait`."""
        ready, _ = self._ray.wait(list(self._references), num_returns=1, timeout=limit_s)
        return [self._receive(reference) for reference in ready]

    def dismiss(self, worker: int) -> None:
        """See `Crew.dismiss`."""
        actor = self._actors.pop(worker, None)
        self._references = {ref: owner for ref, owner in self._references.items() if owner != worker}
        if actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)

    def close(self) -> None:
        """See `Crew.close`."""
        for worker in list(self._actors):
            self.dismiss(worker)

    def _receive(self, reference: Any) -> tuple[int, Report]:  # noqa: ANN401 - a Ray object reference
        worker = self._references.pop(reference)
        try:
            return worker, self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return worker, Broken(str(error))
        except self._ray.exceptions.RayError as error:  # the actor died, its machine did, or memory ran out
            self.dismiss(worker)
            return worker, Lost(str(error))


def _count_slots(cluster: Mapping[str, float], resources: Resources) -> int:
    """How many workers fit into a cluster.

    Raises:
        WorkError: when none does.
    """
    needed = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": float(resources.memory_bytes)}
    slots = [math.floor(cluster.get(name, 0) / number) for name, number in needed.items() if number]
    if slots and min(slots) < 1:
        found = ", ".join(f"{cluster.get(name, 0):g} of {name}" for name in needed)
        raise WorkError(
            f"the cluster has {found}; a worker needs {resources.num_cpus:g}, {resources.num_gpus:g} and "
            f"{resources.memory_bytes}"
        )
    return min(slots, default=sys.maxsize)
