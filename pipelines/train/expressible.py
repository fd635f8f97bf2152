"""What the layouts of LLaVA-Mini and LLaVA-1.5 cannot say of a model.

Their code knows Llama's layers, all patches of a CLIP tower, and either the query compressor with positions
of its own grid or nothing in its place. A model that differs would load there without a word and compute
something else, so it is not exported. Left out: the width of the released compressor, 1024; weights of
another one are exported, and are refused there when they are loaded.
"""

from transformers import PretrainedConfig

from operators.compressor import Compressor
from pipelines.train.model import OneTokenModel
from schemas.errors import MismatchError
from schemas.feature import FeatureSpec


def check_expressible(model: OneTokenModel, spec: FeatureSpec) -> None:
    """Refuse a model that the published code would compute otherwise.

    Raises:
        MismatchError: saying what cannot be said, and what could be.
    """
    obstacle = _of_language_model(model.llm.config) or _of_vision(model, spec)
    if obstacle is not None:
        raise MismatchError(
            f"the published layout cannot say {obstacle}; or keep the checkpoint, which `generate`, "
            "`evaluate` and `start_from` read"
        )


def _of_language_model(config: PretrainedConfig) -> str | None:
    kind = str(config.model_type)
    if kind != "llama":
        return (
            f"`model.llm` of the kind {kind}: its code builds Llama's layers alone, without what others have "
            "beside them (biases of q, k and v, norms of heads, windows); train a Llama (Vicuna, Llama 2 or "
            "3, TinyLlama)"
        )
    width, heads, head_width = config.hidden_size, config.num_attention_heads, config.head_dim
    if width != heads * head_width:
        return (
            f"that {heads} heads of {head_width} read a width of {width}, which they do not divide; train "
            "a `model.llm` whose heads do"
        )
    return None


def _of_vision(model: OneTokenModel, spec: FeatureSpec) -> str | None:
    name = model.shape.reducer.name
    if spec.reducer != "none":
        return (
            f"that {spec.reducer.name} reduced the features before they were cached; train from a cache of "
            "all patches"
        )
    if isinstance(model.compressor, Compressor):
        if model.compressor.positions == "published":
            return None
        return (
            f"`model.positions: {model.compressor.positions}`: patches have the places of the queries' grid "
            "there; train with `positions: published`"
        )
    if name != "all" and not (model.stage == 1 and name == "query"):
        return (
            f"`model.reducer: {name}`; train with `query` (LLaVA-Mini), or with `all` and without pre-fusion "
            "(LLaVA-1.5)"
        )
    if model.prefusion is not None:
        return (
            f"pre-fusion beside `model.reducer: {name}`; train with `query` (LLaVA-Mini), or with "
            "`prefusion: {layers: 0}` (LLaVA-1.5)"
        )
    return None
