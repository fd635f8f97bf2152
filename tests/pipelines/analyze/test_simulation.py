"""Simulated builds: everything is done once and listed, whatever fails; and small ones, by hand."""

import pytest

from pipelines.analyze.memory_storage import MemoryStorage
from pipelines.analyze.simulated_cluster import QUANTUM_S, ClusterModel, ClusterTotals, SimulatedCrew
from pipelines.analyze.simulation import SimulatedJob, _summarize, make_work, plan_keys, simulate
from pipelines.commit import load_manifest
from pipelines.dispatch import Dispatch
from pipelines.host import Done, Lost, Ready
from schemas.errors import ConflictError, NotFoundError
from schemas.recipe import ShardLimits

STEADY = {"mean_time_to_failure_s": 1e12, "speed_spread": 0.0, "unit_spread": 0.0}
LIMITS = ShardLimits(max_bytes=2**30, max_views=200)


class Spec:
    def build(self):
        raise NotImplementedError

    def divide(self, unit: float) -> list[float]:
        return [0.4 * unit, 0.6 * unit]

    def exclude(self, unit: float, killers: list[float]) -> float:
        return unit


def run_units(model: ClusterModel, units: list[float]) -> tuple[SimulatedCrew, list[int]]:
    """Units that cost what they are; a unit's second finish is no first."""
    seen: set[float] = set()

    def work(unit: float) -> tuple[float, bool]:
        is_first = unit not in seen
        seen.add(unit)
        return unit, is_first

    crew = SimulatedCrew(model, work, lambda unit: unit)
    dispatch = Dispatch(crew, Spec(), units, unit_limit_s=1e6, clock=crew.clock)
    return crew, [index for index, _ in dispatch.results()]


def test_time_is_worked_out_by_hand() -> None:
    """Two workers start in 20 s; 30 and 10, then 25 on the one that is free first: 20 + 10 + 25."""
    crew, order = run_units(ClusterModel(nodes=2, slots=1, **STEADY), [30.0, 10.0, 25.0])
    assert order == [1, 0, 2]
    assert 55 <= crew.now_s <= 55 + 3 * QUANTUM_S
    assert crew.totals.done_s == 65
    assert (crew.totals.lost_s, crew.totals.failures) == (0, 0)


def test_every_unit_comes_home_once_though_machines_fail() -> None:
    model = ClusterModel(nodes=6, slots=2, mean_time_to_failure_s=300.0, repair_s=60.0, cut_share=0.5)
    units = [50.0 + index / 1000 for index in range(300)]
    crew, order = run_units(model, units)
    assert sorted(order) == list(range(300))
    assert crew.totals.failures > 10
    assert 0 < crew.totals.cut < crew.totals.failures
    assert crew.totals.lost_s > 0
    assert crew.totals.repeated_s > 0


def test_a_lost_machine_is_told_once_and_its_unit_goes_to_another() -> None:
    model = ClusterModel(nodes=1, slots=2, mean_time_to_failure_s=1e12, cut_share=0.0)
    crew = SimulatedCrew(model, lambda unit: (unit, True), lambda unit: unit)
    first, second = crew.hire(), crew.hire()
    assert [report for _, report in crew.wait(100.0)] == [Ready(), Ready()]
    crew.give(first, 1000.0)
    crew._fail(0)
    crew.give(second, 1.0)
    told = crew.wait(100.0)
    assert [worker for worker, _ in told] == [first, second]
    assert all(isinstance(report, Lost) for _, report in told)
    third = crew.hire()
    reports = [pair for _ in range(3) for pair in crew.wait(1000.0)]
    assert reports == [(third, Ready())]
    crew.give(third, 5.0)
    assert crew.wait(100.0)[0][0] == third


def test_a_worker_that_finds_no_place_in_time_is_hired_anew() -> None:
    """The one machine is away for longer than a worker may take to start: the run goes on when it is back."""
    model = ClusterModel(nodes=1, slots=1, mean_time_to_failure_s=1e12, repair_s=2000.0, cut_share=0.0)
    crew = SimulatedCrew(model, lambda unit: (unit, True), lambda unit: unit)
    crew._after(100.0, crew._make_failure(0))
    dispatch = Dispatch(crew, Spec(), [50.0, 50.0], unit_limit_s=1e6, start_limit_s=600.0, clock=crew.clock)
    assert [index for index, _ in dispatch.results()] == [0, 1]
    assert crew.now_s > 2100


