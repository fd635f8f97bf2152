"""`onetoken`: the command line. Verbs live in modules of their own; this one maps errors to exit statuses.

Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 finished but over the reject budget.
"""

import os
import sys
from collections.abc import Sequence

import typer

from jobs.console import say_error
from schemas.errors import PipelineError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

INTERRUPTED_STATUS = 130
STOPPED = "stopped; what is committed stays, run the same command again to go on"


def build_app() -> typer.Typer:
    """The command line with all of its verbs."""
    from jobs import data, demo_command, generating, inspecting, training

    app = typer.Typer(
        name="onetoken",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Multimodal training data, encoded once: shards, cached CLIP features, one-vision-token models.",
    )
    for module in (demo_command, data, training, generating, inspecting):
        module.register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default with the process's arguments, and leave with its exit status."""
    try:
        build_app()(arguments, prog_name="onetoken")
    except PipelineError as error:
        say_error(str(error))
        sys.exit(error.exit_status)
    except OSError as error:
        say_error(f"{error}; what is committed stays, mend that and run the same command again")
        sys.exit(PipelineError.exit_status)
    except KeyboardInterrupt:
        say_error(STOPPED)
        sys.exit(INTERRUPTED_STATUS)
    except SystemExit as left:
        if left.code == INTERRUPTED_STATUS:
            say_error(STOPPED)
        raise
