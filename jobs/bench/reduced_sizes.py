"""What reducers leave of an int8 cache, on four kinds of made-up features whose class attention has outliers.

Each reducer without weights works at its own number of tokens. How many patches PruMerge keeps depends on how
attention is spread, and that on weights nobody has here: the layer that attends is random, its scores some 2
apart before the softmax. Sizes are those of encoded views with their class rows.
"""

from typing import Final

from jobs.bench.feature_statistics import NUM_PATCHES, STATISTICS, WIDTH, draw_views
from jobs.bench.result import Say
from jobs.bench.token_choice import make_weights, stand_in_class_rows
from operators.codec import RaggedCodec, identify_codec, open_codec
from operators.reducers import build_reducer, reduce_views
from pipelines.analyze.cache_size import BYTES_PER_HALF, REDUCERS
from schemas.reducer import ReducerConfig

NUM_VIEWS: Final = 4
"""Of each kind."""


def measure_sizes(
    say: Say, num_views: int = NUM_VIEWS, num_patches: int = NUM_PATCHES, width: int = WIDTH
) -> tuple[dict[str, float], dict[str, float]]:
    """The largest share of the full cache that a reducer leaves of any kind; shares and tokens by kind."""
    weights, codec = make_weights(width), open_codec(identify_codec("int8"))
    row_bytes = BYTES_PER_HALF * width
    ratios: dict[str, float] = {}
    details: dict[str, float] = {}
    for kind, statistics in STATISTICS.items():
        say(f"reducing features of kind {kind}")
        views = draw_views(statistics, num_views, num_patches=num_patches, width=width)
        class_rows = stand_in_class_rows(views)
        full = sum(len(payload) + row_bytes for payload in codec.encode(views))
        for name in REDUCERS:
            tokens = reduce_views(build_reducer(ReducerConfig(name=name)), views, class_rows, weights)
            written = RaggedCodec(codec).encode_tokens(tokens)
            share = sum(len(payload) + row_bytes for payload in written) / full
            ratios[f"{name}_size"] = max(share, ratios.get(f"{name}_size", 0.0))
            details[f"{name}_{kind}_size"] = share
            details[f"{name}_{kind}_tokens"] = sum(map(len, tokens)) / len(tokens)
    return ratios, details