def test_dismissed_workers_say_nothing() -> None:
    crew = SimulatedCrew(
        ClusterModel(nodes=1, slots=1, **STEADY), lambda unit: (unit, True), lambda unit: unit
    )
    worker = crew.hire()
    waiting = crew.hire()
    crew.wait(100.0)
    crew.give(worker, 10.0)
    crew.dismiss(worker)
    assert [told for _ in range(3) for told in crew.wait(30.0)] == [(waiting, Ready())]
    crew.give(waiting, 1.0)
    assert crew.wait(30.0) == [(waiting, Done(1.0))]


def test_a_simulated_build_is_published_whole() -> None:
    model = ClusterModel(nodes=20, slots=2, mean_time_to_failure_s=2000.0, repair_s=50.0, cut_share=0.5)
    job = SimulatedJob(items=40_000, view_s=0.3, limits=LIMITS, cluster=model)
    plan = plan_keys(job)
    assert sum(leaf.num_items for leaf in plan) == 40_000
    assert all(leaf.num_views <= 200 for leaf in plan)
    run = simulate(job)
    assert run.shards == len(plan)
    assert run.build_s > run.ideal_s > 0
    assert run.failures > 0
    assert run.lost_share > 0
    assert 0 < run.commits_per_s <= run.most_commits_per_s
    assert run.peak_bytes > 10**7
    assert simulate(job).build_s == run.build_s, "the same seed gives the same build"


def test_the_best_minute_may_begin_anywhere() -> None:
    """Nine commits from 30 s on and nine before 90 s are one minute's, whatever the clock says."""
    ends = [1.0, *[55.0] * 9, *[65.0] * 9, 600.0]
    told = _summarize(ClusterTotals(done_s=1.0), 1, ends)
    assert told["most_commits_per_s"] == pytest.approx(18 / 60)
    short = _summarize(ClusterTotals(done_s=1.0), 1, [2.0, 4.0])
    assert short["most_commits_per_s"] == short["commits_per_s"] == pytest.approx(0.5)


def test_the_manifest_names_every_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[MemoryStorage] = []

    class Kept(MemoryStorage):
        def __init__(self) -> None:
            super().__init__()
            kept.append(self)

    monkeypatch.setattr("pipelines.analyze.simulation.MemoryStorage", Kept)
    job = SimulatedJob(items=3000, limits=LIMITS, cluster=ClusterModel(nodes=3, **STEADY))
    run = simulate(job)
    manifest = load_manifest(kept[0])
    assert [shard.name for shard in manifest.shards] == [leaf.name for leaf in plan_keys(job)]
    assert run.lost_share == run.repeated_share == 0
    assert len(kept[0].list("commits")) == run.shards


def test_keys_may_stand_for_several_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.analyze.simulation.MAX_KEYS", 1000)
    coarse = plan_keys(SimulatedJob(items=4000, limits=LIMITS))
    assert sum(leaf.num_items for leaf in coarse) == 1000
    assert sum(leaf.num_views for leaf in coarse) == 4000 * 5


def test_committing_twice_agrees_or_fails() -> None:
    storage = MemoryStorage()
    work = make_work(storage)
    leaf = plan_keys(SimulatedJob(items=10, limits=LIMITS))[0]
    first, again = work(leaf), work(leaf)
    assert (first[1], again[1]) == (True, False)
    assert first[0].record == again[0].record
    with pytest.raises(ConflictError):
        work(leaf.model_copy(update={"num_media_bytes": 1}))


def test_memory_storage_keeps_its_promises() -> None:
    storage = MemoryStorage()
    assert storage.create("a/b", b"12")
    assert not storage.create("a/b", b"3")
    assert storage.read_range("a/b", 1, 1) == b"2"
    room = bytearray(2)
    storage.read_into("a/b", 0, memoryview(room))
    assert room == b"12"
    with pytest.raises(NotFoundError, match="ends before"):
        storage.read_into("a/b", 1, memoryview(room))
    storage.replace("p", b"x", None)
    with pytest.raises(ConflictError):
        storage.replace("p", b"y", b"z")
    storage.write_scratch("a/c", [b"1", memoryview(b"2")])
    assert storage.list("a") == ["a/b", "a/c"]
    assert [one.num_bytes for one in storage.list_objects("a")] == [2, 2]
    storage.remove("a/b")
    with pytest.raises(NotFoundError):
        storage.read_bytes("a/b")
    assert storage.sweep_unfinished(0.0) == []
