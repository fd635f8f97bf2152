"""`onetoken bench NAME`: measure on this machine what BENCHMARKS.md tells of another."""

import importlib
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from jobs.bench.result import Measured, Say
from jobs.console import Reporter, print_result
from jobs.options import JsonOption


class BenchName(StrEnum):
    """The benchmarks; each is a module of this package with a function `measure`."""

    CODEC = "codec"
    ENCODE = "encode"
    INGEST = "ingest"
    MEDIA = "media"
    READ = "read"
    REDUCE = "reduce"
    SHARD = "shard"
    STREAM = "stream"
    SWEEP = "sweep"
    TRAIN = "train"


class Measure(Protocol):
    """What a benchmark's module has to have."""

    def __call__(self, folder: Path, say: Say, scale: float = 1.0) -> Measured:
        """Make inputs in a folder, measure, leave nothing running.

        Args:
            folder: there already; what an earlier run left there may be used again.
            say: told what is being done.
            scale: share of the full size; figures count at 1.
        """
        ...


NameArgument = Annotated[BenchName, typer.Argument(help="What to measure.", show_default=False)]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Where inputs are made and kept; by default a temporary folder.",
        show_default=False,
    ),
]
ScaleOption = Annotated[
    float, typer.Option("--scale", min=0, help="Share of the full size; figures count at 1 only.")
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("bench", help="Measure this machine: ratios against named rivals, in one run.")(bench)


def bench(
    name: NameArgument, folder: FolderOption = None, scale: ScaleOption = 1.0, as_json: JsonOption = False
) -> None:
    """Run one benchmark."""
    module = importlib.import_module(f"jobs.bench.{name.value}")
    measure = cast("Measure", module.measure)
    say = Reporter().say
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="onetoken-bench-") as temporary:
            measured = measure(Path(temporary), say, scale)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        measured = measure(folder, say, scale)
    print_result(measured.as_lines(name.value), as_json, measured.as_json(name.value))
