"""`onetoken bench`: what it prints, what it checks, and that its sides do what they are said to do."""

import json
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import msgspec
import pytest
from PIL import Image
from small_job import run_onetoken

import jobs.bench.ingest
from infra.storage import open_storage
from jobs.bench.bounds import BOUNDS, at_least, at_most
from jobs.bench.fresh import run_fresh
from jobs.bench.ingest import check_fate, measure, write_records
from jobs.bench.ingest_sides import ingest_files
from jobs.bench.pretended_probe import pretend
from jobs.bench.probe_rate import HalfOfFiles, RateWorker, Side, ask_for
from jobs.bench.result import Measured, describe_machine
from jobs.bench.small_files import MAX_BYTES, MIN_BYTES, write_small_files
from jobs.bench.tree_memory import can_watch_memory, count_tree_bytes
from pipelines.engine import SerialEngine
from pipelines.ingest.asked import AskedMedia
from schemas.errors import WorkError
from schemas.record import MediumKind

NUM_RECORDS = 4500
LINUX = pytest.mark.skipif(not can_watch_memory(), reason="this system tells no proportional set size")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Annotation files of few records."""
    return write_records(tmp_path_factory.mktemp("bench"), NUM_RECORDS, lambda _: None)


@pytest.fixture(scope="module")
def ours(records):
    """What our side says of them."""
    return ingest_files(records.path, NUM_RECORDS, SerialEngine())


def test_the_rival_decodes_every_row(records):
    side = run_fresh("jobs.bench.ingest_sides", ["parse", str(records.path)])
    said = msgspec.json.decode(side.answer)
    assert said["num_rows"] == NUM_RECORDS == records.num_records
    assert 0 < said["wall_s"] < 60


def test_our_side_accounts_for_every_row(records, ours):
    assert ours.read == NUM_RECORDS == ours.written + sum(ours.rejects.values())
    assert sum(ours.rejects.values()) == sum(one.num_rows // 499 for one in records.sets) > 0
    assert ours.unique_media > NUM_RECORDS / 3
    assert {"scan", "probe", "read", "group"} <= set(ours.stages_s)
    assert sum(ours.stages_s.values()) <= ours.wall_s
    check_fate(records, ours)


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: {"read": ours.read - 1},
        lambda ours: {"written": ours.written - 1},
        lambda ours: {"rejects": {}},
        lambda ours: {"rejects": Counter(ours.rejects) + Counter(bad_role=1)},
    ],
)
def test_a_lost_record_fails_the_benchmark(records, ours, change):
    with pytest.raises(WorkError, match="it should be"):
        check_fate(records, msgspec.structs.replace(ours, **change(ours)))


def test_pretended_facts_depend_on_the_place_alone():
    pictures = AskedMedia(MediumKind.IMAGE, by_stem=False, paths=["a/b", "a/c"])
    clips = AskedMedia(MediumKind.VIDEO, by_stem=True, paths=["a/b"])
    found, other = pretend("/root", pictures), pretend("/other", pictures)
    assert found == pretend("/root", pictures)
    assert [len(bytes.fromhex(found.sha256(place))) for place in range(2)] == [32, 32]
    assert len({one.sha256(place) for one in (found, other) for place in range(2)}) == 4
    rows = found.columns().to_pylist() + pretend("/root", clips).columns().to_pylist()
    assert [row["location"] for row in rows] == ["a/b", "a/c", "a/b"]
    assert [row["kind"] for row in rows] == ["image", "image", "video"]
    assert [row["duration_s"] > 0 for row in rows] == [False, False, True]


def test_small_files_are_small_pictures(tmp_path):
    paths = write_small_files(tmp_path, 1100)
    assert len({path.split("/")[0] for path in paths}) == 2
    sizes = [(tmp_path / path).stat().st_size for path in paths]
    assert len(sizes) == 1100
    assert MIN_BYTES <= min(sizes) < max(sizes) <= MAX_BYTES
    assert Counter(path[-3:] for path in paths) == {"jpg": 880, "png": 220}
    for path in paths[:40]:
        with Image.open(tmp_path / path) as picture:
            picture.load()


def test_both_sides_look_at_the_same_bytes(tmp_path):
    paths = write_small_files(tmp_path / "media", 80)
    storage = open_storage(tmp_path / "corpus")
    measure_half = RateWorker(storage, str(tmp_path / "media"), ask_for(storage, paths)).build()
    done = {(side, half): measure_half(HalfOfFiles(side, half)) for side in Side for half in (0, 1)}
    assert [done[Side.BARE, half].num_bytes for half in (0, 1)] == [
        done[Side.PROBE, half].num_bytes for half in (0, 1)
    ]
    whole = sum((tmp_path / "media" / path).stat().st_size for path in paths)
    assert sum(done[Side.PROBE, half].num_bytes for half in (0, 1)) == whole
    assert min(one.num_bytes for one in done.values()) > whole / 4


@LINUX
def test_the_memory_of_children_is_counted():
    """A process with little memory of its own and a child that holds 50 MB."""
    child = "import time; held = b'x' * 50_000_000; print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held = count_tree_bytes(process.pid)
        process.kill()
    assert 50_000_000 < held < 120_000_000


def test_a_process_that_is_gone_holds_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert count_tree_bytes(process.pid) == 0


def test_a_side_that_fails_says_why(tmp_path):
    with pytest.raises(WorkError, match="no annotation file"):
        run_fresh("jobs.bench.ingest_sides", ["ingest", str(tmp_path / "none"), "60"])


def test_a_missed_bound_is_told():
    measured = Measured(ratios={"wall_vs_parse": 3.5, "probe_vs_sha256": 0.9}, not_measured=("peak_mib",))
    missed, held, unknown = measured.as_lines("ingest")
    assert "3.5" in missed
    assert "<= 3 " in missed
    assert "MISSED" in missed
    assert ">= 0.8" in held
    assert "MISSED" not in held
    assert unknown.split() == ["peak_mib", "not", "measured"]


def test_bounds_hold_on_their_limit():
    assert at_most(3, "x").holds(3)
    assert not at_most(3, "x").holds(3.01)
    assert at_least(0.8, "x").holds(0.8)
    assert not at_least(0.8, "x").holds(0.79)


def test_the_machine_is_described():
    machine = describe_machine()
    assert {"processor", "cores", "memory_gib", "gpu", "python", "versions", "date"} <= set(machine)
    json.dumps(machine)


@pytest.mark.slow
def test_all_keys_are_measured(monkeypatch, tmp_path):
    """With both sides run once; full size differs in nothing but numbers."""
    monkeypatch.setattr(jobs.bench.ingest, "MAX_ROUNDS", 1)
    said: list[str] = []
    measured = measure(tmp_path, said.append, scale=1e-4)
    assert set(measured.ratios) | set(measured.not_measured) == set(BOUNDS["ingest"])
    assert all(value > 0 for key, value in measured.ratios.items() if key != "peak_bytes_per_record")
    assert measured.details["num_records"] == 300
    assert any("read 300 = written" in line for line in said)
    assert not list(tmp_path.glob("*/corpus/corpus.json"))


def test_the_command_prints_one_object(monkeypatch, tmp_path):
    def pretend_to_measure(folder, say, scale):
        say(f"measuring at {scale}")
        assert folder == tmp_path / "inputs"
        return Measured(ratios={"wall_vs_parse": 2.5}, details={"parse_s": 1.0}, not_measured=("peak_mib",))

    module = SimpleNamespace(measure=pretend_to_measure)
    monkeypatch.setitem(sys.modules, "jobs.bench.ingest", module)
    outcome = run_onetoken("bench", "ingest", "--folder", tmp_path / "inputs", "--scale", 0.5, "--json")
    assert outcome.status == 0
    assert "measuring at 0.5" in outcome.err
    values = outcome.values
    assert list(values) == sorted(values)
    assert (values["bench"], values["ratios"]) == ("ingest", {"wall_vs_parse": 2.5})
    assert values["not_measured"] == ["peak_mib"]
    assert values["machine"]["python"].startswith("3.")


def test_unknown_benchmarks_and_scales_are_refused():
    unknown, negative = run_onetoken("bench", "speed"), run_onetoken("bench", "ingest", "--scale", -1)
    assert (unknown.status, negative.status) == (2, 2)
    assert "'speed' is not one of" in unknown.said
    assert "--scale" in negative.said
