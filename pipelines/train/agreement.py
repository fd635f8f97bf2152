"""Processes that begin alike: before weights are cut, each tells the others what it starts from.

Each finds its checkpoint, its corpus and its configuration by itself. Where `out` is not shared by machines,
one goes on from step 500 and another begins; where a manifest is published between two starts, there are two
orders of examples. Nothing would hang: shards of different weights would be gathered as if they were one.
Cost: one exchange of some kilobytes a process. Leaves out the contents of `model.llm` and `model.init_from`,
which are too large to read twice: they are taken to be the same files wherever they have the same name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from pipelines.train.checkpoint import Checkpoint, digest_of_state
from pipelines.train.processes import Processes
from schemas.checkpoint import RunIdentity
from schemas.digest import canonical_json
from schemas.errors import MismatchError
from schemas.training import TrainConfig

_NAMED_RANKS: Final = 4


def check_agreement(
    processes: Processes, start: Checkpoint | None, config: TrainConfig, identity: RunIdentity
) -> None:
    """Refuse to train where processes do not begin alike; all of them have to ask.

    Args:
        processes: that train together.
        start: the checkpoint that this one goes on from.
        config: of this one.
        identity: what this one trains on.

    Raises:
        MismatchError: on every process, naming what differs, and on which.
    """
    if processes.is_alone:
        return
    mine = canonical_json(_list_facts(start, config, identity)).decode()
    told = [cast("dict[str, object]", json.loads(facts)) for facts in processes.collect([mine])]
    if differences := list_differences(told):
        raise MismatchError(
            f"the processes do not begin alike: {'; '.join(differences)}. Let `out` and `corpus` lie where "
            "all of them see the same, and start all with one configuration"
        )


def list_differences(told: Sequence[Mapping[str, object]]) -> list[str]:
    """What differs among the facts of processes, in words; they come in the order of ranks."""
    by_name = {
        name: [facts.get(name) for facts in told]
        for name in sorted({name for facts in told for name in facts})
    }
    return [
        f"{name} is {_tell_sides(values)}"
        for name, values in by_name.items()
        if any(value != values[0] for value in values)
    ]


def _list_facts(start: Checkpoint | None, config: TrainConfig, identity: RunIdentity) -> dict[str, object]:
    begins_from = start.folder if start else config.model.start_from
    return {
        "the step of the start": start.state.step if start else 0,
        "the digest of its checkpoint": digest_of_state(Path(begins_from)) if begins_from else None,
        **identity.compared_fields,
        **config.shared_fields,
    }


def _tell_sides(values: Sequence[object]) -> str:
    sides: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        sides.setdefault(repr(value), []).append(rank)
    return " and ".join(f"{value} on {_name_ranks(ranks)}" for value, ranks in sides.items())


def _name_ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    more = f" and {len(ranks) - _NAMED_RANKS} more" if len(ranks) > _NAMED_RANKS else ""
    return f"ranks {', '.join(map(str, ranks[:_NAMED_RANKS]))}{more}"
