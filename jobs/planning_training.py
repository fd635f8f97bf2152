"""What a training run will hold in memory, in words and values, and the refusal of one that cannot fit.

Features are counted as those of the configuration's corpus, or as ViT-L/14-336 gives them where there is none
yet. Where the run has left reports below its `out`, what was measured stands beside the plan. Seconds of a
step are planned for a stated GPU alone, by FLOPs of the largest one.
"""

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from jobs.training_data import open_training_data
from schemas.cluster import ClusterSpec
from schemas.errors import PipelineError
from schemas.feature import FeatureSpec
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from pipelines.train.metrics import StepReport
    from pipelines.train.predict import StepShape


def plan_training(
    config: TrainConfig, num_tokens: int | None = None, cluster: ClusterSpec | None = None
) -> tuple[list[str], dict[str, object]]:
    """The plan in words and as plain values.

    Raises:
        ConfigError: the run needs more than `memory.limit`; it names what would fit.
    """
    from pipelines.train.advice import in_gib, refuse
    from pipelines.train.known_llms import find_llm_config
    from pipelines.train.metrics import read_reports
    from pipelines.train.predict import predict

    llm, spec = find_llm_config(config.model.llm), find_spec(config)
    step = shape_largest(config, spec, num_tokens)
    footprint = predict(llm, config, step)
    limit = config.memory.limit
    if limit is not None and footprint.peak > limit:

        def fits(changed: TrainConfig) -> bool:
            return predict(llm, changed, shape_largest(changed, spec, num_tokens)).peak <= limit

        raise refuse(config, limit, footprint.peak, fits)
    planned_s = None if cluster is None else plan_step_s(config, step, cluster)
    reports = read_reports(Path(config.out))
    lines = [
        f"  micro-batch  {step.num_examples} examples of {step.num_tokens} text tokens, "
        f"{step.num_frames} frames of {step.views_per_frame} views of {step.num_patches} x "
        f"{step.encoder_width}" + ("" if spec else ", as ViT-L/14-336 gives them: no corpus yet"),
        f"  weights      {in_gib(footprint.weights)}",
        f"  optimizer    {in_gib(footprint.optimizer)}",
        f"  passing      {in_gib(footprint.passing)}: gradients, activations, work",
        *measured_lines(reports, planned_s),
        f"peak {in_gib(footprint.peak)}"
        + (f" of {in_gib(limit)}" if limit else "")
        + ", and 1 to 1.5 GiB that CUDA takes for itself",
    ]
    values: dict[str, object] = {
        "weights": footprint.weights,
        "optimizer": footprint.optimizer,
        "passing": footprint.passing,
        "peak": footprint.peak,
        "limit": limit,
        "examples": step.num_examples,
        "tokens": step.num_tokens,
        "patches": step.num_patches,
        "step_s": planned_s,
        "actual": measured_values(reports),
    }
    return lines, values


def find_spec(config: TrainConfig) -> FeatureSpec | None:
    """Of the features that the configuration means; None: they are not there, or cannot be reached."""
    try:
        return open_training_data(config).spec
    except PipelineError:
        return None


def shape_largest(config: TrainConfig, spec: FeatureSpec | None, num_tokens: int | None) -> "StepShape":
    """The largest micro-batch, or one of usual texts."""
    from pipelines.sweep.costs import shape_step
    from pipelines.train.predict import largest_step

    return largest_step(config, num_tokens) if spec is None else shape_step(config, spec, num_tokens)


def plan_step_s(config: TrainConfig, step: "StepShape", cluster: ClusterSpec) -> float:
    """Seconds of an optimizer step of such micro-batches on all GPUs of a cluster together."""
    from pipelines.analyze.build_plan import BACKWARD, TERA
    from pipelines.sweep.costs import count_flops
    from pipelines.train.known_llms import find_llm_config

    forward = count_flops(find_llm_config(config.model.llm), config, step)
    flops = config.data.units_per_step * BACKWARD[config.stage] * forward
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
