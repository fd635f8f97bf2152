"""Stochastic rounding to bfloat16: up or down at random, so that small updates count on average.

A weight in bfloat16 has 8 bits: at a rate of 1e-5 nine of ten updates are smaller than half a step, and
rounding to the nearest would drop them for good. Here a number goes up with the probability of the part that
is cut off, so its expectation is itself. What is random is a function of (seed, step, parameter): a generator
is seeded anew for each, nothing of it is saved, and the global random state is neither read nor moved.
"""

import hashlib

import torch
from jaxtyping import BFloat16, Float32
from torch import Tensor

_CUT_BITS = 16
"""Bits of a float32 that bfloat16 lacks."""


def seed_of(seed: int, step: int, name: str) -> int:
    """A seed that no other (seed, step, name) shares."""
    digest = hashlib.blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generator(device: torch.device, seed: int, step: int, name: str) -> torch.Generator:
    """A generator whose stream no other (seed, step, name) shares."""
    return torch.Generator(device).manual_seed(seed_of(seed, step, name))


def round_stochastically(
    values: Float32[Tensor, "*shape"], generator: torch.Generator
) -> BFloat16[Tensor, "*shape"]:
    """One of the two neighbors of each value, the nearer one more often; expectation is the value.

    Numbers that bfloat16 holds stay what they are, and what is not finite stays so; a value beyond the
    largest number may become infinite. `values` is overwritten. Cost: 5 bytes a value beside it.
    """
    bits = values.view(torch.int32)
    noise = torch.empty_like(bits).random_(0, 1 << _CUT_BITS, generator=generator)
    # Noise on the NaN of CUDA, whose bits are all set, would carry into the sign and make it a number.
    noise.masked_fill_(~torch.isfinite(values), 0)
    bits.add_(noise).bitwise_and_(-1 << _CUT_BITS)
    return values.to(torch.bfloat16)
