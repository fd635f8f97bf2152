"""Whether a batch is as short as the language model, and pre-fusion of its kind, were made to read.

Beyond that positions mean nothing and answers are noise, without an error. A run's examples are checked
before its first step; here what a trained model is asked is checked, before anything is fused. A language
model that states no limit has none.
"""

from operators.batch import ModelBatch
from pipelines.train.model import OneTokenModel
from schemas.errors import ConfigError

WAY_OUT = (
    "ask about fewer frames, leave fewer tokens of each (`--reducer`), or want a shorter answer "
    "(`--max-new-tokens`)"
)


def check_room(model: OneTokenModel, batch: ModelBatch, num_new_tokens: int = 0) -> None:
    """Refuse a batch with an example that is too long, `num_new_tokens` of an answer among it.

    Raises:
        ConfigError: naming the example.
    """
    limit: int | None = getattr(model.llm.config, "max_position_embeddings", None)
    if limit is None:
        return
    layout = model.lay_out(batch, batch.frames)
    longest, example_id = max(zip(layout.sequence.lengths, batch.example_ids, strict=True))
    if longest + num_new_tokens > limit:
        answer = f", and its answer up to {num_new_tokens}" if num_new_tokens else ""
        raise ConfigError(
            f"{example_id} takes {longest} tokens, those of its media among them{answer}, and the language "
            f"model reads {limit}; {WAY_OUT}"
        )
    if layout.fusion is None or batch.frames is None:
        return
    num_views, num_patches = batch.frames.shape[1:3]
    num_fixed = num_views * num_patches
    if model.compressor is not None or model.pooling is not None:
        num_fixed += model.count_frame_tokens(num_views, num_patches)
    num_fused = num_fixed + layout.fusion.places.shape[1]
    if num_fused > limit:
        raise ConfigError(
            f"pre-fusion reads {num_fused} tokens, {num_fixed} of a frame and the others of the longest "
            f"instruction among {', '.join(batch.example_ids)}, and its layers {limit}; ask in fewer words"
        )
