"""Child processes: what the serial engine gives, whatever the children do."""

import contextlib
import errno
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_workers import (
    Buggy,
    DiesAt,
    Environment,
    Flaky,
    Raises,
    SignedSquares,
    Squares,
    Undivided,
    Unstartable,
    Upper,
    Words,
)

from pipelines import engine as engine_module
from pipelines.engine import DATA_WORKER, Resources, SerialEngine, run_in_order
from pipelines.process_engine import ProcessesEngine
from schemas.errors import (
    ConfigError,
    RejectCode,
    SampleError,
    StorageUnavailableError,
    WorkerLostError,
    WorkError,
)


@pytest.fixture
def others() -> set[int]:
    """Children that are none of the engine's: an S3 server, decoders of other tests."""
    return list_children()


@pytest.fixture
def engine(others: set[int]) -> Iterator[ProcessesEngine]:
    """Two children; none is left behind."""
    with ProcessesEngine(2) as opened:
        yield opened
    assert list_children() <= others


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "FIRST_PAUSE_S", 0.01)


def list_children() -> set[int]:
    """Children of this process, from /proc."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended this moment
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def test_results_are_those_of_the_serial_engine(engine: ProcessesEngine) -> None:
    units = [random.Random(seed).randrange(100) for seed in range(60)]
    expected = run_in_order(SerialEngine(), Squares(), units, "s")
    assert run_in_order(engine, Squares(pause_s=0.005), units, "s") == expected


def test_no_units_start_no_child(engine: ProcessesEngine) -> None:
    assert list(engine.run(Unstartable(), [])) == []


def test_no_more_children_than_units_or_workers(engine: ProcessesEngine) -> None:
    assert len({pid for _, pid in engine.run(Environment(), ["pid"])}) == 1
    pids = {pid for _, pid in engine.run(Environment(), ["pid"] * 200)}
    assert len(pids) <= 2  # one may have done all before the other was ready
    assert str(os.getpid()) not in pids


def test_children_work_with_one_thread_each(engine: ProcessesEngine) -> None:
    names = ["OMP_NUM_THREADS", "POLARS_MAX_THREADS", "TOKENIZERS_PARALLELISM"]
    assert run_in_order(engine, Environment(), names, "s") == ["1", "1", "false"]


def test_killed_children_cost_repeats_only(engine: ProcessesEngine) -> None:
    """After every 15 results a child dies: another one than has just answered, if there is one at work."""
    units, results, killed = list(range(100)), dict[int, int](), list[int]()
    seen: list[int] = []
    for unit, (child, result) in engine.run(SignedSquares(pause_s=0.01), units):
        results[unit] = result
        seen.append(child)
        if len(results) % 15 == 0:
            alive = [other for other in seen if other not in killed]
            killed.append(next((other for other in reversed(alive) if other != child), alive[-1]))
            os.kill(killed[-1], signal.SIGKILL)
    assert results == {unit: unit * unit for unit in units}
    assert len(set(killed)) == len(killed) == len(units) // 15


def test_a_unit_that_kills_once_is_done_by_the_next(engine: ProcessesEngine, tmp_path: Path) -> None:
    assert run_in_order(engine, DiesAt(tmp_path, times=1), [1, 2, 3, 4, 5], "s") == [1, 2, 3, 4, 5]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("poison", ["exit", "segfault", "memory", "loop", "kill"])
def test_a_poisonous_item_is_rejected_and_nothing_else_is_lost(engine: ProcessesEngine, poison: str) -> None:
    units = [Words(("a", "b")), Words(("c", poison, "d")), Words(("e",))]
    # A limit where nothing else ends it: on a busy machine any unit may take a while.
    limits = Resources(unit_limit_s=2.0) if poison == "loop" else DATA_WORKER
    found = run_in_order(engine, Upper(), units, "s", resources=limits)
    assert found == [["A", "B"], ["C", RejectCode.WORKER_CRASH.value, "D"], ["E"]]


def test_a_poisonous_unit_that_cannot_be_divided_is_named(engine: ProcessesEngine) -> None:
    units = [Words(("a",)), Words(("segfault",))]
    with pytest.raises(
        WorkerLostError, match=r"unit 1 \(Words.*killed its worker 2 times.*SIGSEGV(.|\n)*_work"
    ):
        run_in_order(engine, Undivided(), units, "s")


def test_a_unit_that_takes_too_long_is_named(engine: ProcessesEngine) -> None:
    with pytest.raises(WorkerLostError, match=r"it took longer than 0\.5 s"):
        run_in_order(engine, Undivided(), [Words(("loop",))], "s", resources=Resources(unit_limit_s=0.5))


@pytest.mark.parametrize(
    "error", [ConfigError("a"), SampleError(RejectCode.BAD_ROLE, "b"), OSError(errno.ENOSPC, "full", "/x")]
)
def test_our_errors_come_home_as_they_are(engine: ProcessesEngine, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run_in_order(engine, Raises(error), [1], "s")
    assert str(caught.value) == str(error)


def test_other_errors_name_the_unit_and_the_place(engine: ProcessesEngine) -> None:
    with pytest.raises(
        WorkError, match=r"unit 1 \(0\) failed in a worker(.|\n)*engine_workers(.|\n)*ZeroDiv"
    ):
        run_in_order(engine, Buggy(), [1, 0], "s")


def test_what_cannot_be_sent_is_named(engine: ProcessesEngine) -> None:
    with pytest.raises(WorkError, match="the worker cannot be sent to another process"):
        run_in_order(engine, Raises(threading.Lock()), [1], "s")  # pyright: ignore[reportArgumentType]
    with pytest.raises(WorkError, match=r"a unit .*cannot be sent to another process"):
        run_in_order(engine, Squares(), [lambda: 1], "s")


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_the_outside_may_fail_three_times(engine: ProcessesEngine, tmp_path: Path, name: str) -> None:
    chosen = SerialEngine() if name == "serial" else engine
    assert run_in_order(chosen, Flaky(tmp_path, 3), [1, 2, 3], "s") == [1, 2, 3]


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_the_outside_fails_too_often(engine: ProcessesEngine, name: str) -> None:
    chosen = SerialEngine() if name == "serial" else engine
    with pytest.raises(WorkError, match=r"unit 0 \(7\) failed 4 times: nobody"):
        run_in_order(chosen, Raises(StorageUnavailableError("nobody")), [7], "s")


def test_children_that_cannot_start_say_why(engine: ProcessesEngine) -> None:
    with pytest.raises(WorkerLostError, match=r"before they started(.|\n)*exit status 3(.|\n)*libmissing"):
        run_in_order(engine, Unstartable(), [1, 2], "s")


def test_children_that_never_answer_are_given_up() -> None:
    with (
        ProcessesEngine(1, start_limit_s=0.3) as engine,
        pytest.raises(WorkerLostError, match=r"not ready within 0\.3 s"),
    ):
        run_in_order(engine, Unstartable(waits=True), [1], "s")


def test_a_run_left_in_the_middle_leaves_no_child(others: set[int]) -> None:
    with ProcessesEngine(2) as engine:
        results = engine.run(Squares(pause_s=0.01), range(1000))
        next(results)
        assert list_children() - others
        engine.close()
        assert list_children() <= others


def test_units_may_be_computed_and_many(engine: ProcessesEngine) -> None:
    total = sum(result for _, result in engine.run(Squares(), range(3000)))
    assert total == sum(unit * unit for unit in range(3000))


def test_a_worker_that_needs_more_than_there_is_is_refused(engine: ProcessesEngine) -> None:
    with pytest.raises(WorkError, match="more than this machine"):
        run_in_order(engine, Squares(), [1], "s", resources=Resources(memory_bytes=1 << 60))


def test_each_child_sees_its_share_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    seen = {"CUDA_VISIBLE_DEVICES"}
    with ProcessesEngine(4) as engine:
        assert engine.has_gpu
        for num_gpus, shares in ((0.0, {""}), (1.0, {"3", "5", "7"}), (2.0, {"3,5"}), (0.5, {"3", "5", "7"})):
            found = engine.run(Environment(), [*seen] * 300, Resources(num_gpus=num_gpus))
            assert {share for _, share in found} <= shares
        with pytest.raises(WorkError, match="a worker needs 4 GPUs"):
            next(engine.run(Environment(), ["x"], Resources(num_gpus=4.0)))


def test_the_end_of_a_run_does_not_wait_for_slow_units(engine: ProcessesEngine) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError):
        run_in_order(engine, Squares(pause_s=30.0), [-1, 5], "s")
    assert time.monotonic() - started < 20
