"""`onetoken`: the command line. Verbs live in modules of their own; this one maps errors to exit statuses.

Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 finished but over the reject budget, 130 or 143
stopped by SIGINT or SIGTERM; `train` saves after SIGTERM and leaves with 0, or with 1 past its deadline.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from jobs.console import print_result, say_error
from jobs.stopping import INTERRUPTED_STATUS, StopSignals
from schemas.errors import PipelineError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

STOPPED = "stopped; what is committed stays, run the same command again to go on"


def build_app() -> typer.Typer:
    """The command line with all of its verbs."""
    from jobs import (
        analyzing,
        auditing,
        counting,
        data,
        demo_command,
        doctor_command,
        evaluating,
        exporting,
        generating,
        importing,
        inspecting,
        planning,
        reporting,
        retrying,
        sweeping,
        training,
        upkeep,
    )
    from jobs.bench import command as bench_command
    from jobs.examples import show_examples

    app = typer.Typer(
        name="onetoken",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for module in (
        *(demo_command, doctor_command, planning, data, retrying, upkeep, auditing, reporting),
        *(counting, training, sweeping, generating, evaluating, importing, exporting),
        *(inspecting, analyzing, bench_command),
    ):
        module.register(app)
    app.callback()(_general_options)
    show_examples(app)
    return app


def _tell_version(is_wanted: bool) -> None:
    if is_wanted:
        print_result([f"onetoken {version('onetoken')}"], False, {})
        raise typer.Exit


def _general_options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and leave."),
    ] = False,
) -> None:
    """Multimodal training data, encoded once: shards, cached CLIP features, one-vision-token models."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default with the process's arguments, and leave with its exit status."""
    with StopSignals() as signals:
        try:
            build_app()(arguments, prog_name="onetoken")
        except PipelineError as error:
            _leave(signals, error.exit_status, str(error))
        except OSError as error:
            complaint = f"{error}; what is committed stays, mend that and run the same command again"
            _leave(signals, PipelineError.exit_status, complaint)
        except KeyboardInterrupt:
            _leave(signals, INTERRUPTED_STATUS, STOPPED)
        except SystemExit as left:
            if left.code == INTERRUPTED_STATUS or signals.status:
                _leave(signals, INTERRUPTED_STATUS, STOPPED)
            raise


def _leave(signals: StopSignals, status: int, complaint: str) -> NoReturn:
    """Whatever goes wrong after a signal came is its consequence."""
    say_error(STOPPED if signals.status else complaint)
    sys.exit(signals.status or status)
