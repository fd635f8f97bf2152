"""What building a corpus and training from it will take: arithmetic on counts, a calibration, a cluster.

    bytes       views x a view in the codec (`cache_size`)
    CPU hours   records, media and views x their measured CPU seconds (`calibrate`)
    GPU hours   views x the encoder's FLOPs over the share of the peak that it reaches, or as timed here
    training    passes over all examples, forward and backward, over the share of the peak that they reach
    requests    objects x the parts that they are written and read in

Caching against encoding while training: cached, each unique view is encoded once; live, each use of a medium
is decoded and encoded in every pass. Caching pays from the first number of passes whose live work costs more
than encoding once and keeping the result. It does not where that number is above the passes that are planned,
or where the network brings features more slowly than the GPUs could make them anew.
"""

import math
from dataclasses import dataclass
from typing import Final

from operators.costs.flops import (
    PrefillSetup,
    add_up,
    count_language_model,
    count_prefill,
    count_projector,
    count_tower,
)
from operators.costs.shapes import CLIP_L_336, LanguageShape, VisionShape
from pipelines.analyze.calibrate import Calibration
from pipelines.analyze.corpus_counts import CorpusCounts
from schemas.cluster import ClusterSpec

HOUR_S: Final = 3600.0
TERA: Final = 1e12
GB: Final = 1e9
PART_BYTES: Final = 32 << 20
"""Objects above this are written in parts."""
READ_BYTES: Final = 8 << 20
"""A sample shard is read in ranges of this size."""
PASSES: Final = {1: 1, 2: 2}
"""Of the paper: by stage."""
BACKWARD: Final = {1: 2.0, 2: 3.0}
"""FLOPs of a step over those of its forward part: through a frozen model (1), into its weights, too (2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """Who is trained, on what length."""

    llm: LanguageShape
    text_tokens: int
    grid: int = 1
    prefusion_layers: int = 4
    views_per_frame: int = 1
    """Read in training: 1, or 5 in high resolution."""
    tower: VisionShape = CLIP_L_336
    """The encoder whose features it reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Cached against live, for so many passes over all examples."""

    passes: int
    cached_gpu_h: float
    live_gpu_h: float
    cached_cpu_h: float
    live_cpu_h: float
    cached_price: float
    """Encoding once and keeping it; 0 without prices."""
    live_price: float
    """Of one pass."""
    first_paying_pass: int
    read_gb_s: float
    """That training needs, when every GPU is busy."""
    network_gb_s: float
    cached_is_slower: bool
    """The network brings features more slowly than training takes, and than the GPUs would make them."""

    @property
    def pays(self) -> bool:
        """Whether caching pays for the planned passes."""
        return self.passes >= self.first_paying_pass and not self.cached_is_slower


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Everything that is told."""

    counts: CorpusCounts
    view_bytes: int
    feature_bytes: int
    cpu_hours: dict[str, float]
    """By stage."""
    encode_gpu_hours: float
    training_gpu_hours: dict[str, float]
    """By stage, its passes of the paper."""
    puts: int
    gets: int
    break_even: BreakEven


def plan_build(
    counts: CorpusCounts,
    view_bytes: int,
    clip_seconds: float,
    speed: Calibration,
    cluster: ClusterSpec,
    model: TrainedModel,
    passes: int,
) -> BuildPlan:
    """The plan.

    Args:
        counts: what there is.
        view_bytes: of one view in the cache.
        clip_seconds: of all unique clips together.
        speed: of a core and of a GPU.
        cluster: what it runs on.
        model: what is trained.
        passes: over all examples, ablations included, that the features will serve.
    """
    view_gpu_s = _encode_s(speed, cluster, model.tower)
    cpu = {
        "ingest": 2 * counts.examples * speed.record_s / HOUR_S,
        "shard": counts.media_bytes * 2 * speed.byte_s / HOUR_S,
        "decode": _decode_s(counts, clip_seconds, speed) / HOUR_S,
    }
    if not cluster.num_gpus:
        cpu["encode"] = counts.views * speed.view_s / HOUR_S
    feature_bytes = counts.views * view_bytes
    training = {
        f"stage {stage}": PASSES[stage] * _train_s(counts, model, cluster, stage) / HOUR_S for stage in (1, 2)
    }
    puts, gets = _count_requests(counts, feature_bytes, passes)
    encode_gpu_h = counts.views * view_gpu_s / HOUR_S if cluster.num_gpus else 0.0
    return BuildPlan(
        counts=counts,
        view_bytes=view_bytes,
        feature_bytes=feature_bytes,
        cpu_hours=cpu,
        encode_gpu_hours=encode_gpu_h,
        training_gpu_hours=training if cluster.num_gpus else {},
        puts=puts,
        gets=gets,
        break_even=_compare(counts, feature_bytes, encode_gpu_h, cpu, cluster, model, passes, (puts, gets)),
    )


