"""What the plan of a recipe takes for granted: neither the recipe nor a corpus nor this machine tells it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from schemas.cluster import ClusterSpec
from schemas.recipe import Recipe

if TYPE_CHECKING:
    from pipelines.analyze.build_plan import TrainedModel
    from pipelines.analyze.encoder_shape import FoundShape


def list_assumptions(
    recipe: Recipe,
    model: "TrainedModel",
    cluster: ClusterSpec,
    found: "FoundShape",
    *,
    has_cluster: bool,
    has_seconds: bool,
) -> Iterator[str]:
    """One sentence for each.

    Args:
        recipe: that is planned.
        model: that is trained from it.
        cluster: that works.
        found: the encoder's shape.
        has_cluster: the cluster was described.
        has_seconds: lengths of clips are stated.
    """
    from pipelines.analyze.build_plan import BACKWARD, PASSES

    views = "1 view" if model.views_per_frame == 1 else f"{model.views_per_frame} views"
    yield (
        f"{model.llm.name} is trained with {model.prefusion_layers} pre-fusion layers, C={model.grid}, "
        f"{views} a picture, {model.text_tokens} text tokens and at most one medium an example"
    )
    yield (
        f"stage 1 passes {PASSES[1]} time over all examples and stage 2 {PASSES[2]} times; a step takes "
        f"{BACKWARD[1]:g} and {BACKWARD[2]:g} times its forward pass: no layer is recomputed"
    )
    yield (
        f"{'' if has_cluster else 'one A100, for want of --cluster: '}{cluster.gpu_tflops:g} TFLOPS a GPU, "
        f"of which training reaches {cluster.training_share:.0%} and the encoder "
        f"{cluster.encoding_share:.0%}; {cluster.network_gb_s:g} GB/s a machine"
    )
    if found.is_assumed:
        yield f"{recipe.encoder.model} is as large as ViT-L/14 at 336 pixels"
    if not has_seconds:
        yield f"clips, whose lengths are not stated, have {recipe.views.video.fps or 1.0:g} views a second"
