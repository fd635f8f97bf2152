"""`onetoken bench sweep`: the paper's ablation as a sweep over one cache, on questions about made-up grids.

    fusion_query_right   share of held-out answers that are right with pre-fusion and one query
    query_keeps          that, less the share with pre-fusion and an average
    fusion_gain          the share with pre-fusion and an average, less that of a query without pre-fusion
    query_gain           the latter, less the share of an average without pre-fusion

Pictures, annotations and models are made, then built, trained and evaluated as a user would: `build`, then
`sweep` of four variants, one after the other on one core. A query without the question should be right about
what stands out, half of the questions, and guess at the rest: 0.58 (6 colors).
"""

from pathlib import Path
from typing import Final

import torch

from infra.storage import open_storage
from jobs.bench.grid_questions import VARIANTS, GridJob, write_grid_job
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
        table = build_and_sweep(job)
    finally:
        torch.set_num_threads(before)
    for line in table_lines(table.rows):
        say(line)
    return compare(list_outcomes(table))


def build_and_sweep(job: GridJob) -> SweepTable:
    """The finished table of a job's sweep."""
    recipe = read_configuration(job.recipe, Recipe)
    sweep = read_configuration(job.sweep, SweepConfig)
    engine = SerialEngine()
    with Reporter() as reporter:
        run_stages(STAGES, recipe, open_storage(job.corpus), engine, reporter)
        variants, table = plan_sweep(sweep, str(job.sweep))
        return run_sweep(sweep, variants, table, engine, reporter)


def list_outcomes(table: SweepTable) -> dict[str, Outcome]:
    """What each variant came to.

    Raises:
        WorkError: one failed.
    """
    found = {row.name: row.outcome for row in table.rows if row.outcome is not None}
    if failed := VARIANTS.keys() - found.keys():
        raise WorkError(f"no figure without all variants; these failed: {', '.join(sorted(failed))}")
    return found


def compare(outcomes: dict[str, Outcome]) -> Measured:
    """Differences between variants; by variant and source among the details."""
    right = {name: one.accuracy or 0.0 for name, one in outcomes.items()}
    ratios = {
        "fusion_query_right": right["fusion and query"],
        "query_keeps": right["fusion and query"] - right["fusion and average"],
        "fusion_gain": right["fusion and average"] - right["query"],
        "query_gain": right["query"] - right["average"],
    }
    details: dict[str, float] = {}
    for name, one in outcomes.items():
        key = name.replace(" ", "_")
        details |= {f"{key}_right": right[name], f"{key}_loss": one.loss or 0.0, f"{key}_hours": one.hours}
        details |= {f"{key}_{source}": score.right / score.asked for source, score in one.sources.items()}
    return Measured(ratios=ratios, details=details)
