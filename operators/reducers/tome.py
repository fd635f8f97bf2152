"""ToMe: bipartite soft matching, repeated until as many tokens are left as are asked for.

Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3. One step splits the tokens by turns into
two sets, links each of the first to its most similar of the second (cosine of the keys' mean over heads),
merges along the r most similar links, and gives a merged token the mean over all its patches.

The paper merges a few tokens in every layer of the encoder. Here the encoder has run: the steps follow each
other on its output, each merging up to half of the tokens, and a merged token's key is the mean of its
patches' keys. Tokens stand in the order of their first patch. Cost: two products of matrices as large as the
number of tokens squared for each step, about 10 ms a view of 576 patches on one core.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from operators.reducers.interface import Focus, TokenBounds, ViewFeatures
from operators.reducers.sampling import require_enough


@dataclass(frozen=True, slots=True, kw_only=True)
class ToMe:
    """Merges the most similar patches, pair by pair."""

    num_tokens: int
    needs_focus: bool = True

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """As many as are asked for.

        Raises:
            ConfigError: a view has fewer patches.
        """
        require_enough(self.num_tokens, num_patches)
        return TokenBounds(self.num_tokens, self.num_tokens)

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """The same weight for all patches of a token."""
        keys = _average_heads(view.required_focus)
        require_enough(self.num_tokens, keys.shape[0])
        members = torch.eye(keys.shape[0], device=keys.device)
        while members.shape[0] > self.num_tokens:
            members = merge_once(members, keys, members.shape[0] - self.num_tokens)
        order = members.argmax(dim=1).argsort()
        return average_members(members)[order]


def merge_once(
    members: Float[Tensor, "tokens patches"], keys: Float[Tensor, "patches width"], most: int
) -> Float[Tensor, "fewer patches"]:
    """One step that merges up to `most` tokens; `members` says with 1 which patches a token holds.

    The second set stands behind what is left of the first, as in the paper.
    """
    directions = functional.normalize(average_members(members) @ keys, dim=1)
    first, second = members[::2], members[1::2]
    best, partners = (directions[::2] @ directions[1::2].T).max(dim=1)
    order = best.argsort(descending=True, stable=True)
    merged, left = order[:most], order[most:].sort().values
    joins = functional.one_hot(partners[merged], second.shape[0]).to(members.dtype)
    return torch.cat([first[left], second + joins.T @ first[merged]])


def average_members(members: Float[Tensor, "tokens patches"]) -> Float[Tensor, "tokens patches"]:
    """The same weight for each patch of a token."""
    return members / members.sum(dim=1, keepdim=True)


def _average_heads(focus: Focus) -> Float[Tensor, "patches head_width"]:
    return focus.keys.float().reshape(focus.keys.shape[0], focus.num_heads, -1).mean(dim=1)
