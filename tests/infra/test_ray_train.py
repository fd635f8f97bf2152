"""Workers of Ray Train are started again when they were lost, and not when they said what is wrong.

A cluster and Ray itself are pretended: it reads its settings once a process, and here they are of no cluster.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from infra import ray_train
from infra.ray_train import WorkerPlan, find_reason, run_on_workers
from schemas.errors import (
    MismatchError,
    NotFoundError,
    PipelineError,
    RejectCode,
    SampleError,
    StorageUnavailableError,
    TransientError,
    WorkError,
)

REASONS = [NotFoundError("no corpus"), SampleError(RejectCode.NOT_FINITE, "a number that is none")]
LOST = [RuntimeError("the actor died"), StorageUnavailableError("no answer"), OSError("at last")]


class WorkerGroupError(Exception):
    """What `fit` raises when workers did."""

    def __init__(self, *raised: Exception) -> None:
        super().__init__("Training failed due to worker errors:\nrank 0: ...")
        self.worker_failures = dict(enumerate(raised))


class FakeCluster:
    """How one start after the other ends, and for how many workers there was room; without Ray."""

    def __init__(self) -> None:
        self.ends: list[Exception | None] = []
        self.rooms: list[int] = []
        self.sizes: list[int] = []
        self.said: list[str] = []

    def fit(self) -> None:
        end = self.ends.pop(0)
        if end is not None:
            raise end

    def count_room(self, plan: WorkerPlan) -> int:
        return self.rooms.pop(0) if self.rooms else plan.num_workers


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    cluster = FakeCluster()

    class Trainer:
        def __init__(self, work: object, **settings: Any) -> None:
            failures, scaling = settings["run_config"].failure_config, settings["scaling_config"]
            assert (failures.max_failures, failures.controller_failure_limit) == (0, 0)
            assert scaling.resources_per_worker == {"CPU": 1.0}
            cluster.sizes.append(scaling.num_workers)

        def fit(self) -> None:
            cluster.fit()

    train, torch = ModuleType("ray.train"), ModuleType("ray.train.torch")
    train.__dict__.update(dict.fromkeys(("FailureConfig", "RunConfig", "ScalingConfig"), SimpleNamespace))
    torch.__dict__.update(TorchConfig=SimpleNamespace, TorchTrainer=Trainer)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.train", train)
    monkeypatch.setitem(sys.modules, "ray.train.torch", torch)
    monkeypatch.setattr(ray_train, "count_room", cluster.count_room)
    return cluster


def run(cluster: FakeCluster, folder: Path, progress: Any = bool) -> None:
    plan = WorkerPlan(num_workers=2, use_gpu=False, folder=folder, max_failures=2)
    run_on_workers(print, {}, plan, progress=progress, say=cluster.said.append)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: type(reason).__name__)
def test_what_would_be_raised_again_ends_the_run(
    cluster: FakeCluster, tmp_path: Path, reason: PipelineError
) -> None:
    cluster.ends = [WorkerGroupError(RuntimeError("connection reset by the other one"), reason), None]
    with pytest.raises(type(reason)) as caught:
        run(cluster, tmp_path)
    assert caught.value is reason
    assert cluster.ends == [None]


def test_lost_workers_are_started_again_so_often(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.ends = [*(WorkerGroupError(error) for error in LOST[:2]), None]
    run(cluster, tmp_path)
    assert cluster.ends == []
    assert cluster.said == [
        "workers failed and are started again: worker 0: the actor died",
        "workers failed and are started again: worker 0: no answer",
    ]
    cluster.ends = [*(WorkerGroupError(error) for error in LOST), None]
    with pytest.raises(WorkError, match="on 2 workers failed: Training failed due to worker errors"):
        run(cluster, tmp_path)
    assert cluster.ends == [None]


def test_losses_with_progress_in_between_are_not_counted(cluster: FakeCluster, tmp_path: Path) -> None:
    """Five in one run, with a new checkpoint after every other one; more than two in a row are too many."""
    checkpoints = iter([None, "step-1", "step-1", "step-2", "step-2", "step-3"])
    cluster.ends = [*[WorkerGroupError(LOST[0])] * 5, None]
    run(cluster, tmp_path, lambda: next(checkpoints))
    assert cluster.ends == []


def test_fewer_go_on_where_there_is_no_room_for_all(cluster: FakeCluster, tmp_path: Path) -> None:
    """A start that finds no room at all is a failed one."""
    cluster.ends = [WorkerGroupError(LOST[0]), None]
    cluster.rooms = [2, 0, 1]
    run(cluster, tmp_path)
    assert cluster.sizes == [2, 1]
    assert [line for line in cluster.said if "has room" in line] == [
        "the cluster has room for 0 of 2 workers",
        "workers failed and are started again: the cluster has room for no worker",
        "the cluster has room for 1 of 2 workers",
    ]


def test_what_is_wrong_here_is_no_loss() -> None:
    """A driver that finds other sources need not start; without room, it may do better."""
    other = MismatchError("another package of that name is installed")
    assert find_reason(other) is other
    assert find_reason(TransientError("no room")) is None
    assert find_reason(RuntimeError("the trainer is gone")) is None
