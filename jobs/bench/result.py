"""What a benchmark brings, and the machine that it ran on."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.machine import count_cpus, count_memory_bytes
from jobs.bench.bounds import BOUNDS

VERSIONS_OF: Final = ("torch", "transformers", "pyarrow", "polars", "msgspec", "pillow", "av", "ray")

Say = Callable[[str], None]
"""Tells the user what is being measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures by key; `bounds` tells what they are against and where they have to stand."""

    ratios: dict[str, float]
    details: dict[str, float] = field(default_factory=dict[str, float])
    """What they were made of: seconds, bytes, counts."""
    not_measured: tuple[str, ...] = ()
    """Keys that this machine cannot measure."""

    def as_lines(self, name: str) -> list[str]:
        """A line for each figure: its value, where it has to stand, what it is against."""
        lines: list[str] = []
        bounds = BOUNDS.get(name, {})
        for key, value in self.ratios.items():
            line = f"{key:<24} {value:<10.4g}"
            if bound := bounds.get(key):
                verdict = "" if bound.holds(value) else "MISSED, "
                line += f" {bound!s:<10} {verdict}against {bound.against}"
            lines.append(line.rstrip())
        return lines + [f"{key:<24} not measured" for key in self.not_measured]

    def as_json(self, name: str) -> dict[str, object]:
        """One object, as `--json` prints it."""
        return {
            "bench": name,
            "ratios": self.ratios,
            "details": self.details,
            "machine": describe_machine(),
            "not_measured": list(self.not_measured),
        }


def describe_machine() -> dict[str, object]:
    """Processor, memory, versions and date: figures mean nothing without them."""
    return {
        "processor": _find_processor(),
        "cores": count_cpus(),
        "memory_gib": round(count_memory_bytes() / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": _find_gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _find_processor() -> str:
    """The name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _find_gpu() -> str | None:
    import torch  # a second and more: only when a result is told

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
