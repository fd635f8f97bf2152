"""Where figures have to stand, and what they are measured against.

A figure that misses its bound is printed as one that does; the command does not fail, for it measures this
machine and not the code alone.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a figure has to stand."""

    limit: float
    is_highest: bool
    """The figure must not be above the limit; else not below."""
    against: str
    """The rival, and how it was run."""

    def holds(self, value: float) -> bool:
        """Whether a figure stands where it has to."""
        return value <= self.limit if self.is_highest else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.is_highest else '>='} {self.limit:g}"


def at_most(limit: float, against: str) -> Bound:
    """Lower is better."""
    return Bound(limit, True, against)


def at_least(limit: float, against: str) -> Bound:
    """Higher is better."""
    return Bound(limit, False, against)


BOUNDS: Final[dict[str, dict[str, Bound]]] = {
    "codec": {
        "int8_size": at_most(0.55, "fp16, worst of four statistics"),
        "int8_raw_cos": at_least(0.9999, "the worst token"),
        "int8_norm_cos": at_least(0.9998, "the worst token, channels normalized"),
        "int8_nrmse": at_most(0.02, "the worst channel, ordinary tokens"),
        "compact_size": at_most(0.35, "fp16, worst of four statistics"),
        "compact_raw_cos": at_least(0.999, "the worst token"),
        "compact_norm_cos": at_least(0.999, "the worst token, channels normalized"),
        "compact_nrmse": at_most(0.05, "the worst channel, ordinary tokens"),
        "int8_decode_vs_memcpy": at_least(0.2, "copying the same views in fp16, one core"),
        "compact_decode_vs_int8": at_least(0.2, "decoding int8, one core"),
    },
    "encode": {
        "vs_bare_encoder": at_least(0.9, "the encoder alone on as many views, same device"),
    },
    "ingest": {
        "wall_vs_parse": at_most(
            3.0,
            "msgspec.json.decode(file.read()) of the same files, gc off, one process; ours with two workers",
        ),
        "peak_mib": at_most(1536, "all processes together, at any moment"),
        "peak_bytes_per_record": at_most(200, "growth of that peak from a third of the records to all"),
        "probe_vs_sha256": at_least(0.8, "read + sha256 of the same small files, CPU time"),
    },
    "media": {
        "exact336_vs_hf_640": at_least(1.25, "CLIPImageProcessorPil, JPEG bytes to tensor, 640 px"),
        "exact336_vs_hf_1920": at_least(1.9, "CLIPImageProcessorPil, JPEG bytes to tensor, 1920 px"),
        "hd4_vs_hf_640": at_least(1.4, "CLIPImageProcessorPil, once a view, 640 px"),
        "fast_vs_exact": at_least(2.2, "our exact path, preprocessing only"),
        "video_vs_pyav": at_least(0.95, "bare PyAV decode of the same clip"),
        "long_clip_peak_mib": at_most(300, "30 minutes of 1080p"),
    },
    "read": {
        "vs_cat": at_least(0.85, "cat of the same tars, page cache warm, CPU time"),
        "vs_cat_checksum": at_least(0.6, "the same, every byte checked"),
        "vs_webdataset": at_least(5.0, "stock webdataset into the same memory, neither side checks"),
        "one_of_five_bytes": at_most(0.25, "bytes read for all five views"),
    },
    "reduce": {
        "prumerge_vs_loop": at_least(20.0, "a Python loop over kept tokens and keys, 16 views, CPU time"),
        **{
            f"{name}_size": at_most(0.25, "the int8 cache of all patches, class rows in both")
            for name in ("average", "sequential", "spatial", "tome", "prumerge", "prumerge_plus")
        },
    },
    "shard": {
        "serial_vs_tar_sha256": at_least(0.6, "GNU tar and sha256sum of the same pictures, CPU time"),
        "ray2_vs_processes2": at_least(0.85, "two child processes; warm workers, Ray's start excluded"),
        "driver_growth": at_most(1.15, "peak memory of the driver with 1,000 shards, units simulated"),
        "rerun_unchanged": at_most(0.01, "wall time of the first build, all three stages, a toy encoder"),
    },
    "stream": {
        "vs_reader": at_least(0.7, "a bare reader of the cache"),
        "resume90_vs_0": at_least(0.9, "the first step at the start of the epoch, from a new plan"),
        "first_batch_s": at_most(0.5, "from a table of 3M examples in memory to its first step"),
        "plan_mib_3m": at_most(200, "the process that plans 3M examples"),
        "plan_mib_30m": at_most(500, "the process that plans 30M examples"),
        "padding_waste": at_most(0.02, "units by count of 8, text tokens, lengths like mix665k's"),
        "pack_fill": at_least(0.97, "sequences of 4096 tokens, the same lengths"),
        "s3_vs_ranged": at_least(0.8, "bare ranged reads"),
    },
    "sweep": {
        "fusion_query_right": at_least(0.9, "all held-out questions; guessing is right about a sixth"),
        "query_keeps": at_least(-0.05, "pre-fusion and an average"),
        "fusion_gain": at_least(0.1, "a query without pre-fusion"),
        "query_gain": at_least(0.1, "an average without pre-fusion"),
    },
    "train": {
        "video_batched_vs_loop": at_least(1.3, "frame by frame, 32 frames, forward and backward"),
        "loop_overhead": at_most(0.05, "the same modules called bare on the same tensors"),
        "data_wait": at_most(0.02, "the whole step, a cache on this disk"),
        "plan_error": at_most(0.05, "torch's profiler, a real step of a small model"),
    },
}
