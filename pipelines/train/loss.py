"""Cross-entropy of the learned tokens only, a block of rows at a time, in fp32 at least.

With a vocabulary of 128k, logits of all rows of a batch cost more memory than the activations; the rows that
are learned are a tenth of them. Blocks are recomputed in the backward pass, so one block of logits exists at
a time.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from pipelines.train.recompute import recompute


def token_losses(
    head: nn.Module,
    hidden: Float[Tensor, "rows width"],
    targets: Int64[Tensor, " rows"],
    rows_per_chunk: int,
) -> Float[Tensor, " rows"]:
    """The loss of each row's prediction by `head` against its target, in fp32 at least."""

    def losses_of(
        block: Float[Tensor, "block width"], block_targets: Int64[Tensor, " block"]
    ) -> Float[Tensor, " block"]:
        logits: Tensor = head(block)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(precise, block_targets, reduction="none")

    if hidden.shape[0] <= rows_per_chunk:
        return losses_of(hidden, targets)
    blocks = [
        recompute(losses_of, hidden[first : first + rows_per_chunk], targets[first : first + rows_per_chunk])
        for first in range(0, hidden.shape[0], rows_per_chunk)
    ]
    return torch.cat(blocks)
