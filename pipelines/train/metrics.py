"""What a step of training reports, and the file that keeps it: `metrics.jsonl`, one object a line."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

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

    @property
    def tokens_per_s(self) -> float:
        """Text tokens read per second."""
        return self.num_tokens / self.step_s

    @property
    def data_wait_share(self) -> float:
        """Share of the step spent waiting for examples."""
        return self.data_wait_s / self.step_s


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
        line = asdict(report) | {
            "tokens_per_s": round(report.tokens_per_s, 1),
            "data_wait_share": round(report.data_wait_share, 4),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _step_of(self, line: str) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self._path} holds the line {line[:60]!r}, which is no step; move the file away"
            raise CorruptError(message) from error
