"""`onetoken lengths CONFIG`: the token counts that training plans with, made once on any engine."""

from typing import Annotated

import typer

from jobs.console import Reporter, print_result
from jobs.options import (
    ConfigArgument,
    EngineName,
    EngineOption,
    JsonOption,
    RayAddressOption,
    WorkersOption,
    open_engine,
    read_configuration,
)
from jobs.totals import in_counts
from jobs.training_data import open_training_data
from schemas.training import TrainConfig

HELP = (
    "Count the tokens of every example for a training configuration; training does so where it was not done."
)


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("lengths", help=HELP)(lengths_command)


def lengths_command(
    config: ConfigArgument,
    corpus: Annotated[
        str | None, typer.Option("--corpus", metavar="URL", help="Another place of the corpus.")
    ] = None,
    engine: EngineOption = EngineName.SERIAL,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.stream.lengths import count_lengths, list_uncounted, sum_lengths
    from pipelines.train.assembly import load_prompter

    checked = read_configuration(config, TrainConfig)
    data = open_training_data(checked, corpus=corpus)
    _, prompter = load_prompter(checked)
    examples = data.manifest.examples
    num_missing = sum(entry.num_rows for entry in list_uncounted(data.storage, examples, prompter))
    with Reporter() as reporter, open_engine(engine, ray_address, workers) as opened:
        lengths = count_lengths(data.storage, examples, prompter, opened, reporter)
    totals = sum_lengths(data.storage, examples, lengths)
    num_read = sum(entry.num_rows for entry in examples)
    num_left = sum(totals.left_out.values())
    lines = [
        f"lengths {lengths.digest[:16]}: {num_missing:,} of {num_read:,} examples counted now",
        f"read {num_read:,} = prompts {totals.num_writable:,} of {totals.num_tokens:,} tokens + without one "
        f"{num_left:,}" + (f": {in_counts(totals.left_out)}" if num_left else ""),
    ]
    values = {
        "digest": lengths.digest,
        "read": num_read,
        "counted": num_missing,
        "written": totals.num_writable,
        "rejected": num_left,
        "rejects": totals.left_out,
        "tokens": totals.num_tokens,
    }
    print_result(lines, as_json, values)
