"""`onetoken verify | diff | gc`: is a corpus whole, what differs between two, what is in the way."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from infra.storage import open_storage
from jobs.console import Reporter, print_result, say_error
from jobs.options import (
    CorpusOption,
    EngineName,
    EngineOption,
    JsonOption,
    RayAddressOption,
    WorkersOption,
    open_engine,
)
from jobs.totals import in_mebibytes
from schemas.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.upkeep.collect import Collected
    from pipelines.upkeep.compare_rows import Difference
    from pipelines.upkeep.diff import CorpusDiff, Side
    from pipelines.upkeep.verify import Verified

DIFFERENT_STATUS: Final = 1
TROUBLE_STATUS: Final = 2
DAY_S: Final = 86_400.0
_PINNED: Final = re.compile(r"(?P<url>.+)@(?P<digest>[0-9a-f]{8,64})")

HELP: Final = {
    "verify": "Check digests, counts, indexes against tars, tables against shards; status 1 for any damage.",
    "diff": "What differs between two corpora: status 0 nothing, 1 something, 2 trouble, as `diff` has it.",
    "gc": "Remove what no kept manifest lists and is older than a day.",
}

SideArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL[@DIGEST]",
        help="A corpus, or one manifest of it by the first digits of its digest.",
        show_default=False,
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed; remove nothing.")]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="DIGEST",
        help="Keep this manifest, by the first digits of its digest: a checkpoint pins it. Repeatable.",
    ),
]
KeepDaysOption = Annotated[
    float,
    typer.Option(
        "--keep-days",
        min=0.0,
        help="Keep manifests that were in force within so many days, and work committed within them.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("verify", help=HELP["verify"])(verify_command)
    app.command("diff", help=HELP["diff"])(diff_command)
    app.command("gc", help=HELP["gc"])(collect_command)


def verify_command(
    corpus: CorpusOption,
    engine: EngineOption = EngineName.SERIAL,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.upkeep.verify import verify

    storage = open_storage(corpus)
    with Reporter() as reporter, open_engine(engine, ray_address, workers) as opened:
        verified = verify(storage, opened, reporter)
    print_result([*_verify_lines(verified)], as_json, asdict(verified))
    if verified.findings:
        raise typer.Exit(PipelineError.exit_status)


def diff_command(one: SideArgument, other: SideArgument, as_json: JsonOption = False) -> None:
    """See the help in the registration."""
    from pipelines.upkeep.diff import diff

    try:
        with Reporter() as reporter:
            found = diff(_open_side(one), _open_side(other), reporter)
    except PipelineError as error:
        say_error(str(error))
        raise typer.Exit(TROUBLE_STATUS) from error
    print_result([*_diff_lines(found)], as_json, _diff_values(found))
    if not found.is_empty:
        raise typer.Exit(DIFFERENT_STATUS)


def collect_command(
    corpus: CorpusOption,
    dry_run: DryRunOption = False,
    keep: KeepOption = None,
    keep_days: KeepDaysOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.upkeep.collect import KeepPolicy, collect

    storage = open_storage(corpus)
    policy = KeepPolicy(keep_s=keep_days * DAY_S, named=tuple(keep or ()))
    with Reporter() as reporter:
        collected = collect(storage, policy, dry_run, reporter)
    print_result([*_collect_lines(collected, dry_run)], as_json, _collect_values(collected, dry_run))


def _verify_lines(verified: "Verified") -> Iterator[str]:
    for finding in verified.findings:
        yield f"{finding.where}: {finding.what}; {finding.way_out}"
    if verified.num_unlisted:
        size = in_mebibytes(verified.num_unlisted_bytes)
        yield f"{verified.num_unlisted} objects, {size}, are listed by no manifest; `onetoken gc` tells more"
    if verified.num_scratch:
        size = in_mebibytes(verified.num_scratch_bytes)
        yield f"{verified.num_scratch} scratch objects, {size}, of runs at work or killed"
    yield (
        f"verify: {verified.num_objects} objects, {in_mebibytes(verified.num_bytes)}, {verified.num_items} "
        f"items, {verified.num_manifests} manifests, {verified.num_commits} commits: "
        + (f"{len(verified.findings)} findings" if verified.findings else "all as written")
    )


def _open_side(place: str) -> "Side":
    from pipelines.commit import load_manifest
    from pipelines.upkeep.diff import Side
    from pipelines.upkeep.inventory import read_manifest, resolve_digest

    pinned = _PINNED.fullmatch(place)
    if pinned is None:
        storage = open_storage(place)
        return Side(storage, load_manifest(storage))
    storage = open_storage(pinned["url"])
    return Side(storage, read_manifest(storage, resolve_digest(storage, pinned["digest"])))


def _diff_lines(found: "CorpusDiff") -> Iterator[str]:
    for name, (before, after) in found.fields.items():
        yield f"{name}: {before} -> {after}"
    for name, section in found.sections.items():
        if section.counts:
            counts = ", ".join(f"{number} {change}" for change, number in section.counts.items())
            yield f"{name}: {counts}"
            yield from _named_lines(section)
    yield "diff: they differ" if not found.is_empty else "diff: nothing differs"


def _named_lines(section: "Difference") -> Iterator[str]:
    for change, names in section.first.items():
        more = section.counts[change] - len(names)
        yield f"  {change} {', '.join(names)}" + (f" and {more} more" if more else "")


def _diff_values(found: "CorpusDiff") -> Mapping[str, object]:
    sections = {name: {**section.counts, "first": section.first} for name, section in found.sections.items()}
    fields = {name: {"before": before, "after": after} for name, (before, after) in found.fields.items()}
    return {"equal": found.is_empty, "fields": fields, "sections": sections}


def _collect_lines(collected: "Collected", is_dry_run: bool) -> Iterator[str]:
    if is_dry_run:
        yield from (one.path for one in collected.removed)
    num_bytes = sum(one.num_bytes for one in collected.removed)
    done = "would remove" if is_dry_run else "removed"
    yield (
        f"gc: {done} {len(collected.removed)} objects, {in_mebibytes(num_bytes)}; "
        f"kept {collected.num_kept} objects and {collected.num_manifests} manifests"
    )
    if collected.swept:
        yield f"  {len(collected.swept)} uploads and files that killed writers had begun"
    if collected.num_left:
        yield f"  {collected.num_left} objects are left for want of time; run it again"


def _collect_values(collected: "Collected", is_dry_run: bool) -> Mapping[str, object]:
    return {
        "dry_run": is_dry_run,
        "removed": [one.path for one in collected.removed],
        "removed_bytes": sum(one.num_bytes for one in collected.removed),
        "swept": list(collected.swept),
        "left": collected.num_left,
        "kept": collected.num_kept,
        "manifests": collected.num_manifests,
    }
