"""What a run has kept of its steps is read again, and only that."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.train.metrics import METRICS_NAME, MetricsFile, StepReport, read_last_report, read_reports
from schemas.errors import CorruptError

REPORT = StepReport(
    step=1,
    epoch=0,
    loss=2.5,
    grad_norm=0.1,
    rates={"projector": 1e-5, "rest": 1e-4},
    num_examples=4,
    num_tokens=100,
    num_labels=10,
    step_s=0.3,
    data_wait_s=0.1,
    memory_bytes=2**30,
    mfu=None,
)
REPORTS = [replace(REPORT, step=step, loss=1 / (step + 2)) for step in range(1, 5)]


def test_a_step_is_told_in_a_line() -> None:
    told = "loss 2.500  333 tokens/s  13.3 samples/s  data wait 33.3%  1.0 GiB"
    assert REPORT.in_words == told
    everything = replace(REPORT, held_out_loss=2.25, mfu=0.4126, num_tokens=100_000)
    assert everything.in_words == (
        "loss 2.500  held-out 2.250  333,333 tokens/s  13.3 samples/s  data wait 33.3%  1.0 GiB  MFU 41.3%"
    )


def write(out: Path) -> Path:
    file = MetricsFile(out / METRICS_NAME, 0)
    for report in REPORTS:
        file.append(report)
    return out / METRICS_NAME


def test_what_was_kept_is_read(tmp_path: Path) -> None:
    assert read_reports(tmp_path) == []
    assert read_last_report(tmp_path) is None
    write(tmp_path)
    assert read_reports(tmp_path) == REPORTS
    assert read_last_report(tmp_path) == REPORTS[-1]


def test_a_line_that_was_cut_off_is_none(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text()[:-1])
    assert read_reports(tmp_path) == REPORTS[:-1]
    assert read_last_report(tmp_path) == REPORTS[-2]
    MetricsFile(path, 2).append(REPORTS[3])
    assert read_reports(tmp_path) == [REPORTS[0], REPORTS[1], REPORTS[3]]


def test_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() * 100)
    assert path.stat().st_size > 2**16
    assert read_last_report(tmp_path) == REPORTS[-1]


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": 5}', "null"])
def test_a_line_of_another_kind_is_told(tmp_path: Path, line: str) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(CorruptError, match="is no step; move the file away"):
        read_reports(tmp_path)
    with pytest.raises(CorruptError, match="is no step; move the file away"):
        MetricsFile(path, 5)