def count_training_flops(model: TrainedModel, frames: float, stage: int) -> float:
    """Of one example with so many frames, forward and backward, the encoder left out."""
    llm, tower = model.llm, model.tower
    if not frames:
        return BACKWARD[stage] * count_language_model(llm, model.text_tokens).total
    if stage == 1:
        tokens = tower.patches + model.text_tokens
        forward = count_language_model(llm, tokens) + count_projector(llm, tower, tower.patches)
        return BACKWARD[1] * forward.total
    setup = PrefillSetup(
        text_tokens=model.text_tokens,
        vision_tokens=math.ceil(frames * model.grid**2),
        views=model.views_per_frame,
        frames=math.ceil(frames),
        compressor_queries=model.grid**2,
        prefusion_layers=model.prefusion_layers,
    )
    parts = count_prefill(llm, setup, tower)
    return BACKWARD[2] * (add_up(parts).total - parts["encoder"].total)


def seconds_of_view(cluster: ClusterSpec, tower: VisionShape) -> float:
    """Of one GPU of the cluster, by its peak and the share of it that an encoder reaches."""
    return count_tower(tower).total / (cluster.gpu_tflops * TERA * cluster.encoding_share)


def _encode_s(speed: Calibration, cluster: ClusterSpec, tower: VisionShape) -> float:
    """GPU seconds of one view."""
    if speed.gpu_views_per_s is not None:
        return 1 / speed.gpu_views_per_s
    return seconds_of_view(cluster, tower)


def _decode_s(counts: CorpusCounts, clip_seconds: float, speed: Calibration) -> float:
    return counts.images.unique * speed.picture_s + clip_seconds * speed.clip_second_s


def _train_s(counts: CorpusCounts, model: TrainedModel, cluster: ClusterSpec, stage: int) -> float:
    """GPU seconds of one pass over all examples."""
    images = min(counts.images.uses, counts.examples)
    videos = min(counts.videos.uses, counts.examples - images)
    frames = counts.videos.views_per_use
    flops = (
        images * count_training_flops(model, 1.0, stage)
        + videos * count_training_flops(model, frames, stage)
        + (counts.examples - images - videos) * count_training_flops(model, 0.0, stage)
    )
    return flops / (cluster.gpu_tflops * TERA * cluster.training_share)


def _count_requests(counts: CorpusCounts, feature_bytes: int, passes: int) -> tuple[int, int]:
    """PUTs and GETs of a build on S3 and of the passes that read it: an item is one range of its shard."""
    shards = max(1, counts.shards)
    puts = sum(shards * (2 + _count_parts(size / shards)) for size in (counts.media_bytes, feature_bytes))
    gets = shards * (2 + math.ceil(counts.media_bytes / shards / READ_BYTES))
    return puts, gets + passes * (counts.images.uses + counts.videos.uses)


def _count_parts(num_bytes: float) -> int:
    """Requests that write one object: begin, parts and end, or one."""
    return 1 if num_bytes <= PART_BYTES else 2 + math.ceil(num_bytes / PART_BYTES)


def _compare(
    counts: CorpusCounts,
    feature_bytes: int,
    encode_gpu_h: float,
    cpu: dict[str, float],
    cluster: ClusterSpec,
    model: TrainedModel,
    passes: int,
    requests: tuple[int, int],
) -> BreakEven:
    reuse = counts.naive_views / counts.views if counts.views else 0.0
    prices = cluster.prices
    encode_h = cpu["decode"] + cpu.get("encode", 0.0)
    once = encode_gpu_h * prices.gpu_hour + encode_h * prices.cpu_hour
    kept = feature_bytes / TERA * prices.tb_month * cluster.months
    asked = requests[0] / 1000 * prices.thousand_puts + requests[1] / 1000 * prices.thousand_gets
    has_prices = bool(once)
    cached, live = (once + kept + asked, once * reuse) if has_prices else (encode_gpu_h + encode_h, 0.0)
    live_work = live if has_prices else (encode_gpu_h + encode_h) * reuse
    first = math.ceil(cached / live_work) if live_work else 1
    view_bytes = feature_bytes / counts.views if counts.views else 0.0
    pass_s = _train_s(counts, model, cluster, 2) / max(1, cluster.num_gpus)
    read_gb = view_bytes * _count_read_views(counts, model) / GB
    network = cluster.network_gb_s * cluster.nodes
    live_s = pass_s + encode_gpu_h * reuse * HOUR_S / max(1, cluster.num_gpus)
    return BreakEven(
        passes=passes,
        cached_gpu_h=encode_gpu_h,
        live_gpu_h=encode_gpu_h * reuse * passes,
        cached_cpu_h=encode_h,
        live_cpu_h=encode_h * reuse * passes,
        cached_price=cached if has_prices else 0.0,
        live_price=live,
        first_paying_pass=max(1, first),
        read_gb_s=read_gb / pass_s if pass_s else 0.0,
        network_gb_s=network,
        cached_is_slower=bool(cluster.num_gpus) and read_gb / network > live_s,
    )


def _count_read_views(counts: CorpusCounts, model: TrainedModel) -> float:
    """Views that one pass reads: of a picture those that are trained on, of a clip all."""
    per_picture = min(float(model.views_per_frame), counts.images.views_per_use)
    return counts.images.uses * per_picture + counts.videos.naive_views
