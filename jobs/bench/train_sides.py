"""What the trainer is measured against: frames of a clip one by one, and bare calls of the library's modules.

Both compute what the model computes, on tensors that are ready: no prompt is written, nothing is laid out or
counted, and the layers are called as anybody would call them.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from operators.batch import IGNORED_LABEL, ModelBatch
from operators.view_grid import order_patches
from pipelines.train.model import OneTokenModel
from schemas.errors import WorkError


def loop_over_frames(model: OneTokenModel, batch: ModelBatch) -> Float[Tensor, ""]:
    """The summed loss of one example about one clip: each frame goes through the modules by itself."""
    if batch.frames is None or model.compressor is None or model.prefusion is None:
        raise WorkError("frames are looped over in stage 2, with pre-fusion")
    text = model.embed(batch.token_ids)[0, 1:]
    is_fused = batch.fuse_mask[0, 1:]
    compressed: list[Tensor] = []
    instructions: list[Tensor] = []
    for frame in batch.frames.to(text.dtype):
        views = frame[None]
        token: Tensor = model.projector(model.compressor(views))
        patches: Tensor = model.projector(order_patches(views))
        fused: Tensor = model.prefusion(torch.cat([patches, token, text[is_fused][None]], dim=1))[0]
        first, last = patches.shape[1], patches.shape[1] + token.shape[1]
        compressed.append(fused[first:last])
        instructions.append(fused[last:].float())
    instruction = torch.stack(instructions).mean(dim=0).to(text.dtype)
    rows = torch.cat([*compressed, instruction, text[~is_fused]])
    hidden: Tensor = model.llm.base_model(inputs_embeds=rows[None], use_cache=False).last_hidden_state
    labels = batch.labels[0][batch.labels[0] != IGNORED_LABEL]
    return _sum_losses(model, hidden[0, -len(labels) - 1 : -1], labels)


def call_modules(model: OneTokenModel, batch: ModelBatch) -> Float[Tensor, ""]:
    """The summed loss of examples of one length about one picture each, instructions first, answers last."""
    if batch.frames is None or model.compressor is None or model.prefusion is None:
        raise WorkError("modules are called in stage 2, with pre-fusion")
    text = model.embed(batch.token_ids)[:, 1:]
    views = batch.frames.to(text.dtype)
    compressed: Tensor = model.projector(model.compressor(views))
    patches: Tensor = model.projector(order_patches(views))
    num_fused = int(batch.fuse_mask[0].sum())
    parts = [patches, compressed, text[:, :num_fused]]
    fused: Tensor = model.prefusion.decoder(
        inputs_embeds=torch.cat(parts, dim=1), use_cache=False
    ).last_hidden_state
    rows = torch.cat([fused[:, patches.shape[1] :], text[:, num_fused:]], dim=1)
    hidden: Tensor = model.llm.base_model(inputs_embeds=rows, use_cache=False).last_hidden_state
    num_labels = int((batch.labels[0] != IGNORED_LABEL).sum())
    learned = hidden[:, -num_labels - 1 : -1].flatten(0, 1)
    return _sum_losses(model, learned, batch.labels[:, -num_labels:].flatten())


def _sum_losses(model: OneTokenModel, hidden: Tensor, labels: Tensor) -> Tensor:
    logits: Tensor = model.head(hidden)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")
