"""What a training run will hold in memory, in words and values, and the refusal of one that cannot fit.

Planned is the largest step that the run can meet (`jobs.planning_bounds`), on one worker of those that divide
the model. Features are counted as those of the configuration's corpus, or as ViT-L/14-336 gives them where
there is none yet. Where the run has left reports below its `out`, what was measured stands beside the plan.
Seconds of a step are planned for a stated GPU alone, by FLOPs of the largest one.
"""

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from jobs.planning_bounds import Bounder, Known
from jobs.training_data import TrainingData, open_training_data
from schemas.cluster import ClusterSpec
from schemas.errors import PipelineError
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from pipelines.train.metrics import StepReport
    from pipelines.train.predict import Footprint
    from pipelines.train.step_shape import StepShape


def plan_training(
    config: TrainConfig,
    num_tokens: int | None = None,
    cluster: ClusterSpec | None = None,
    num_workers: int = 1,
) -> tuple[list[str], dict[str, object]]:
    """The plan in words and as plain values.

    Args:
        config: of the run.
        num_tokens: text tokens of a usual example; None: as many as there can be.
        cluster: whose GPUs take the steps.
        num_workers: that divide the model.

    Raises:
        ConfigError: a worker needs more than `memory.limit`; it names what would fit. Or the model cannot be
            divided among several.
    """
    from pipelines.train.advice import refuse
    from pipelines.train.known_llms import find_llm_config
    from pipelines.train.largest import list_largest_steps, shape_features
    from pipelines.train.metrics import read_reports
    from pipelines.train.predict import predict_largest

    llm, data = find_llm_config(config.model.llm), find_data(config)
    spec = None if data is None else data.spec
    context: int | None = getattr(llm, "max_position_embeddings", None)
    bounder = Bounder(data, num_tokens)

    def plan(planned: TrainConfig) -> "tuple[StepShape, Footprint]":
        bounds = bounder.bound(planned).bounds
        steps = list_largest_steps(planned, bounds, shape_features(planned, spec), context)
        return predict_largest(llm, planned, steps, num_workers)

    step, footprint = plan(config)
    limit = config.memory.limit
    if limit is not None and footprint.peak > limit:

        def fits(changed: TrainConfig) -> bool:
            # What is always there stays as it is under the same optimizer: no step need be taken.
            if changed.optimizer == config.optimizer and footprint.weights + footprint.optimizer > limit:
                return False
            return plan(changed)[1].peak <= limit

        raise refuse(config, limit, footprint.peak, fits, num_workers)
    known, reports = bounder.bound(config), read_reports(Path(config.out))
    planned_s = None if cluster is None else plan_step_s(config, step, cluster)
    lines = [
        *step_lines(step, known, has_corpus=data is not None),
        *memory_lines(footprint, num_workers),
        *measured_lines(reports, planned_s),
        peak_line(footprint, limit, num_workers),
    ]
    return lines, {
        **footprint_values(footprint, limit, num_workers),
        **step_values(step, known),
        "step_s": planned_s,
        "actual": measured_values(reports),
    }


def find_data(config: TrainConfig) -> TrainingData | None:
    """The corpus that a configuration means; None: it has no such features, or cannot be reached."""
    try:
        return open_training_data(config)
    except PipelineError:
        return None


def step_lines(step: "StepShape", known: Known, *, has_corpus: bool) -> list[str]:
    """The largest step, and where its size is known from."""
    return [
        f"  micro-batch  {step.num_examples} examples of {step.num_tokens} text tokens, "
        f"{step.num_frames} frames of {step.views_per_frame} views of {step.num_patches} x "
        f"{step.encoder_width}" + ("" if has_corpus else ", as ViT-L/14-336 gives them: no corpus yet"),
        *(f"  counted      {one}" for one in known.counted),
        *(f"  assumed      {one}" for one in known.assumed),
    ]


def step_values(step: "StepShape", known: Known) -> dict[str, object]:
    """The same as plain values."""
    return {
        "examples": step.num_examples,
        "tokens": step.num_tokens,
        "instruction": step.longest_instruction,
        "frames": step.num_frames,
        "views": step.views_per_frame,
        "patches": step.num_patches,
        "counted": list(known.counted),
        "assumed": list(known.assumed),
    }


def memory_lines(footprint: "Footprint", num_workers: int) -> list[str]:
    """What takes the memory of a worker."""
    from pipelines.train.advice import in_gib

    lines = [
        f"  weights      {in_gib(footprint.weights)}",
        f"  optimizer    {in_gib(footprint.optimizer)}",
        f"  passing      {in_gib(footprint.passing)}: gradients, activations, work",
    ]
    if num_workers > 1:
        lines.append(
            f"  at the start {in_gib(footprint.whole)} of its machine's memory a worker, before weights are "
            "divided"
        )
    return lines


def peak_line(footprint: "Footprint", limit: int | None, num_workers: int) -> str:
    """The peak, and what comes on top of it."""
    from pipelines.train.advice import in_gib

    whose = f" on each of {num_workers} workers" if num_workers > 1 else ""
    bound = f" of {in_gib(limit)}" if limit else ""
    ahead = "" if num_workers == 1 else "; an estimate, as layers may be gathered ahead of their use"
    return f"peak {in_gib(footprint.peak)}{bound}{whose}, and 1 to 1.5 GiB that CUDA takes for itself{ahead}"


def footprint_values(footprint: "Footprint", limit: int | None, num_workers: int) -> dict[str, object]:
    """Bytes, as plain values."""
    return {
        "weights": footprint.weights,
        "optimizer": footprint.optimizer,
        "passing": footprint.passing,
        "peak": footprint.peak,
        "limit": limit,
        "workers": num_workers,
        "whole": footprint.whole,
    }


def plan_step_s(config: TrainConfig, step: "StepShape", cluster: ClusterSpec) -> float:
    """Seconds of an optimizer step of such micro-batches on all GPUs of a cluster together.

    Counted is what is computed, what is recomputed in the backward pass included.
    """
    from pipelines.analyze.build_plan import TERA
    from pipelines.sweep.costs import count_step_flops
    from pipelines.train.known_llms import find_llm_config

    flops = config.data.units_per_step * count_step_flops(find_llm_config(config.model.llm), config, step)
    return flops / (max(1, cluster.num_gpus) * cluster.gpu_tflops * TERA * cluster.training_share)


def measured_lines(reports: "list[StepReport]", planned_s: float | None) -> list[str]:
    """What the logged steps of a run say; nothing before it has begun."""
    from pipelines.train.advice import in_gib

    if not reports:
        return [] if planned_s is None else [f"  a step       {planned_s:,.3f} s at most"]
    measured_s = mean(report.step_s for report in reports)
    planned = "unknown; name the GPUs with --cluster" if planned_s is None else f"at most {planned_s:,.3f} s"
    return [
        f"  measured     {in_gib(max(report.memory_bytes for report in reports))} in {len(reports)} logged "
        "steps: of tensors on a GPU, of the whole process on a CPU",
        f"  a step       {measured_s:,.3f} s on average; planned: {planned}",
    ]


def measured_values(reports: "list[StepReport]") -> dict[str, object] | None:
    """The same as plain values; None before the run has begun."""
    if not reports:
        return None
    return {
        "logged_steps": len(reports),
        "memory_bytes": max(report.memory_bytes for report in reports),
        "step_s": mean(report.step_s for report in reports),
    }
