"""What a step of training reports, and what keeps it: `metrics.jsonl`, an object a line, and TensorBoard."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, cast

import tensorboardX  # pyright: ignore[reportMissingTypeStubs]

from schemas.errors import CorruptError

METRICS_NAME: Final = "metrics.jsonl"
_TAIL_BYTES: Final = 2**16
"""In which the last line surely is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step."""

    step: int
    """Steps taken, this one included."""
    epoch: int
    loss: float
    """Mean over the learned tokens of the whole step."""
    grad_norm: float
    """Before clipping."""
    rates: dict[str, float]
    """Learning rate of each parameter group."""
    num_examples: int
    num_tokens: int
    """Text tokens that were read."""
    num_labels: int
    """Text tokens that were learned."""
    step_s: float
    data_wait_s: float
    """Part of `step_s` spent waiting for examples."""
    memory_bytes: int
    """The most that was taken so far: by tensors on a GPU, by the process on a CPU."""
    mfu: float | None
    """Share of the device's arithmetic that was used; None where its limit is not known, as on a CPU."""
    held_out_loss: float | None = None
    """Mean over the learned tokens of held-out examples, where it was measured after this step."""

    @property
    def examples_per_s(self) -> float:
        """Examples trained on per second."""
        return self.num_examples / self.step_s

    @property
    def tokens_per_s(self) -> float:
        """Text tokens read per second."""
        return self.num_tokens / self.step_s

    @property
    def in_words(self) -> str:
        """What a person watches, in a line."""
        parts = [
            f"loss {self.loss:.3f}",
            f"held-out {self.held_out_loss:.3f}" if self.held_out_loss is not None else "",
            f"{self.tokens_per_s:,.0f} tokens/s",
            f"{self.examples_per_s:,.1f} samples/s",
            f"data wait {self.data_wait_share:.1%}",
            f"{self.memory_bytes / 2**30:.1f} GiB",
            f"MFU {self.mfu:.1%}" if self.mfu is not None else "",
        ]
        return "  ".join(part for part in parts if part)

    @property
    def data_wait_share(self) -> float:
        """Share of the step spent waiting for examples."""
        return self.data_wait_s / self.step_s


_KEPT: Final = tuple(field.name for field in fields(StepReport))
"""What a line says of a report; the rest of it follows from these."""


def read_reports(out: Path) -> list[StepReport]:
    """The reports that a run has kept below its folder; a line that was cut off by a kill is none.

    Raises:
        CorruptError: a whole line is no report.
    """
    path = out / METRICS_NAME
    return [_parse(line, path) for line in _whole_lines(path)]


def read_last_report(out: Path) -> StepReport | None:
    """The newest of them, of a run that is at work; the file is not read to find it.

    Raises:
        CorruptError: the line is no report.
    """
    path = out / METRICS_NAME
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return _parse(whole[-1], path) if whole else None


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _parse(line: str, path: Path) -> StepReport:
    try:
        values = json.loads(line)
        return StepReport(**{name: values[name] for name in _KEPT if name in values})
    except (ValueError, TypeError) as error:
        message = f"{path} holds the line {line[:60]!r}, which is no step; move the file away"
        raise CorruptError(message) from error


class Metrics:
    """Keeps reports below a run's folder, in lines and for TensorBoard."""

    def __init__(self, out: Path, num_kept_steps: int) -> None:
        """Go on after `num_kept_steps`; what was kept of later steps comes again.

        Raises:
            CorruptError: a whole line of `metrics.jsonl` is not one of ours.
        """
        self._lines = MetricsFile(out / METRICS_NAME, num_kept_steps)
        self._board = cast(Any, tensorboardX).SummaryWriter(
            str(out / "tensorboard"), purge_step=num_kept_steps + 1
        )

    def append(self, report: StepReport) -> None:
        """Keep a report."""
        self._lines.append(report)
        for name, value in self._lines.values_of(report).items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, report.step)
        for group, rate in report.rates.items():
            self._board.add_scalar(f"rate/{group}", rate, report.step)

    def close(self) -> None:
        """Write down what is still in memory."""
        self._board.close()


class MetricsFile:
    """Appends reports to a file of lines."""

    def __init__(self, path: Path, num_kept_steps: int) -> None:
        """Open the file, keeping the lines of the first `num_kept_steps`; those after come again.

        Raises:
            CorruptError: a whole line of the file is not one of ours.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _whole_lines(path) if _parse(line, path).step <= num_kept_steps]
        path.write_text("".join(kept), "utf-8")

    def append(self, report: StepReport) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.values_of(report)) + "\n")

    def values_of(self, report: StepReport) -> dict[str, object]:
        """What a line holds."""
        values: dict[str, object] = asdict(report)
        return values | {
            "tokens_per_s": round(report.tokens_per_s, 1),
            "examples_per_s": round(report.examples_per_s, 3),
            "data_wait_share": round(report.data_wait_share, 4),
        }
