"""`onetoken bench sweep`: the paper's ablation as a sweep over one cache, on questions about made-up grids.

    fusion_query_right   share of held-out answers that are right with pre-fusion and one query
    query_keeps          that, less the share with pre-fusion and an average
    fusion_gain          the share with pre-fusion and an average, less that of a query without pre-fusion
    query_gain           the latter, less the share of an average without pre-fusion

Pictures, annotations and models are made, then built, trained and evaluated as a user would: `build`, then
`sweep` of four variants, one after the other on one core. A query without the question should be right about
what stands out, half of the questions, and guess at the rest: 0.58 (6 colors).

A second table, without a bound, is of other beginnings of the first variant's pre-fusion. Its `copy` takes
layers of a language model that is random itself: what those of a trained one would bring, it does not tell.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch

from infra.storage import open_storage
from jobs.bench.grid_questions import INITS, VARIANTS, GridJob, write_grid_job
from jobs.bench.result import Measured, Say
from jobs.console import Reporter
from jobs.data import STAGES, run_stages
from jobs.options import read_configuration
from jobs.sweeping import plan_sweep, run_sweep, table_lines
from pipelines.engine import SerialEngine
from schemas.errors import WorkError
from schemas.recipe import Recipe
from schemas.sweep import Outcome, SweepConfig, SweepTable

NUM_PICTURES: Final = 3000
NUM_STEPS: Final = 800


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    say("pictures, questions, models")
    num_pictures = max(40, round(NUM_PICTURES * scale))
    job = write_grid_job(folder, num_pictures, max(2, round(NUM_STEPS * scale)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        build_corpus(job)
        tables = [sweep_corpus(file) for file in (job.sweep, job.inits)]
    finally:
        torch.set_num_threads(before)
    for table in tables:
        for line in table_lines(table.rows):
            say(line)
    variants, inits = tables
    return compare(list_outcomes(variants, VARIANTS), list_outcomes(inits, INITS))


def build_corpus(job: GridJob) -> None:
    """Features of a job's pictures."""
    with Reporter() as reporter:
        recipe = read_configuration(job.recipe, Recipe)
        run_stages(STAGES, recipe, open_storage(job.corpus), SerialEngine(), reporter)


def sweep_corpus(file: Path) -> SweepTable:
    """The finished table of a sweep over a corpus that is built."""
    sweep = read_configuration(file, SweepConfig)
    with Reporter() as reporter:
        variants, table = plan_sweep(sweep, str(file))
        return run_sweep(sweep, variants, table, SerialEngine(), reporter)


def list_outcomes(table: SweepTable, wanted: Iterable[str]) -> dict[str, Outcome]:
    """What each variant came to.

    Raises:
        WorkError: one failed.
    """
    found = {row.name: row.outcome for row in table.rows if row.outcome is not None}
    if failed := set(wanted) - found.keys():
        raise WorkError(f"no figure without all variants; these failed: {', '.join(sorted(failed))}")
    return found


def compare(outcomes: dict[str, Outcome], inits: dict[str, Outcome]) -> Measured:
    """Differences between variants; what each came to, other beginnings too, among the details."""
    right = {name: one.accuracy or 0.0 for name, one in outcomes.items()}
    ratios = {
        "fusion_query_right": right["fusion and query"],
        "query_keeps": right["fusion and query"] - right["fusion and average"],
        "fusion_gain": right["fusion and average"] - right["query"],
        "query_gain": right["query"] - right["average"],
    }
    details: dict[str, float] = {}
    named = outcomes | {f"init {name}": one for name, one in inits.items()}
    for name, one in named.items():
        key = name.replace(" ", "_")
        figures = {"right": one.accuracy or 0.0, "loss": one.loss or 0.0, "hours": one.hours}
        details |= {f"{key}_{figure}": value for figure, value in figures.items()}
        details |= {f"{key}_{source}": score.right / score.asked for source, score in one.sources.items()}
    return Measured(ratios=ratios, details=details)
