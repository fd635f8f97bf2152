"""`onetoken export`: a checkpoint as the published LLaVA-Mini code names its weights."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.console import print_result
from jobs.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("export", help="Write a checkpoint's weights under the published key names.")(export_command)


def export_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.train.assembly import restore
    from pipelines.train.checkpoint import open_checkpoint
    from pipelines.train.export import export_model

    opened = open_checkpoint(checkpoint)
    identity = opened.state.identity
    written = export_model(restore(opened, to_train=False), identity.spec, identity.encoder, folder)
    print_result([f"{opened.folder} -> {written}"], as_json, {"folder": str(written)})
