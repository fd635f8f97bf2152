"""One page about a corpus: gathered from its tables, written by a template, complete in itself.

The page asks for nothing: pictures are data URLs, charts are drawn in place, there is no script, and its own
content policy forbids all of that besides. So it opens from a disk, an artifact store or a mail, and what a
hostile annotation says can at most be read. Every text of strangers passes `make_visible` and the template's
escaping. Its size is bounded by what is shown, not by the corpus: some 21 items, three records a code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import jinja2

from infra.storage import Storage
from pipelines.engine import Progress, no_progress
from pipelines.report.distributions import (
    Distributions,
    SourceShare,
    measure_distributions,
    measure_shares,
)
from pipelines.report.facts import Cache, Saved, Totals, list_caches, measure_saved, sum_sources
from pipelines.report.histogram import Histogram
from pipelines.report.items import ItemShower, ShownItem
from pipelines.report.rejects import RejectedBy, collect_feature_rejects, collect_rejects
from pipelines.report.token_lengths import PromptLengths, list_prompt_lengths, measure_token_lengths
from pipelines.report.visible import make_bytes_visible, make_visible
from schemas.corpus import Manifest
from schemas.sweep import SweepTable

TEMPLATE: Final = "page.html.j2"
MAX_CODES: Final = 200
"""Groups of rejects that are shown; what is left out is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReport:
    """Everything that the page tells."""

    url: str
    manifest: Manifest
    totals: Totals
    saved: Saved
    rejects: tuple[RejectedBy, ...]
    caches: tuple[Cache, ...]
    shares: tuple[SourceShare, ...]
    """Of the newest cache."""
    distributions: Distributions
    prompts: tuple[PromptLengths, ...]
    """As training counted them."""
    tokens: Histogram | None
    tokenizer: str | None
    items: tuple[ShownItem, ...]
    sweeps: tuple[SweepTable, ...] = ()


def gather_report(
    storage: Storage,
    manifest: Manifest,
    tokenizer: str | None = None,
    progress: Progress = no_progress,
    sweeps: Sequence[SweepTable] = (),
) -> CorpusReport:
    """Read what the page tells; tables of sweeps over the corpus are shown as they are.

    Raises:
        NotFoundError: when there is no such tokenizer.
        CorruptError: when something stored is damaged.
        MismatchError: when the newest cache was written by a codec that is unknown here.
    """
    caches = list_caches(storage, manifest)
    rejects = collect_rejects(storage, manifest)
    for cache in caches:
        rejects += collect_feature_rejects(cache.spec, cache.features)
    return CorpusReport(
        url=storage.url,
        manifest=manifest,
        totals=sum_sources(manifest),
        saved=measure_saved(manifest),
        rejects=tuple(rejects),
        caches=tuple(caches),
        shares=tuple(measure_shares(storage, manifest, caches[0].features)) if caches else (),
        distributions=measure_distributions(storage, manifest, progress),
        prompts=tuple(list_prompt_lengths(storage, manifest)),
        tokens=measure_token_lengths(storage, manifest, tokenizer) if tokenizer else None,
        tokenizer=tokenizer,
        items=tuple(ItemShower(storage, manifest).show_items()),
        sweeps=tuple(sweeps),
    )


def render_page(report: CorpusReport) -> bytes:
    """The page, in UTF-8."""
    template = open_environment().get_template(TEMPLATE)
    shown, left_out = report.rejects[:MAX_CODES], report.rejects[MAX_CODES:]
    return template.render(report=report, rejects=shown, num_groups_left_out=len(left_out)).encode()


def open_environment() -> jinja2.Environment:
    """The templates of this package: those of HTML escape, and a name that one misspells is an error."""
    folder = files("pipelines.report")
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader,
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters.update(
        {
            "visible": make_visible,
            "visible_bytes": make_bytes_visible,
            "count": "{:,}".format,
            "size": format_size,
        }
    )
    return environment


def format_size(num_bytes: int) -> str:
    """A size for people, three digits and a unit."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.4g} TiB"
