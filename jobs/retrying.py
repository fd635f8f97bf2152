"""`onetoken retry`: the records in quarantine once more, and only those, after files were mended."""

from pathlib import Path
from typing import Annotated

import typer

from infra.storage import open_storage
from jobs.console import Reporter, print_result
from jobs.options import (
    CorpusOption,
    EngineName,
    EngineOption,
    JsonOption,
    RayAddressOption,
    WorkersOption,
    open_engine,
    read_configuration,
)
from jobs.totals import budget_status, ingest_lines, ingest_values, probe_line, probe_values
from schemas.recipe import Recipe

RecipeOption = Annotated[
    Path | None,
    typer.Option(
        "--recipe", metavar="FILE", help="Recipe of the corpus, where data have moved since it was ingested."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("retry", help="Try the records in quarantine again, and only those.")(retry)


def retry(
    corpus: CorpusOption,
    recipe: RecipeOption = None,
    engine: EngineOption = EngineName.SERIAL,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the rejected rows again where they stand, and add those that are good now."""
    from pipelines.commit import load_manifest
    from pipelines.ingest.kept_recipe import find_recipe
    from pipelines.ingest.retry import retry as retry_records

    storage = open_storage(corpus)
    manifest = load_manifest(storage)
    checked = read_configuration(recipe, Recipe) if recipe else find_recipe(storage, manifest, Path.cwd())
    with Reporter() as reporter, open_engine(engine, ray_address, workers) as opened:
        retried = retry_records(checked, storage, opened, reporter)
        status, complaints = budget_status(retried.manifest)
        for complaint in complaints:
            reporter.say(complaint)
    lines = [
        *ingest_lines(retried.manifest),
        probe_line(retried.probed),
        f"retry: {retried.num_mended} of {retried.num_tried} records are good now",
    ]
    counts = {"tried": retried.num_tried, "mended": retried.num_mended}
    print_result(lines, as_json, ingest_values(retried.manifest) | probe_values(retried.probed) | counts)
    if status:
        raise typer.Exit(status)
