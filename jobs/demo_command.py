"""`onetoken demo`: the whole flow on a small corpus, with the commands that the real job uses."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.console import print_result
from jobs.options import EngineName, JsonOption


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("demo", help="Build a small corpus, cache its features, train on them, ask questions.")(
        demo_command
    )


def demo_command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is left.")] = Path(
        "onetoken-demo"
    ),
    engine: Annotated[
        EngineName, typer.Option("--engine", help="Who does the work; the bytes are the same.")
    ] = EngineName.RAY,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from jobs.demo.run import run_demo

    lines, values = run_demo(out, engine)
    print_result(lines, as_json, values)
