"""A sweep's runs: each variant at each point of the grid, checked before anything starts.

Changes are made to the plain values of the base and the result is read as if a person had written it, so what
the training configuration works out from what is left out is worked out for each run anew.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import Any, Final, cast

from schemas.configuration import build
from schemas.errors import ConfigError
from schemas.sweep import Changes, SweepConfig
from schemas.training import TrainConfig

ALONE: Final = "base"
"""The name of the only run of a sweep that changes nothing."""
_FIXED: Final = {
    "out": "every run has a folder of its own below the sweep's `out`",
    "corpus": "all runs share one cache; sweep over another corpus in a file of its own",
    "data.exclude": "all runs are evaluated on the same shards; exclude them in the base",
    "run.held_out": "all runs are evaluated on the same shards; write `held_out` of the sweep",
}


def expand(sweep: SweepConfig, base: object, where: str) -> dict[str, tuple[Changes, TrainConfig]]:
    """The runs by name, in the order of the file: what each changes, and what comes of it.

    Args:
        sweep: as written.
        base: the plain values of the base configuration.
        where: names the sweep's file in errors.

    Raises:
        ConfigError: a path leads nowhere, what it leads to cannot have the value, or two runs are the same.
    """
    build(base, TrainConfig, sweep.base)
    runs: dict[str, tuple[Changes, TrainConfig]] = {}
    names_of: dict[str, str] = {}
    for name, changes in _list_changes(sweep):
        place = f"{where}: {name!r}"
        config = build(_apply(cast("dict[str, Any]", base), changes, place), TrainConfig, place)
        if name in runs:
            raise ConfigError(f"{where}: two runs are called {name!r}; give their variants other names")
        identity = f"{config.run_digest} {config.spec}"
        if identity in names_of:
            raise ConfigError(f"{place} trains the same as {names_of[identity]!r}; leave one of them out")
        runs[name], names_of[identity] = (changes, config), name
    return runs


def _list_changes(sweep: SweepConfig) -> Iterator[tuple[str, Changes]]:
    grid = sweep.grid or {}
    shown = _shorten(list(grid))
    for name, changes in (sweep.variants or {"": {}}).items():
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            if both := sorted(point.keys() & changes.keys()):
                raise ConfigError(f"variant {name!r} and the grid both change {', '.join(both)}")
            words = [f"{shown[path]}={_write(value)}" for path, value in point.items()]
            yield " ".join([*([name] if name else []), *words]) or ALONE, changes | point


def _shorten(paths: list[str]) -> dict[str, str]:
    """The last word of each path, where it is the only one that ends so."""
    ends = [path.rpartition(".")[2] for path in paths]
    return {path: end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)}


def _write(value: object) -> str:
    if isinstance(value, dict):
        given = cast("dict[str, object]", value)
        return "+".join(_write(inner) for inner in given.values())
    return "none" if value is None else str(value)


def _apply(base: dict[str, Any], changes: Changes, where: str) -> dict[str, Any]:
    changed = copy.deepcopy(base)
    for path, value in changes.items():
        for fixed, reason in _FIXED.items():
            if path == fixed or path.startswith(f"{fixed}.") or fixed.startswith(f"{path}."):
                raise ConfigError(f"{where} changes `{path}`: {reason}")
        *parents, last = path.split(".")
        place = changed
        for number, key in enumerate(parents):
            inner = place.get(key)
            if inner is None:
                inner = place[key] = {}
            if not isinstance(inner, dict):
                outer = ".".join(parents[: number + 1])
                raise ConfigError(
                    f"{where} changes `{path}`, and `{outer}` is {inner!r}, which holds no settings; "
                    f"change `{outer}` as a whole"
                )
            place = cast("dict[str, Any]", inner)
        place[last] = value
    return changed
