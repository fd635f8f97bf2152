"""`onetoken bench reduce`: PruMerge in matrices against loops over tokens; how small reduced caches are.

Sixteen views of 576 x 1024 whose class attention has outliers, as a trained encoder's has. Two loops go
through the kept tokens in Python: one over every key, too, the paper's algorithm 1 as it reads; one holds a
token against all keys in a call, the best that a loop over tokens can be. All see the same views, take turns,
and agree; one core. What reducers leave of a cache is `reduced_sizes`' matter.
"""

import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from jobs.bench.reduced_sizes import NUM_VIEWS as NUM_VIEWS_OF_A_KIND
from jobs.bench.reduced_sizes import measure_sizes
from jobs.bench.result import Measured, Say
from operators.reducers import Focus, ViewFeatures, build_reducer, reduce_view
from schemas.reducer import ReducerConfig

NUM_VIEWS: Final = 16
NUM_PATCHES: Final = 576
WIDTH: Final = 1024
NEIGHBORS: Final = 32
NUM_ROUNDS: Final = 3


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`; nothing is written to the folder."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        views = [draw_view(seed) for seed in range(max(1, round(NUM_VIEWS * scale)))]
        say(f"PruMerge of {len(views)} views")
        fast, over_tokens, over_keys = _take_turns(views, NUM_ROUNDS)
        sizes, tokens = measure_sizes(say, max(1, round(NUM_VIEWS_OF_A_KIND * scale)))
    finally:
        torch.set_num_threads(before)
    kept = [len(reduce_view(_REDUCER, view)) for view in views]
    details = {
        "matrices_ms": 1000 * fast / len(views),
        "token_loop_ms": 1000 * over_tokens / len(views),
        "key_loop_ms": 1000 * over_keys / len(views),
        "vs_token_loop": over_tokens / fast,
        "tokens": sum(kept) / len(kept),
    }
    return Measured(ratios={"prumerge_vs_loop": over_keys / fast} | sizes, details=details | tokens)


def draw_view(seed: int, num_patches: int = NUM_PATCHES, width: int = WIDTH) -> ViewFeatures:
    """Random patches and keys; attention spread log-normally, so that some 30 of 576 stand out."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.softmax(torch.randn(num_patches, generator=generator), dim=0)
    keys = torch.randn(num_patches, width, generator=generator)
    patches = torch.randn(num_patches, width, generator=generator)
    return ViewFeatures(patches, Focus(attention, attention, keys, 16))


def loop_over_tokens(view: ViewFeatures, neighbors: int = NEIGHBORS) -> Float[Tensor, "tokens width"]:
    """The same as the reducer `prumerge`, token by token; each is held against all others at once."""
    attention, keys, patches = view.required_focus.attention, view.required_focus.keys, view.patches
    directions = functional.normalize(keys, dim=1)
    tokens: list[Tensor] = []
    for place in _list_kept(attention):
        likeness = directions @ directions[place]
        likeness[place] = -torch.inf
        nearest = likeness.topk(neighbors).indices
        total = attention[place] * patches[place] + attention[nearest] @ patches[nearest]
        tokens.append(total / (attention[place] + attention[nearest].sum()))
    return torch.stack(tokens)


def loop_over_keys(view: ViewFeatures, neighbors: int = NEIGHBORS) -> Float[Tensor, "tokens width"]:
    """The same, token by token and key by key."""
    attention, keys = view.required_focus.attention, view.required_focus.keys
    tokens: list[Tensor] = []
    for place in _list_kept(attention):
        others = [other for other in range(len(keys)) if other != place]
        likeness = {
            other: float(functional.cosine_similarity(keys[place], keys[other], dim=0)) for other in others
        }
        nearest = sorted(others, key=lambda other: -likeness[other])[:neighbors]
        total, weight = attention[place] * view.patches[place], attention[place]
        for other in nearest:
            total = total + attention[other] * view.patches[other]
            weight = weight + attention[other]
        tokens.append(total / weight)
    return torch.stack(tokens)


def _list_kept(attention: Float[Tensor, " patches"]) -> list[int]:
    low, high = (float(torch.quantile(attention, share)) for share in (0.25, 0.75))
    kept = [place for place in range(len(attention)) if float(attention[place]) > high + 1.5 * (high - low)]
    return kept or [int(attention.argmax())]


_REDUCER: Final = build_reducer(ReducerConfig(name="prumerge", neighbors=NEIGHBORS))


def _take_turns(views: list[ViewFeatures], num_rounds: int) -> list[float]:
    """CPU seconds of all three, medians; the loop over keys, a minute long, once."""
    sides = [partial(reduce_view, _REDUCER), loop_over_tokens, loop_over_keys]
    for side in sides[:2]:
        side(views[0])
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(num_rounds):
        found: list[list[Tensor]] = []
        for side, times in zip(sides[: 2 if turn else 3], seconds, strict=False):
            start_s = time.process_time()
            found.append([side(view) for view in views])
            times.append(time.process_time() - start_s)
        for ours, *theirs in zip(*found, strict=True):
            for other in theirs:
                torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)
    return [median(times) for times in seconds]
