"""Attention of a checkpoint over its own cached features: two tables as parquet, and a picture of each.

`attention.parquet` has a row for each layer and role of the token that looks; `dropped.parquet` the loss
without vision in each range of layers, beside the loss with it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from infra.storage import Storage
from operators.batch import IGNORED_LABEL
from operators.collate import collate_training
from pipelines.analyze.attention import (
    AttentionSums,
    Role,
    cut_ranges,
    measure_attention,
    measure_loss_without_vision,
)
from pipelines.analyze.line_chart import LineChart, draw_chart
from pipelines.analyze.parquet_rows import write_rows
from pipelines.engine import Progress, no_progress
from pipelines.stream.once import open_once
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import Checkpoint
from pipelines.train.precision import choose_device
from schemas.corpus import Manifest
from schemas.errors import NotFoundError, SampleError

NAMES: Final = {role: role.name.lower() for role in Role}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer, seen from the tokens of one role."""

    layer: int
    looking: str
    instruction: float
    vision: float
    response: float
    vision_entropy_bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """The loss without vision in some layers."""

    layers: str
    loss: float


def analyze_attention(
    storage: Storage,
    manifest: Manifest,
    spec: str,
    checkpoint: Checkpoint,
    num_examples: int,
    layers_at_once: int,
    progress: Progress = no_progress,
) -> tuple[list[LayerRow], list[DroppedRow]]:
    """Over the first examples with media of the checkpoint's own order.

    Raises:
        NotFoundError: there is none.
    """
    data = checkpoint.config.data.model_copy(update={"batch": 1, "micro_batch": 1})
    stream = open_once(storage, manifest, spec, data, checkpoint.config.model.reducer)
    assembly = restore(checkpoint, to_train=False)
    model = assembly.model.to(choose_device(checkpoint.config.run)).float().eval()
    ranges = [range(0), *cut_ranges(len(cast("Sequence[Any]", model.llm.base_model.layers)), layers_at_once)]
    sums: AttentionSums | None = None
    losses, num_labels, num_seen = [0.0] * len(ranges), 0, 0
    for step in stream:
        for examples in step:
            if num_seen == num_examples or not any(example.media for example in examples):
                continue
            try:
                batch = collate_training(examples, assembly.prompter).to(model.token_embeddings.weight.device)
            except SampleError:
                continue
            found = measure_attention(model, batch)
            sums = found if sums is None else sums.add(found)
            for place, layers in enumerate(ranges):
                losses[place] += measure_loss_without_vision(model, batch, layers)[0]
            num_labels += int((batch.labels[:, 1:] != IGNORED_LABEL).sum())
            num_seen += 1
            progress("attention", num_seen, num_examples)
        if num_seen == num_examples:
            break
    if sums is None:
        raise NotFoundError("no example with media can be written; look at another corpus")
    dropped = [
        DroppedRow(layers=_name_range(layers), loss=loss / num_labels)
        for layers, loss in zip(ranges, losses, strict=True)
    ]
    return list_layers(sums), dropped


def list_layers(sums: AttentionSums) -> list[LayerRow]:
    """Means by layer and role; roles that no token has are left out."""
    rows: list[LayerRow] = []
    for layer in range(sums.shares.shape[0]):
        for role in Role:
            if not int(sums.tokens[role]):
                continue
            shares = sums.shares[layer, role] / sums.tokens[role]
            rows.append(
                LayerRow(
                    layer=layer + 1,
                    looking=NAMES[role],
                    instruction=float(shares[Role.INSTRUCTION]),
                    vision=float(shares[Role.VISION]),
                    response=float(shares[Role.RESPONSE]),
                    vision_entropy_bits=float(sums.entropy[layer, role] / max(1, int(sums.seeing[role]))),
                )
            )
    return rows


def write_tables(folder: Path, layers: Sequence[LayerRow], dropped: Sequence[DroppedRow]) -> list[Path]:
    """Two tables and three charts; the paths of all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("attention.parquet", "dropped.parquet")]
    for path, rows in zip(paths, (layers, dropped), strict=True):
        write_rows(path, [asdict(row) for row in rows])
    for name, chart in _plan_charts(layers, dropped).items():
        draw_chart(chart).save(folder / name)
        paths.append(folder / name)
    return paths


def _plan_charts(layers: Sequence[LayerRow], dropped: Sequence[DroppedRow]) -> dict[str, LineChart]:
    """What the response looks at, how widely over vision, and what dropping vision costs."""
    response = [row for row in layers if row.looking == NAMES[Role.RESPONSE]]
    places = [str(row.layer) for row in response]
    whole, *parts = dropped
    shares = {name: [float(getattr(row, name)) for row in response] for name in NAMES.values()}
    entropy = {"bits over vision": [row.vision_entropy_bits for row in response]}
    losses = {"loss": [row.loss for row in parts]}
    return {
        "attention.png": LineChart(lines=shares, places=places, across="layer, looking from the response"),
        "entropy.png": LineChart(lines=entropy, places=places, across="layer, looking from the response"),
        "dropped.png": LineChart(
            lines=losses,
            places=[row.layers for row in parts],
            across="layers without vision",
            level=("with vision in all", whole.loss),
        ),
    }


def _name_range(layers: range) -> str:
    return f"{layers.start + 1}-{layers.stop}" if layers else "none"
