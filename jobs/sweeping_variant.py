"""One run of a sweep, wherever an engine puts it: training, evaluation on held-out shards, costs."""

import gc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobs.console import Reporter
from jobs.planning_bounds import Bounder
from jobs.training import run_training
from jobs.training_data import TrainingData, read_spec
from schemas.errors import MismatchError
from schemas.sweep import Outcome, SourceScore, Variant

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pipelines.evaluate.by_source import SourceResult
    from pipelines.train.metrics import StepReport

LOG_NAME: Final = "log.txt"


def train_variant(variant: Variant) -> Outcome:
    """Train from the last checkpoint there is, evaluate, and say what came of it.

    Raises:
        MismatchError: the corpus has changed since the sweep was planned.
        PipelineError: what training and evaluation raise.
    """
    from infra.storage import open_storage
    from pipelines.commit import load_manifest, load_pinned_manifest
    from pipelines.evaluate.by_source import add_up, evaluate_sources
    from pipelines.sweep.costs import estimate_costs
    from pipelines.train.checkpoint import open_checkpoint
    from pipelines.train.metrics import read_reports
    from pipelines.train.shape import count_frame_tokens

    config, out = variant.config, Path(variant.config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOG_NAME).open("a", encoding="utf-8") as log, _after_others():
        reporter = Reporter(log)
        storage = open_storage(config.corpus)
        _check_manifest(variant, load_manifest(storage).digest)
        trained = run_training(config, reporter, resume=True)
        checkpoint = open_checkpoint(trained.checkpoint)
        _check_manifest(variant, checkpoint.state.identity.manifest_sha256)
        manifest = load_pinned_manifest(storage, variant.manifest_sha256)
        found = evaluate_sources(storage, manifest, variant.spec, checkpoint, variant.held_out, reporter)
        spec = read_spec(storage, manifest, variant.spec)
        bounds = Bounder(TrainingData(storage, manifest, spec)).bound(config).bounds
        costs = estimate_costs(config, spec, bounds)
    whole = add_up(found.values())
    measured_bytes, hours = _measure(read_reports(out), trained.num_steps)
    return Outcome(
        steps=trained.num_steps,
        train_loss=trained.last_loss,
        loss=whole.loss,
        accuracy=whole.accuracy,
        sources=_score(found),
        vision_tokens=count_frame_tokens(config, spec),
        flops=costs.flops,
        predicted_bytes=costs.peak_bytes,
        measured_bytes=measured_bytes,
        hours=hours,
        checkpoint=str(checkpoint.folder) if variant.keep_checkpoint else None,
    )


def _check_manifest(variant: Variant, found: str) -> None:
    if found != variant.manifest_sha256:
        raise MismatchError(
            f"the sweep was planned over manifest {variant.manifest_sha256[:16]} of {variant.config.corpus}, "
            f"and this run meets {found[:16]}; run the sweep again with another `out`"
        )


@contextmanager
def _after_others() -> "Generator[None]":
    """A worker trains one run after the other: memory and threads are as if this were the first."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _measure(reports: "Sequence[StepReport]", num_steps: int) -> tuple[int, float]:
    """The most memory of the logged steps, and the hours of all steps at their mean time."""
    mean_s = sum(report.step_s for report in reports) / len(reports)
    return max(report.memory_bytes for report in reports), num_steps * mean_s / 3600


def _score(found: "dict[str, SourceResult]") -> dict[str, SourceScore]:
    return {
        name: SourceScore(
            examples=one.num_examples,
            labels=one.num_labels,
            loss=one.loss,
            asked=one.num_asked,
            right=one.num_right,
        )
        for name, one in found.items()
    }
