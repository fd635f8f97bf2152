"""`onetoken bench reduce`: PruMerge in matrices against a loop over tokens; how small reduced caches are.

Sixteen views of 576 x 1024 whose class attention has outliers, as a trained encoder's has. The loop is the
paper's algorithm 1 as it reads: for every kept token, the cosine of its key with each other key, the nearest
of these, their weighted average; each a call of torch on vectors. Both see the same views, take turns, and
agree; one core. What reducers leave of a cache is `reduced_sizes`' matter.
"""

import time
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
        fast, slow = _take_turns(views, NUM_ROUNDS)
        sizes, tokens = measure_sizes(say, max(1, round(NUM_VIEWS_OF_A_KIND * scale)))
    finally:
        torch.set_num_threads(before)
    kept = [len(reduce_view(_REDUCER, view)) for view in views]
    details = {
        "matrices_ms": 1000 * fast / len(views),
        "loop_ms": 1000 * slow / len(views),
        "tokens": sum(kept) / len(kept),
    }
    return Measured(ratios={"prumerge_vs_loop": slow / fast} | sizes, details=details | tokens)


def draw_view(seed: int, num_patches: int = NUM_PATCHES, width: int = WIDTH) -> ViewFeatures:
    """Random patches and keys; attention spread log-normally, so that some 30 of 576 stand out."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.softmax(torch.randn(num_patches, generator=generator), dim=0)
    keys = torch.randn(num_patches, width, generator=generator)
    patches = torch.randn(num_patches, width, generator=generator)
    return ViewFeatures(patches, Focus(attention, attention, keys, 16))


def loop_over_tokens(view: ViewFeatures, neighbors: int = NEIGHBORS) -> Float[Tensor, "tokens width"]:
    """The same as the reducer `prumerge`, token by token and key by key."""
    focus = view.required_focus
    attention, keys = focus.attention, focus.keys
    low, high = (float(torch.quantile(attention, share)) for share in (0.25, 0.75))
    kept = [place for place in range(len(keys)) if float(attention[place]) > high + 1.5 * (high - low)]
    tokens: list[Tensor] = []
    for place in kept or [int(attention.argmax())]:
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


_REDUCER: Final = build_reducer(ReducerConfig(name="prumerge", neighbors=NEIGHBORS))


def _take_turns(views: list[ViewFeatures], num_rounds: int) -> tuple[float, float]:
    """CPU seconds of both sides, medians."""
    reduce_view(_REDUCER, views[0])
    fast: list[float] = []
    slow: list[float] = []
    for _ in range(num_rounds):
        start_s = time.process_time()
        found = [reduce_view(_REDUCER, view) for view in views]
        middle_s = time.process_time()
        expected = [loop_over_tokens(view) for view in views]
        end_s = time.process_time()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        fast.append(middle_s - start_s)
        slow.append(end_s - middle_s)
    return median(fast), median(slow)
