"""What to change in a configuration that does not fit: the cheapest changes first.

Changes are ranked by what they cost. First those that change no number but time, then those that change
which numbers are kept, then those that change the training itself. Each is tried by itself; where none is
enough, they are tried on top of each other in this order.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, cast

from schemas.configuration import build
from schemas.errors import ConfigError
from schemas.training import TrainConfig

Fields = Mapping[str, Mapping[str, object]]
MOST_TOGETHER: Final = 3
FEW_FRAMES: Final = 8
"""Of a clip, as the paper trains."""
MOST_TRIES: Final = 20
"""Predictions that are made for one piece of advice; each takes up to a minute."""


@dataclass(frozen=True, slots=True)
class Change:
    """Some fields of a configuration, and what changing them costs."""

    fields: Fields
    cost: str

    def __str__(self) -> str:
        written = ", ".join(
            f"{section}: {{{', '.join(f'{name}: {_yaml(value)}' for name, value in values.items())}}}"
            for section, values in self.fields.items()
        )
        return f"{written} ({self.cost})"


def list_changes(config: TrainConfig, num_workers: int = 1) -> list[Change]:
    """What could make a configuration smaller, cheapest first; several workers all take AdamW."""
    data, memory = config.data, config.memory
    changes: list[Change] = []
    if not memory.checkpoint_layers:
        changes.append(Change({"memory": {"checkpoint_layers": True}}, "a third more time"))
    if config.stage == 2 and (memory.frames_per_chunk or 9) > 1:
        size = 4 if (memory.frames_per_chunk or 9) > 4 else 1
        changes.append(Change({"memory": {"checkpoint_layers": True, "frames_per_chunk": size}}, "more time"))
    for micro_batch in _smaller(data.micro_batch):
        cost = "smaller steps" if config.optimizer.in_backward else "more, smaller passes a step"
        changes.append(Change({"data": {"micro_batch": micro_batch}}, cost))
    if data.max_tokens > 512:
        half = max(512, data.max_tokens // 2)
        changes.append(Change({"data": {"max_tokens": half}}, "leaves longer examples out"))
    if config.stage == 2 and (data.frames.uniform or data.frames.max or FEW_FRAMES + 1) > FEW_FRAMES:
        fewer = {"frames": {"max": None, "uniform": FEW_FRAMES}}
        changes.append(Change({"data": fewer}, "fewer frames of each clip"))
    return changes + (list(_smaller_optimizers(config)) if num_workers == 1 else [])


def _smaller(micro_batch: int) -> Iterator[int]:
    """Half of it, and one."""
    if micro_batch > 1:
        yield from dict.fromkeys((micro_batch // 2, 1)) if micro_batch % 2 == 0 else (1,)


def _smaller_optimizers(config: TrainConfig) -> Iterator[Change]:
    micro_batch = config.data.micro_batch
    cost = f"steps of {micro_batch} examples, no clipping by the norm of all gradients"
    ranks = {"adamw": 0, "adamw_8bit": 1, "adamw_4bit": 2, "adafactor": 3}
    rank = ranks[config.optimizer.kind] + (0 if config.optimizer.in_backward else -0.5)
    for kind, what in (
        ("adamw_8bit", "moments in 8 bits"),
        ("adamw_4bit", "moments in 4 bits"),
        ("adafactor", "no momentum"),
    ):
        if ranks[kind] > rank:
            yield Change(
                {
                    "optimizer": {
                        "kind": kind,
                        "weights": "bfloat16",
                        "in_backward": True,
                        "max_grad_norm": None,
                    },
                    "run": {"dtype": "bfloat16"},
                },
                f"{what}, {cost}",
            )


def apply(config: TrainConfig, fields: Fields) -> TrainConfig:
    """The configuration with some fields changed."""
    value = config.model_dump(mode="json")
    for section, values in fields.items():
        cast(dict[str, Any], value[section]).update(values)
    return build(value, TrainConfig, "the changed configuration")


def complete(config: TrainConfig, change: Change) -> Change:
    """The change with what it brings: an optimizer that cannot accumulate takes a micro-batch a step."""
    fields = {section: dict(values) for section, values in change.fields.items()}
    if config.optimizer.in_backward or fields.get("optimizer", {}).get("in_backward"):
        data = fields.setdefault("data", {})
        size = data.get("micro_batch", config.data.micro_batch)
        data |= {"batch": size, "micro_batch": size}
    return Change(fields, change.cost)


def find_changes(
    config: TrainConfig, fits: Callable[[TrainConfig], bool], wanted: int = 3, num_workers: int = 1
) -> list[Change]:
    """The cheapest changes, each enough by itself, after which `fits` holds; fewer where there are fewer."""
    found: list[Change] = []
    num_tries = 0
    changes = list_changes(config, num_workers)
    for number in range(1, MOST_TOGETHER + 1):
        for parts in combinations(changes, number):
            change = join_changes(parts)
            if change is None or any(_contains(change.fields, one.fields) for one in found):
                continue
            if len(found) == wanted or num_tries == MOST_TRIES:
                return [complete(config, change) for change in found]
            num_tries += 1
            if fits(apply(config, complete(config, change).fields)):
                found.append(change)
    return [complete(config, change) for change in found]


def join_changes(parts: tuple[Change, ...]) -> Change | None:
    """Several changes as one; None where two of them say different things of one field."""
    fields: dict[str, dict[str, object]] = {}
    for part in parts:
        for section, values in part.fields.items():
            known = fields.setdefault(section, {})
            if any(known.get(name, value) != value for name, value in values.items()):
                return None
            known.update(values)
    return Change(fields, "; ".join(dict.fromkeys(part.cost for part in parts)))


def _contains(fields: Fields, less: Fields) -> bool:
    return all(
        fields.get(section, {}).get(name, ...) == value
        for section, values in less.items()
        for name, value in values.items()
    )


def refuse(
    config: TrainConfig,
    limit: int,
    peak: int,
    fits: Callable[[TrainConfig], bool],
    num_workers: int = 1,
) -> ConfigError:
    """The error for a run that cannot fit, with what would."""
    changes = find_changes(config, fits, num_workers=num_workers)
    others = "several GPUs" if num_workers == 1 else "more workers"
    ways = "".join(f"\n  {change}" for change in changes) or f"\n  a smaller `model.llm`, or {others}"
    who = "the run" if num_workers == 1 else f"each of {num_workers} workers"
    return ConfigError(
        f"{who} needs {in_gib(peak)} and may take {in_gib(limit)}; each of these would make it fit, the "
        f"cheapest first:{ways}"
    )


def in_gib(num_bytes: int) -> str:
    """Bytes for people."""
    return f"{num_bytes / 2**30:.1f} GiB"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        inner = cast("dict[str, object]", value).items()
        return f"{{{', '.join(f'{name}: {_yaml(one)}' for name, one in inner if one is not None)}}}"
    return "null" if value is None else str(value)
