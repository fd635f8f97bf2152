"""What a reducer without weights is: from one view, how much of each patch goes into each token.

Every such reducer, sampling, pooling or merging, is a matrix of weights, and its tokens are that matrix
times the patches. So one function serves all of them, a plot of where tokens come from needs nothing
else, and the properties that must hold (bounds of the count, rows that sum to one) are checked on the matrix.

A reducer sees one view and nothing of its batch: the result can be cached, and is the same bits whatever else
is computed beside it. That costs a launch per view on a GPU, microseconds against a language model's step.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, float32
from torch.nn import functional

from schemas.errors import MismatchError


@dataclass(frozen=True, slots=True)
class Focus:
    """What the encoder's next layer makes of a view: who gets the class token's attention, and all keys."""

    attention: Float[Tensor, " patches"]
    """Of the class token, each head by itself, then their mean."""
    joined_attention: Float[Tensor, " patches"]
    """Of the class token with all heads as one, as the released PruMerge computes it."""
    keys: Float[Tensor, "patches width"]
    """Of all heads, side by side."""
    num_heads: int


@dataclass(frozen=True, slots=True)
class ViewFeatures:
    """One view."""

    patches: Float[Tensor, "patches width"]
    focus: Focus | None = None
    """Needed by reducers that say so."""

    @property
    def required_focus(self) -> Focus:
        """The focus.

        Raises:
            MismatchError: there is none.
        """
        if self.focus is None:
            raise MismatchError(
                "this reducer needs class rows of the views and the attention weights of their spec; use "
                "features of an encoder with a class token"
            )
        return self.focus


class TokenBounds(NamedTuple):
    """The fewest and the most tokens that a view can have."""

    fewest: int
    most: int


@runtime_checkable
class Reducer(Protocol):
    """Chooses or mixes the patches of a view; deterministic, and without state."""

    @property
    def needs_focus(self) -> bool:
        """Whether views must come with a `Focus`."""
        ...

    def bound_tokens(self, num_patches: int) -> TokenBounds:
        """How many tokens a view of so many patches can have.

        Raises:
            ConfigError: the reducer cannot reduce such a view.
        """
        ...

    def weigh(self, view: ViewFeatures) -> Float[Tensor, "tokens patches"]:
        """How much of each patch goes into each token, in fp32.

        Raises:
            ConfigError: the reducer cannot reduce such a view.
            MismatchError: it needs a focus, and the view has none.
        """
        ...


def reduce_view(reducer: Reducer, view: ViewFeatures) -> Float[Tensor, "tokens width"]:
    """The tokens of a view, computed in fp32, in the dtype of its patches."""
    return sum_weighted(reducer.weigh(view), view.patches.to(float32)).to(view.patches.dtype)


def sum_weighted(
    weights: Float[Tensor, "tokens patches"], patches: Float[Tensor, "patches width"]
) -> Float[Tensor, "tokens width"]:
    """The product of both, each token summed over its own patches from the first to the last.

    A product of matrices divides its sums among threads for some numbers of tokens, and their last bits
    follow the number of threads. Most weights are zero, so this takes half its time, too.
    """
    tokens, places = weights.nonzero(as_tuple=True)
    sizes = weights.count_nonzero(dim=1)
    return functional.embedding_bag(
        places,
        patches,
        sizes.cumsum(dim=0) - sizes,
        mode="sum",
        per_sample_weights=weights[tokens, places],
    )
