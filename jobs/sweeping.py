"""`onetoken sweep`: many fine-tunes over one cache, and one table of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jobs.console import Reporter, print_result
from jobs.options import (
    EngineName,
    EngineOption,
    JsonOption,
    RayAddressOption,
    WorkersOption,
    open_engine,
    read_configuration,
    read_plain_values,
)
from jobs.totals import in_mebibytes, in_table
from pipelines.engine import Engine
from schemas.configuration import build
from schemas.errors import ConfigError, PipelineError, WorkError
from schemas.sweep import Outcome, SweepConfig, SweepRow, SweepTable, Variant
from schemas.training import TrainConfig

HELP = (
    "Train many variants over one cache, as units of an engine, and compare them on held-out shards in one "
    "table. Safe to kill and run again."
)
TITLES = ("variant", "loss", "right", "vision tokens", "GFLOPs", "MiB planned", "MiB taken", "hours")


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("sweep", help=HELP)(sweep_command)


def sweep_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Base, variants and grid in YAML.", show_default=False)
    ],
    engine: EngineOption = EngineName.SERIAL,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    sweep = read_configuration(file, SweepConfig)
    with Reporter() as reporter:
        variants, table = plan_sweep(sweep, str(file))
        reporter.say(f"{len(variants)} runs over {table.corpus}, evaluated on {', '.join(table.held_out)}")
        with open_engine(engine, ray_address, workers) as opened:
            table = run_sweep(sweep, variants, table, opened, reporter)
    lines = table_lines(table.rows)
    print_result([*lines, f"the table lies in {sweep.out}"], as_json, table.model_dump(mode="json"))
    if failed := [row.name for row in table.rows if row.error is not None]:
        raise WorkError(
            f"{len(failed)} of {len(table.rows)} runs failed: {', '.join(failed)}; mend what their rows "
            "tell, and run the same command again for these alone"
        )


def plan_sweep(sweep: SweepConfig, where: str) -> tuple[list[Variant], SweepTable]:
    """The runs, checked against the configuration's model and the corpus, and the table before any of them.

    Raises:
        ConfigError: a change leads to no training configuration, two runs are the same, or none is held out.
        NotFoundError: there is no corpus, or it has no such features.
    """
    from jobs.training_data import choose_spec, open_training_data
    from pipelines.sweep.expand import expand
    from pipelines.sweep.held_out import choose_held_out
    from pipelines.sweep.run import make_row

    written = read_plain_values(Path(sweep.base))
    base = build(written, TrainConfig, sweep.base)
    if base.run.held_out is not None:
        raise ConfigError(f"{sweep.base}: a sweep has `held_out` of its own; leave `run.held_out` out")
    runs = expand(sweep, written, where)
    data = open_training_data(base)
    held_out = base.data.exclude
    if sweep.held_out is not None:
        held_out = choose_held_out(data.manifest.plan, sweep.held_out, base.data.exclude)
    if not held_out:
        raise ConfigError(
            f"{where}: nothing is held out; name shards in `data.exclude` of the base, or a share"
        )
    variants: list[Variant] = []
    names_of: dict[str, str] = {}
    for name, (changes, config) in runs.items():
        spec = choose_spec(data.manifest, config.spec)
        placed = _place(config, sweep, spec, held_out)
        variant = Variant(
            name=name,
            changes=changes,
            config=placed,
            spec=spec,
            manifest_sha256=data.manifest.digest,
            held_out=held_out,
            keep_checkpoint=sweep.keep_checkpoint,
        )
        twin = names_of.setdefault(variant.digest, name)
        if twin != name:
            raise ConfigError(f"{where}: {name!r} trains the same as {twin!r}; leave one of them out")
        folder = Path(sweep.out).resolve() / variant.digest
        variants.append(variant.model_copy(update={"config": placed.model_copy(update={"out": str(folder)})}))
    table = SweepTable(
        corpus=data.storage.url,
        manifest_sha256=data.manifest.digest,
        held_out=held_out,
        rows=tuple(map(make_row, variants)),
    )
    return variants, table


def run_sweep(
    sweep: SweepConfig, variants: Sequence[Variant], table: SweepTable, engine: Engine, reporter: Reporter
) -> SweepTable:
    """Train what is not finished yet; the table is written anew after every run.

    Raises:
        ConflictError: another sweep is at work in the same folder.
        MismatchError: the folder holds runs over another state of the corpus.
    """
    from jobs.sweeping_variant import train_variant
    from pipelines.sweep.run import VariantWorker, run_variants
    from pipelines.sweep.store import check_same_corpus, locked, write_table

    out = Path(sweep.out)
    with locked(out):
        check_same_corpus(out, table)
        write_table(out, table)
        count_all_tokens(variants, engine, reporter)
        rows = list(table.rows)
        worker = VariantWorker(train_variant)
        for place, row in run_variants(variants, worker, engine, sweep.resources, reporter):
            rows[place] = row
            table = table.model_copy(update={"rows": tuple(rows)})
            write_table(out, table)
            reporter.say(f"{row.name}: {row.state}" + (f", {row.error.message}" if row.error else ""))
    return table


def count_all_tokens(variants: Sequence[Variant], engine: Engine, reporter: Reporter) -> None:
    """Once for every tokenizer and template, before runs would do it side by side.

    A run whose tokenizer cannot be loaded says so in its own row.
    """
    from jobs.training_data import open_training_data
    from pipelines.stream.lengths import count_lengths
    from pipelines.sweep.store import read_outcome
    from pipelines.train.assembly import load_prompter

    prompts = {
        (config.stage, config.data.max_tokens, model.llm, model.template, model.start_from): config
        for config in (variant.config for variant in variants)
        for model in (config.model,)
        if read_outcome(Path(config.out)) is None
    }
    for config in prompts.values():
        data = open_training_data(config)
        try:
            _, prompter = load_prompter(config)
        except PipelineError:
            continue
        count_lengths(data.storage, data.manifest.examples, prompter, engine, reporter)


def table_lines(rows: Sequence[SweepRow]) -> list[str]:
    """A line for each run, then why some failed."""
    lines = in_table(TITLES, [(row.name, *_cells(row)) for row in rows])
    return lines + [f"  {row.name}: {row.error.kind}: {row.error.message}" for row in rows if row.error]


def _cells(row: SweepRow) -> tuple[str, ...]:
    if row.outcome is None:
        return (row.state, *("" for _ in TITLES[2:]))
    one: Outcome = row.outcome
    return (
        "" if one.loss is None else f"{one.loss:.4f}",
        "" if one.accuracy is None else f"{100 * one.accuracy:.1f} %",
        str(one.vision_tokens),
        f"{one.flops / 1e9:,.3g}",
        in_mebibytes(one.predicted_bytes).removesuffix(" MiB"),
        in_mebibytes(one.measured_bytes).removesuffix(" MiB"),
        f"{one.hours:.3g}",
    )


def _place(config: TrainConfig, sweep: SweepConfig, spec: str, held_out: tuple[str, ...]) -> TrainConfig:
    """The configuration for one spec, without the held-out shards, on as many threads as the run has CPUs."""
    exclude = tuple(sorted({*config.data.exclude, *held_out}))
    threads = config.run.threads or max(1, int(sweep.resources.cpus))
    return config.model_copy(
        update={
            "spec": spec,
            "data": config.data.model_copy(update={"exclude": exclude}),
            "run": config.run.model_copy(update={"threads": threads}),
        }
    )
