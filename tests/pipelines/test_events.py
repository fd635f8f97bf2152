"""What engines and flows tell of a run; the log of it, in which no secret stands."""

import json
import re

import pytest
from encodable_inputs import make_recipe, write_inputs
from engine_workers import DiesAt, Flaky, Squares, Upper, Words

from infra.event_log import event_log, name_event, read_events
from infra.storage import LocalStorage
from pipelines import engine as engine_module
from pipelines.commit import publish_manifest
from pipelines.engine import SerialEngine, observe_all, run_in_order
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.process_engine import ProcessesEngine
from pipelines.shard.flow import shard
from schemas.errors import ConfigError, StorageUnavailableError
from schemas.events import (
    Counted,
    StageEnded,
    StageStarted,
    UnitDivided,
    UnitDone,
    UnitRetried,
    WorkerLost,
)

KEY = "AKIA-SECRET-KEY"
STAGES = ("shard", "featurize")


def of_kind(told, kind):
    return [event for event in told if isinstance(event, kind)]


@pytest.fixture
def told():
    """What an observer is told."""
    return []


def test_a_stage_is_told_from_start_to_end(told):
    run_in_order(SerialEngine(told.append), Squares(), [3, 1, 2], "squares")
    first, *units, last = told
    assert first == StageStarted(stage="squares", num_units=3)
    assert [(unit.stage, unit.unit) for unit in units] == [("squares", index) for index in range(3)]
    assert (last.num_done, last.is_complete) == (3, True)
    assert last.seconds >= sum(unit.seconds for unit in units) >= 0


def test_a_stage_that_fails_is_told_as_not_complete(told):
    with pytest.raises(ConfigError):
        run_in_order(SerialEngine(told.append), Squares(), [3, -1, 2], "squares")
    assert [(end.num_done, end.is_complete) for end in of_kind(told, StageEnded)] == [(1, False)]


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_tries_that_the_outside_failed_are_told(told, tmp_path, monkeypatch, name):
    monkeypatch.setattr(engine_module, "FIRST_PAUSE_S", 0.01)
    engine = SerialEngine(told.append) if name == "serial" else ProcessesEngine(2, observer=told.append)
    run_in_order(engine, Flaky(tmp_path, 2), [1, 2], "flaky")
    tries = [(event.unit, event.error) for event in of_kind(told, UnitRetried)]
    assert sorted(tries) == [(unit, StorageUnavailableError.__name__) for unit in (0, 0, 1, 1)]
    assert sorted(event.unit for event in of_kind(told, UnitDone)) == [0, 1]


def test_lost_workers_and_divided_units_are_told(told, tmp_path):
    with ProcessesEngine(2, observer=told.append) as engine:
        assert run_in_order(engine, DiesAt(tmp_path, times=1), [1, 2, 3, 4], "dies") == [1, 2, 3, 4]
        (lost,) = of_kind(told, WorkerLost)
        assert (lost.stage, lost.unit) == ("dies", 2)
        assert re.fullmatch(r"process \d+ ended with SIGKILL", lost.reason)
        assert len(of_kind(told, UnitDone)) == 4

        told.clear()
        run_in_order(engine, Upper(), [Words(("a", "kill", "b")), Words(("c",))], "upper")
    assert [(event.unit, event.num_parts) for event in of_kind(told, UnitDivided)] == [(0, 3)]
    assert [event.unit for event in of_kind(told, WorkerLost)] == [0] * 4
    assert sorted(event.unit for event in of_kind(told, UnitDone)) == [0, 1]


def test_what_a_dying_process_said_is_not_told(told):
    """Only its end is: libraries may print anything."""
    with ProcessesEngine(1, observer=told.append) as engine:
        run_in_order(engine, Upper(), [Words(("segfault",))], "upper")
    reasons = [event.reason for event in of_kind(told, WorkerLost)]
    assert reasons
    assert all(re.fullmatch(r"process \d+ ended with SIG[A-Z]+(; it said:)?", reason) for reason in reasons)


def test_a_build_is_logged_line_by_line(told, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    write_inputs(tmp_path / "inputs")
    recipe, storage = make_recipe(tmp_path / "inputs"), LocalStorage(tmp_path / "corpus")
    with event_log(tmp_path / "events.jsonl") as log:
        engine = SerialEngine(observe_all(told.append, log))
        ingest(recipe, storage, engine)
        shard(recipe, storage, engine)
        digest, manifest = featurize(recipe, storage, engine)
    counted = {stage: [one for one in of_kind(told, Counted) if one.stage == stage] for stage in STAGES}
    features = manifest.features[digest]
    assert sum(one.num_items for one in counted["shard"]) == sum(leaf.num_items for leaf in manifest.plan)
    assert sum(one.num_views for one in counted["featurize"]) == features.num_views > 40
    for stage, shards in (("shard", manifest.shards), ("featurize", features.shards)):
        listed = sum(entry.num_bytes for both in shards for entry in (both.tar, both.index))
        assert sum(one.num_bytes for one in counted[stage]) == listed > 0
        assert sum(one.num_found for one in counted[stage]) == 0

    text = (tmp_path / "events.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == [name_event(type(event)) for event in told]
    assert [line["stage"] for line in lines] == [event.stage for event in told]
    assert [*read_events(tmp_path / "events.jsonl")] == told
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert {"stage_started", "unit_done", "counted", "stage_ended"} <= {line["event"] for line in lines}
    for hidden in (KEY, str(tmp_path), "zebra"):
        assert hidden not in text


def test_what_an_earlier_run_committed_is_told_as_found(told, tmp_path):
    write_inputs(tmp_path / "inputs")
    recipe, storage = make_recipe(tmp_path / "inputs"), LocalStorage(tmp_path / "corpus")
    ingest(recipe, storage, SerialEngine())
    sharded = shard(recipe, storage, SerialEngine())
    publish_manifest(storage, sharded.model_copy(update={"shards": []}), derived_from=sharded)
    assert shard(recipe, storage, SerialEngine(told.append)) == sharded
    found = [(one.num_items, one.num_bytes, one.num_found) for one in of_kind(told, Counted)]
    assert found == [(0, 0, 1)] * len(sharded.plan)
    assert len(found) > 2


def test_a_log_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="name a file in a folder that exists"), event_log(tmp_path / "a/b"):
        pass


def test_logs_of_two_runs_follow_each_other(tmp_path):
    for _ in range(2):
        with event_log(tmp_path / "log") as log:
            log(StageStarted(stage="s", num_units=1))
    assert len((tmp_path / "log").read_text().splitlines()) == 2
