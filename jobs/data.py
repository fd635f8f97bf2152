"""`onetoken ingest | shard | featurize | build`: from annotations and media to cached features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import typer

from infra.storage import Storage, open_storage
from jobs.auditing import audit_demanded
from jobs.console import Reporter, print_result
from jobs.options import (
    CorpusOption,
    DecodersOption,
    EngineName,
    EngineOption,
    EventsOption,
    JsonOption,
    RayAddressOption,
    RecipeArgument,
    RereadOption,
    ReuseOption,
    WorkersOption,
    open_engine,
    open_observer,
    read_configuration,
)
from jobs.throughput import Throughput
from jobs.totals import (
    budget_status,
    count_rejects,
    feature_lines,
    feature_values,
    ingest_lines,
    ingest_values,
    probe_line,
    probe_values,
    shard_lines,
    shard_values,
)
from pipelines.engine import Engine, observe_all
from schemas.corpus import Manifest
from schemas.errors import ConfigError
from schemas.events import Counted, Event, Rejected
from schemas.recipe import Recipe

STAGES = ("ingest", "shard", "featurize")
HELP = {
    "ingest": "Read annotations, check every record and medium, plan the shards.",
    "shard": "Write the sample shards: WebDataset tars of media with their conversations.",
    "featurize": "Run the frozen encoder over every view, once, and keep the features.",
    "build": "Ingest, shard and featurize; safe to kill and run again.",
}


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """How featurize goes about it."""

    reuse: Storage | None = None
    num_decoders: int | None = None


BY_DEFAULT = EncodingOptions()


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for stage in STAGES:
        app.command(stage, help=HELP[stage])(_command_of((stage,)))
    app.command("build", help=HELP["build"])(_command_of(STAGES))


def _command_of(stages: Sequence[str]) -> Callable[..., None]:
    def command(
        recipe: RecipeArgument,
        corpus: CorpusOption,
        engine: EngineOption = EngineName.SERIAL,
        workers: WorkersOption = None,
        ray_address: RayAddressOption = None,
        reread: RereadOption = False,
        reuse: ReuseOption = None,
        decoders: DecodersOption = None,
        events: EventsOption = None,
        as_json: JsonOption = False,
    ) -> None:
        if reread and "ingest" not in stages:
            raise ConfigError("--reread goes with ingest and build: no other command looks for media")
        if (reuse or decoders) and "featurize" not in stages:
            raise ConfigError("--reuse and --decoders go with featurize and build: no other command encodes")
        checked = read_configuration(recipe, Recipe)
        encoding = EncodingOptions(open_storage(reuse) if reuse else None, decoders)
        throughput = Throughput()
        with (
            Reporter() as reporter,
            open_observer(events) as log,
            open_engine(engine, ray_address, workers, observe_all(log, throughput)) as opened,
        ):
            storage = open_storage(corpus)
            lines, values, status = run_stages(stages, checked, storage, opened, reporter, reread, encoding)
        lines += throughput.as_lines()
        print_result(lines, as_json, values | {"throughput": throughput.as_values()})
        if status:
            raise typer.Exit(status)

    return command


def run_stages(
    stages: Sequence[str],
    recipe: Recipe,
    storage: Storage,
    engine: Engine,
    reporter: Reporter,
    reread: bool = False,
    encoding: EncodingOptions = BY_DEFAULT,
) -> tuple[list[str], dict[str, object], int]:
    """Run some of ingest, shard, featurize; return words, plain values and an exit status.

    Each is imported when it is needed: no command loads an encoder that encodes nothing.
    """
    lines: list[str] = []
    values: dict[str, object] = {}
    status = 0
    for stage in stages:
        if stage == "ingest":
            from pipelines.ingest.flow import ingest

            ingested = ingest(recipe, storage, engine, reporter, reread)
            manifest = ingested.manifest
            for event in _list_ingest_events(manifest, ingested.probed.num_bytes_read):
                engine.observer(event)
            lines += [*ingest_lines(manifest), probe_line(ingested.probed)]
            values |= ingest_values(manifest) | probe_values(ingested.probed)
            status, complaints = budget_status(manifest)
            for complaint in complaints:
                reporter.say(complaint)
        elif stage == "shard":
            from pipelines.shard.flow import shard

            manifest = shard(recipe, storage, engine, reporter)
            lines += shard_lines(manifest)
            values |= shard_values(manifest)
        else:
            from pipelines.featurize.flow import featurize

            digest, manifest = featurize(
                recipe, storage, engine, reporter, encoding.num_decoders, encoding.reuse
            )
            lines += feature_lines(digest, manifest.features[digest])
            values |= feature_values(digest, manifest.features[digest])
            if recipe.audit:
                told, found, failed = audit_demanded(storage, digest, recipe.audit, reporter)
                lines, values, status = lines + told, values | found, failed or status
    return lines, values, status


def _list_ingest_events(manifest: Manifest, num_bytes_read: int) -> Iterator[Event]:
    """What ingest brought, all stages of it together."""
    num_examples = sum(source.written for source in manifest.sources)
    yield Counted(stage="ingest", num_items=num_examples, num_bytes=num_bytes_read)
    for code, number in count_rejects(manifest.sources).items():
        yield Rejected(stage="ingest", code=code, number=number)
