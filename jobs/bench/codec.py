"""`onetoken bench codec`: size, fidelity and speed of the codecs on four kinds of made-up features.

Fidelity is the worst of the four; statistics for `compact` come from other views than those measured. Speed
is CPU time of one thread, medians, all sides taking turns: copying fp16 features from one batch to another,
larger than any cache, against decoding them into it, from memory that may be written to, as a reader's.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from jobs.bench.feature_statistics import NUM_PATCHES, STATISTICS, WIDTH, draw_views
from jobs.bench.result import Measured, Say
from jobs.bench.token_choice import choose_tokens, make_weights, share_kept, stand_in_class_rows
from operators.codec import Codec, decode_views, identify_codec, open_codec
from operators.fidelity import measure_fidelity
from pipelines.featurize.statistics import measure_statistics
from schemas.fidelity import Fidelity

NUM_VIEWS: Final = 8
"""Measured of each kind; as many others give the statistics."""
BATCH_VIEWS: Final = 64
NUM_ROUNDS: Final = 15
CODECS: Final = ("int8", "compact")


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`; nothing is written to the folder."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratios, details = measure_kinds(say, max(1, round(NUM_VIEWS * scale)))
        say("decoding against copying")
        speeds, times = measure_speed(max(3, round(NUM_ROUNDS * scale)), max(2, round(BATCH_VIEWS * scale)))
    finally:
        torch.set_num_threads(before)
    return Measured(ratios=ratios | speeds, details=details | times)


def measure_kinds(say: Say, num_views: int) -> tuple[dict[str, float], dict[str, float]]:
    """Size and fidelity, worst of all kinds; of each kind among the details."""
    weights = make_weights(WIDTH)
    ratios: dict[str, float] = {}
    details: dict[str, float] = {}
    for kind, statistics in STATISTICS.items():
        say(f"features of kind {kind}")
        drawn = draw_views(statistics, 2 * num_views)
        views = drawn[num_views:]
        class_rows = stand_in_class_rows(views)
        chosen = choose_tokens(views, class_rows, weights)
        for name in ("fp16", *CODECS):
            codec = _open(name, drawn[:num_views])
            payloads = codec.encode(views)
            decoded = decode_views(codec, payloads, NUM_PATCHES, WIDTH)
            kept = share_kept(chosen, choose_tokens(decoded, class_rows, weights))
            details[f"{name}_{kind}_tokens_kept"] = kept
            if name == "fp16":
                continue
            size = max(len(payload) for payload in payloads) / (2 * NUM_PATCHES * WIDTH)
            _keep_worst(ratios, name, size, measure_fidelity(views, decoded))
            details[f"{name}_{kind}_size"] = size
    return ratios, details


def measure_speed(num_rounds: int, num_views: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios of CPU times, and the times by view."""
    drawn = draw_views(STATISTICS["hybrid"], min(num_views, 16))
    views = drawn.half()[torch.arange(num_views) % len(drawn)]
    out = torch.zeros_like(views)
    times: dict[str, Callable[[], object]] = {"memcpy": lambda: out.copy_(views)}
    for name in CODECS:
        codec = _open(name, drawn)
        payloads = [memoryview(bytearray(payload)) for payload in codec.encode(views)]
        times[f"{name}_decode"] = lambda codec=codec, payloads=payloads: codec.decode_into(payloads, out)
        times[f"{name}_encode"] = lambda codec=codec: codec.encode(drawn[:5])
    taken: dict[str, list[float]] = {name: [] for name in times}
    for _ in range(num_rounds):
        for name, work in times.items():
            taken[name].append(_time(work))
    medians = {name: median(values) for name, values in taken.items()}
    ratios = {
        "int8_decode_vs_memcpy": medians["memcpy"] / medians["int8_decode"],
        "compact_decode_vs_int8": medians["int8_decode"] / medians["compact_decode"],
    }
    per_view = {"memcpy": num_views, "int8_decode": num_views, "compact_decode": num_views}
    details = {f"{name}_ms": 1000 * value / per_view.get(name, 5) for name, value in medians.items()}
    return ratios, details


def _open(name: str, views: Float[Tensor, "views patches width"]) -> Codec:
    statistics = measure_statistics(views[:, ::9].flatten(0, 1), len(views))
    return open_codec(identify_codec(name, statistics=statistics))


def _keep_worst(ratios: dict[str, float], name: str, size: float, fidelity: Fidelity) -> None:
    lowest = {"raw_cos": fidelity.worst_raw_cosine, "norm_cos": fidelity.worst_normalized_cosine}
    highest = {"size": size, "nrmse": fidelity.channel_nrmse}
    for key, value in lowest.items():
        ratios[f"{name}_{key}"] = min(value, ratios.get(f"{name}_{key}", value))
    for key, value in highest.items():
        ratios[f"{name}_{key}"] = max(value, ratios.get(f"{name}_{key}", value))


def _time(work: Callable[[], object]) -> float:
    started_s = time.process_time()
    work()
    return time.process_time() - started_s
