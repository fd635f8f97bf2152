"""The demo keeps its promises, says so when it does not, and does nothing twice."""

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from page_reading import read_page
from small_job import run_onetoken

from infra.storage import open_storage
from jobs.demo.heldout_answers import HeldoutResult, tail_probability
from jobs.demo.promises import check_promises
from jobs.demo.run import count_planted_rejects, write_inputs
from jobs.training import TrainingResult
from pipelines.commit import load_manifest
from pipelines.ingest.tables import read_quarantine
from schemas.corpus import SourceTotals
from schemas.errors import WorkError

PLANTED = {"captions": {"missing_file": 1}}
SOURCE = SourceTotals(
    name="captions",
    files={"a.json": 10},
    read=9,
    taken=9,
    written=8,
    rejected=1,
    rejects={"missing_file": 1},
    repairs={},
    reject_budget=0.2,
)
TRAINED = TrainingResult(Path("run"), num_steps=4, first_loss=2.0, last_loss=1.0, left_out={})
ANSWERS = HeldoutResult(
    num_questions=240, num_right=120, num_right_shuffled=30, chance=0.125, by_kind={"shape": (120, 240, 8)}
)


def test_kept_promises_pass():
    check_promises(PLANTED, [SOURCE], [TRAINED, TRAINED], ANSWERS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"read": 10}}, "captions: read 10 is not 8 \\+ 1"),
        ({"source": {"rejects": {"bad_json": 1}}}, "captions: rejected {'bad_json': 1}, the planted faults"),
        ({"source": {"name": "other"}}, "other: rejected {'missing_file': 1}, the planted faults are {}"),
        ({"trained": {"last_loss": 2.0}}, "stage 1: the loss did not fall.*stage 2: the loss did not fall"),
        ({"trained": {"last_loss": float("nan")}}, "stage 1: the loss did not fall, 2.000 -> nan"),
        ({"answers": {"num_questions": 199}}, "199 held-out questions were asked, 200 are needed"),
        ({"answers": {"num_right": 59}}, "59 of 240 answers are right, 2 times the chance"),
        ({"answers": {"num_right_shuffled": 50}}, "50 of 240 answers are right with shuffled pictures"),
    ],
)
def test_broken_promises_are_named(changes, message):
    source = SOURCE.model_copy(update=changes.get("source", {}))
    trained = dataclasses.replace(TRAINED, **changes.get("trained", {}))
    answers = dataclasses.replace(ANSWERS, **changes.get("answers", {}))
    with pytest.raises(WorkError, match=message):
        check_promises(PLANTED, [source], [trained, trained], answers)


def test_a_missing_source_breaks_a_promise():
    with pytest.raises(WorkError, match="captions"):
        check_promises(PLANTED, [], [TRAINED, TRAINED], ANSWERS)


@pytest.mark.parametrize("chance", [1 / 8, 0.25, 0.5])
def test_the_tail_is_the_sum_of_what_can_happen(chance):
    """Counted over all outcomes of eight questions, one by one."""
    for num_right in range(9):
        expected = 0.0
        for outcome in range(2**8):
            right = outcome.bit_count()
            if right >= num_right:
                expected += chance**right * (1 - chance) ** (8 - right)
        assert tail_probability(num_right, 8, chance) == pytest.approx(expected)


def test_planted_rejects_are_counted(demo_corpus):
    counts = count_planted_rejects(demo_corpus)
    expected: dict[str, Counter[str]] = {}
    for fault in demo_corpus.faults:
        if str(fault.outcome) in {"missing_file", "truncated_image"}:
            expected.setdefault(fault.source, Counter())[str(fault.outcome)] += 1
    assert counts["captions"] == expected["captions"] == {"missing_file": 1, "truncated_image": 1}
    assert counts.keys() == {"captions", "instructions", "videos", "onevision"}
    assert sum(sum(codes.values()) for codes in counts.values()) == 14


def digest_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo as `make demo` runs it."""
    out = tmp_path_factory.mktemp("whole") / "demo"
    outcome = run_onetoken("demo", "--out", out, "--json")
    assert outcome.status == 0, outcome.err
    return out, outcome


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
class TestWholeDemo:
    """Minutes, once for all of these."""

    def test_records_and_planted_faults_balance(self, finished):
        out, outcome = finished
        values, planted = outcome.values, write_inputs(out)
        assert values["read"] == values["written"] + values["rejected"]
        assert {name: one["rejects"] for name, one in values["sources"].items()} == planted
        storage = open_storage(out / "corpus")
        kept = [
            (reject.source, str(reject.code))
            for entry in load_manifest(storage).quarantine
            for reject in read_quarantine(storage, entry)
        ]
        assert Counter(kept) == Counter(
            {(source, code): number for source, codes in planted.items() for code, number in codes.items()}
        )

    def test_a_page_shows_the_planted_faults_by_code(self, finished):
        out, _ = finished
        shown = read_page((out / "corpus/report.html").read_bytes()).text
        for source, codes in write_inputs(out).items():
            assert [code for code, count in codes.items() if f"{count} {code} of {source}" not in shown] == []

    def test_the_cache_is_smaller_than_fp16(self, finished):
        _, outcome = finished
        assert 0 < outcome.values["feature_bytes"] < outcome.values["fp16_bytes"]

    def test_both_losses_fall(self, finished):
        _, outcome = finished
        for stage in ("stage1", "stage2"):
            assert outcome.values[stage]["last_loss"] < outcome.values[stage]["first_loss"]

    def test_answers_come_from_the_pictures(self, finished):
        _, outcome = finished
        heldout = outcome.values["heldout"]
        asked, chance = heldout["questions"], heldout["chance"]
        assert asked >= 200
        assert heldout["right"] >= 2 * chance * asked
        assert tail_probability(heldout["right"], asked, chance) < 0.01
        assert tail_probability(heldout["right_shuffled"], asked, chance) > 0.01

    def test_a_second_run_does_no_work_and_says_the_same(self, finished):
        out, outcome = finished
        before = digest_files(out)
        again = run_onetoken("demo", "--out", out, "--engine", "serial", "--json")
        assert again.status == 0
        assert json.loads(again.out) == json.loads(outcome.out)
        assert "shard:" not in again.said
        assert "featurize:" not in again.said
        assert "train stage" not in again.said
        assert digest_files(out) == before
