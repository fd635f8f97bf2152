"""`onetoken bench encode`: shards of pictures to features, against the bare encoder on as many views.

The true shape of ViT-L/14-336 with random weights, which cost what trained ones do. Ours is the worker of
`featurize` on leaf after leaf: shard read, JPEGs decoded and cut in a process of its own, encoded, quantized,
written, committed. The rival gets as many views as a ready tensor. They take turns, leaf by leaf.

On a CPU both are counted in CPU time of one thread, and the whole working time of the decoders is counted on
our side; on a GPU in wall time. What the device could reach is measured by one large product of matrices; of
the encoder only its products are counted. How many decoders keep it busy is their working time by its own.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from infra.storage import LocalStorage
from jobs.bench.picture_set import write_picture_set
from jobs.bench.result import Measured, Say
from operators.clip import VisionEncoder
from operators.loading import quiet_transformers
from pipelines.engine import SerialEngine
from pipelines.featurize.spec import describe_spec, open_encoder
from pipelines.featurize.units import FeatureUnits
from pipelines.featurize.write import EncodeWorker, one_thread
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from pipelines.shard.tables import tables_of
from schemas.errors import WorkError
from schemas.recipe import CodecConfig, Recipe

NUM_LAYERS: Final = 24
LEAST_LAYERS: Final = 2
NUM_LEAVES: Final = {"cpu": 3, "cuda": 12}
PICTURES_PER_LEAF: Final = {"cpu": 1, "cuda": 64}
VIEWS_PER_PICTURE: Final = 5
BATCH_SIZE: Final = 64
DTYPES: Final = {"cpu": "float32", "cuda": "bfloat16"}
NUM_DECODERS: Final = {"cpu": 1, "cuda": 8}
_MATRIX: Final = {"cpu": 1024, "cuda": 8192}
_PICTURE_BYTES: Final = 100_000


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`; below full size there are fewer layers and leaves."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    say("an encoder of ViT-L/14-336's shape")
    num_layers = max(LEAST_LAYERS, round(NUM_LAYERS * min(1.0, 3 * scale)))
    config = write_encoder(folder / "encoder", num_layers)
    say("pictures, sharded")
    pictures = write_picture_set(folder, max(1, round(NUM_LEAVES[kind] * scale)) * PICTURES_PER_LEAF[kind])
    values = pictures.recipe(PICTURES_PER_LEAF[kind] * _PICTURE_BYTES, folder / "encoder")
    encoder = values.encoder.model_copy(update={"dtype": DTYPES[kind], "batch_size": BATCH_SIZE})
    recipe = values.model_copy(update={"encoder": encoder, "codec": CodecConfig()})
    say("leaf by leaf, in turn with the bare encoder")
    with one_thread():
        turns = [*_take_turns(recipe, LocalStorage(folder / "corpus"), kind)]
        peak = measure_peak(torch.device(kind), getattr(torch, DTYPES[kind]))
    ours_s, rival_s, decoding_s = (median(column) for column in zip(*turns, strict=True))
    details = {
        "views_per_s": 1 / ours_s,
        "bare_views_per_s": 1 / rival_s,
        "share_of_peak": count_products(config) / rival_s / peak,
        "peak_tflops": peak / 1e12,
        "decoders_to_keep_busy": decoding_s / rival_s,
        "num_views": len(pictures.names) * VIEWS_PER_PICTURE,
        "num_layers": num_layers,
    }
    return Measured(ratios={"vs_bare_encoder": rival_s / ours_s}, details=details)


def write_encoder(folder: Path, num_layers: int) -> CLIPVisionConfig:
    """ViT-L/14-336 as published, with random weights and so many layers."""
    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with torch.random.fork_rng(), quiet_transformers():  # pyright: ignore[reportUnknownMemberType]
        CLIPVisionModel(config).save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    return config


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a large product of matrices, the best of some."""
    side = _MATRIX[device.type]
    left = torch.ones(side, side, dtype=dtype, device=device)
    product = _timed(lambda: left @ left, device)
    return 2 * side**3 / min(product() for _ in range(10))


def count_products(config: CLIPVisionConfig) -> float:
    """Floating point operations of all products of matrices for a view, up to the last layer but one."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
    width, inner, num_layers, image_px, patch_px = (int(getattr(config, name)) for name in names)
    num_patches = (image_px // patch_px) ** 2
    num_rows = num_patches + 1
    by_layer = 8 * num_rows * width**2 + 4 * num_rows**2 * width + 4 * num_rows * width * inner
    return (num_layers - 1) * by_layer + 2 * num_patches * width * 3 * patch_px**2


def _take_turns(recipe: Recipe, storage: LocalStorage, kind: str) -> Iterator[tuple[float, float, float]]:
    """Seconds a view: ours, the bare encoder's, and those of the decoders within ours."""
    ingest(recipe, storage, SerialEngine())
    manifest = shard(recipe, storage, SerialEngine())
    opened = open_encoder(recipe.encoder)
    spec = describe_spec(recipe.views, recipe.encoder, recipe.codec, opened)
    encode = EncodeWorker(storage, recipe, spec, tables_of(manifest), NUM_DECODERS[kind]).build()
    bare = opened.encoder.to(kind)
    _encode_bare(bare, 1)
    for unit in FeatureUnits(manifest):
        num_views = unit.leaf.num_items * VIEWS_PER_PICTURE
        rival_s = _timed(lambda num_views=num_views: _encode_bare(bare, num_views), bare.device)()
        started_s = _clock(bare.device)()
        done = encode(unit)
        ours_s = _clock(bare.device)() - started_s
        if done.used is None or done.record.counts["views"] != num_views:
            raise WorkError(f"{unit.name}: not all views were encoded; nothing was compared")
        on_cores_s = done.used.decoders_busy_s if kind == "cpu" else 0.0
        yield (ours_s + on_cores_s) / num_views, rival_s / num_views, done.used.decoders_busy_s / num_views


def _encode_bare(encoder: VisionEncoder, num_views: int) -> None:
    pixels = torch.zeros(num_views, 3, encoder.size_px, encoder.size_px, device=encoder.device)
    encoder.encode_fixed(pixels, BATCH_SIZE)


def _timed(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def run() -> float:
        started_s = _clock(device)()
        work()
        return _clock(device)() - started_s

    return run


def _clock(device: torch.device) -> Callable[[], float]:
    """CPU time of this process; on a GPU wall time, when it has done what it was given."""
    if device.type == "cpu":
        return time.process_time

    def read() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return read
