"""`onetoken audit`: are the features of a corpus those that the encoder gives for its media."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.storage import Storage, open_storage
from jobs.console import Reporter, print_result
from jobs.options import CorpusOption, JsonOption, read_configuration
from jobs.training_data import choose_spec
from schemas.errors import PipelineError
from schemas.fidelity import AuditRecord, FidelityFloor
from schemas.recipe import Recipe

if TYPE_CHECKING:
    from pipelines.audit.flow import AuditPlan

HELP = "Recompute random views from stored media and compare; status 1 where features fall below the floor."

SpecOption = Annotated[
    str, typer.Option("--spec", metavar="DIGEST", help="The cache, by the first digits of its spec's digest.")
]
ViewsOption = Annotated[int, typer.Option("--views", min=1, metavar="N", help="Views to recompute.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Which views; the same seed finds the same.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="DIR", help="Tell the change of its training loss, too."),
]
RecipeOption = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="Demand its `audit:`; by default what the codec promises."),
]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", metavar="DIR", help="Where the encoder lies, if it has moved.")
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("audit", help=HELP)(audit_command)


def audit_command(
    corpus: CorpusOption,
    spec: SpecOption = "latest",
    views: ViewsOption = 64,
    seed: SeedOption = 0,
    checkpoint: CheckpointOption = None,
    recipe: RecipeOption = None,
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.audit.flow import AuditPlan
    from pipelines.commit import load_manifest

    floor = read_configuration(recipe, Recipe).audit if recipe else None
    storage = open_storage(corpus)
    plan = AuditPlan(
        spec=choose_spec(load_manifest(storage), spec),
        num_views=views,
        seed=seed,
        floor=floor,
        checkpoint=checkpoint,
        encoder=encoder,
    )
    with Reporter() as reporter:
        lines, values, status = run_audit(storage, plan, reporter)
    print_result(lines, as_json, values)
    if status:
        raise typer.Exit(status)


def audit_demanded(
    storage: Storage, spec: str, floor: FidelityFloor, reporter: Reporter
) -> tuple[list[str], dict[str, object], int]:
    """The audit that a recipe demands after featurize: words, plain values, exit status.

    One that was kept of the same manifest is not repeated. What a checkpoint tells is left to the command.
    """
    from pipelines.audit.flow import AuditPlan, find_audit
    from pipelines.commit import load_manifest

    plan = AuditPlan(spec=spec, floor=floor.model_copy(update={"loss_change": None}))
    kept = find_audit(storage, load_manifest(storage), plan)
    lines, values, status = _tell(*kept) if kept else run_audit(storage, plan, reporter)
    if floor.loss_change is not None:
        lines.append("  for `loss_change`: onetoken audit --recipe FILE --checkpoint DIR")
    return lines, {"audit": values}, status


def run_audit(
    storage: Storage, plan: "AuditPlan", reporter: Reporter
) -> tuple[list[str], Mapping[str, object], int]:
    """Audit the manifest in force: words, plain values, exit status."""
    from pipelines.audit.flow import audit
    from pipelines.commit import load_manifest

    return _tell(*audit(storage, load_manifest(storage), plan, reporter))


def _tell(path: str, record: AuditRecord) -> tuple[list[str], Mapping[str, object], int]:
    status = PipelineError.exit_status if record.shortfalls else 0
    return [*_lines(path, record)], {"path": path, **record.model_dump(mode="json")}, status


def _lines(path: str, record: AuditRecord) -> Iterator[str]:
    found = record.fidelity
    yield f"raw cosine: mean {found.mean_raw_cosine:.6f}, worst token {found.worst_raw_cosine:.6f}"
    normalized = f"mean {found.mean_normalized_cosine:.6f}, worst token {found.worst_normalized_cosine:.6f}"
    yield f"cosine of normalized channels: {normalized}"
    relative = f"mean {found.mean_relative_error:.5f}, worst token {found.worst_relative_error:.5f}"
    yield f"relative error: {relative}"
    yield f"NRMSE of the worst channel: {found.channel_nrmse:.5f}"
    if record.loss:
        change = f"{record.loss.recomputed:.5f} -> {record.loss.stored:.5f} ({record.loss.relative:.3%})"
        yield f"loss of step {record.loss.checkpoint_step} on {record.loss.num_examples} examples: {change}"
    yield from (f"below the floor: {shortfall}" for shortfall in record.shortfalls)
    verdict = "below the floor" if record.shortfalls else "as faithful as demanded"
    yield f"audit: {len(record.views)} views of spec {record.spec_sha256[:16]}: {verdict}; kept as {path}"
