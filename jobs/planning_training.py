"""What a training run will hold in memory, in words and values, and the refusal of one that cannot fit."""

from schemas.training import TrainConfig


def plan_training(config: TrainConfig, num_tokens: int | None = None) -> tuple[list[str], dict[str, object]]:
    """The plan in words and as plain values.

    Raises:
        ConfigError: the run needs more than `memory.limit`; it names what would fit.
    """
    from pipelines.train.advice import in_gib, refuse
    from pipelines.train.known_llms import find_llm_config
    from pipelines.train.predict import largest_step, predict

    llm = find_llm_config(config.model.llm)
    step = largest_step(config, num_tokens)
    footprint = predict(llm, config, step)
    limit = config.memory.limit
    if limit is not None and footprint.peak > limit:

        def fits(changed: TrainConfig) -> bool:
            return predict(llm, changed, largest_step(changed, num_tokens)).peak <= limit

        raise refuse(config, limit, footprint.peak, fits)
    lines = [
        f"  micro-batch  {step.num_examples} examples of {step.num_tokens} text tokens, "
        f"{step.num_frames} frames of {step.views_per_frame} views",
        f"  weights      {in_gib(footprint.weights)}",
        f"  optimizer    {in_gib(footprint.optimizer)}",
        f"  passing      {in_gib(footprint.passing)}: gradients, activations, work",
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
    }
    return lines, values
