"""What a step of training reports, and what keeps it: `metrics.jsonl`, an object a line, and TensorBoard."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import tensorboardX  # pyright: ignore[reportMissingTypeStubs]

from schemas.errors import CorruptError


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
    def data_wait_share(self) -> float:
        """Share of the step spent waiting for examples."""
        return self.data_wait_s / self.step_s


class Metrics:
    """Keeps reports below a run's folder, in lines and for TensorBoard."""

    def __init__(self, out: Path, num_kept_steps: int) -> None:
        """Go on after `num_kept_steps`; what was kept of later steps comes again.

        Raises:
            CorruptError: a whole line of `metrics.jsonl` is not one of ours.
        """
        self._lines = MetricsFile(out / "metrics.jsonl", num_kept_steps)
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
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(line for line in whole if self._step_of(line) <= num_kept_steps), "utf-8")

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

    def _step_of(self, line: str) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self._path} holds the line {line[:60]!r}, which is no step; move the file away"
            raise CorruptError(message) from error
