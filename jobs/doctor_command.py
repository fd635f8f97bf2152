"""`onetoken doctor`: is this machine fit, a line a thing, with what to do about it."""

from dataclasses import asdict
from typing import Annotated

import typer

from jobs.console import print_result
from jobs.options import JsonOption, RayAddressOption
from schemas.errors import PipelineError

HELP = (
    "Look at this machine: versions, decoders, GPU, disk, storage, Ray; status 1 where something needs a fix."
)
CorpusToTryOption = Annotated[
    str | None,
    typer.Option(
        "--corpus", metavar="URL", help="Where a corpus is or will be: try its storage.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("doctor", help=HELP)(doctor_command)


def doctor_command(
    corpus: CorpusToTryOption = None, ray_address: RayAddressOption = None, as_json: JsonOption = False
) -> None:
    """See the help in the registration."""
    from pipelines.doctor import examine

    findings = list(examine(corpus, ray_address))
    lines = [
        f"{'fix' if finding.fix else 'ok':<4}{finding.name:<12}{finding.seen}"
        + (f"; {finding.fix}" if finding.fix else "")
        for finding in findings
    ]
    print_result(lines, as_json, {"findings": [asdict(finding) for finding in findings]})
    if any(finding.fix for finding in findings):
        raise typer.Exit(PipelineError.exit_status)
