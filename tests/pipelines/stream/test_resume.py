"""First part + resumed part == the undisturbed run, in sequence: every combination, on simulated ranks.

What a worker serves (`Walk.steps`) and a rank takes of a step (`deal`) is what `FeatureStream` takes of it.
In the chain of cuts each of them is a walk of its own, which builds its plans from nothing; elsewhere they
share plans, to be fast. Real processes and features are in `test_real_ranks.py`.
"""

from itertools import product

import pytest
from order_tables import ALL_MIX, EQUAL, RULES, TABLE, WEIGHTED, make_config

from pipelines.stream.order import EpochPlan, Order, OrderConfig
from pipelines.stream.walk import Position, Walk, deal
from schemas.errors import ConfigError

RANKS = (1, 2, 3, 4, 8)
WORKERS = (0, 1, 2, 4)
NUM_EPOCHS = 2
Step = tuple[tuple[int, ...], ...]
"""The rows of a step's units, in the order of the plan."""


class SharedWalk(Walk):
    """Keeps the plans of all epochs."""

    def __init__(self, order: Order) -> None:
        super().__init__(order, NUM_EPOCHS)
        self.plans = {epoch: order.plan(epoch) for epoch in range(NUM_EPOCHS)}

    def plan(self, epoch: int) -> EpochPlan:
        return self.plans[epoch]


class Run:
    """The run of one configuration: what each simulated rank and worker sees of it."""

    def __init__(self, config: OrderConfig) -> None:
        self.order = Order(TABLE, config)
        self.shared = walk = SharedWalk(self.order)
        self.positions = list(walk.positions(Position()))
        self.whole = [freeze(planned.units) for planned in walk.steps(Position())]
        self.num_steps = walk.plan(0).num_steps

    def steps(
        self, start: Position, num_ranks: int, num_workers: int, wanted: int, *, is_fresh: bool = False
    ) -> list[Step]:
        """So many steps from a position on: served by workers in turn, dealt to ranks, woven together."""
        workers = max(1, num_workers)
        ranks: list[list[list[tuple[int, ...] | None]]] = []
        for rank in range(num_ranks):
            walks = [Walk(self.order, NUM_EPOCHS) if is_fresh else self.shared for _ in range(workers)]
            served = [walk.steps(start, worker, workers) for worker, walk in enumerate(walks)]
            mine: list[list[tuple[int, ...] | None]] = []
            for step in range(wanted):
                planned = next(served[step % workers])
                units = deal(planned.units, rank, num_ranks)
                mine.append([None if unit is None else tuple(unit.rows.tolist()) for unit in units])
            ranks.append(mine)
        return [weave([rank[step] for rank in ranks]) for step in range(wanted)]

    def cuts(self) -> dict[str, int]:
        """Steps before which a run is cut: at both ends, at borders of blocks and of the epoch, inside."""
        plan = self.shared.plan(0)
        blocks = [plan.block_of(step) for step in range(plan.num_steps)]
        border = next(step for step in range(1, plan.num_steps) if blocks[step] != blocks[step - 1])
        return {
            "start": 0,
            "before a block": border,
            "in a block": border + 1,
            "before the end of an epoch": self.num_steps - 1,
            "epoch": self.num_steps,
            "in the next epoch": self.num_steps + 2,
            "last step": len(self.whole) - 1,
        }


def freeze(units) -> Step:
    return tuple(tuple(unit.rows.tolist()) for unit in units)


def weave(ranks: list[list[tuple[int, ...] | None]]) -> Step:
    assert len({len(units) for units in ranks}) == 1, "ranks must make as many rounds"
    rounds = list(zip(*ranks, strict=True))
    dummies = [unit is None for units in rounds for unit in units]
    assert not any(dummies[: -len(ranks)]), "only the last round may lack units"
    return tuple(unit for units in rounds for unit in units if unit is not None)


CONFIGS = {
    f"{name}-{'mixed' if weights is WEIGHTED else 'equal'}": make_config(
        unit=rule, weights=weights, units_per_step=4, mergeable=ALL_MIX
    )
    for name, rule in RULES.items()
    for weights in (EQUAL, WEIGHTED)
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("num_ranks", RANKS)
def test_every_combination_resumes_in_sequence(run: Run, num_ranks: int, num_workers: int) -> None:
    """Cut once anywhere, and go on with other ranks and workers: the steps are those of the whole run."""
    choices = list(product(RANKS, WORKERS))
    place = choices.index((num_ranks, num_workers))
    assert len(run.cuts()) == 7
    assert max(run.cuts().values()) > run.num_steps
    for number, cut in enumerate(run.cuts().values()):
        for other in (place, place + 3 * number + 1):
            ranks, workers = choices[other % len(choices)]
            first = run.steps(Position(), num_ranks, num_workers, min(cut, 4))
            assert first == run.whole[: min(cut, 4)]
            position = Position() if cut == 0 else run.positions[cut - 1].after
            wanted = min(6, len(run.whole) - cut)
            assert run.steps(position, ranks, workers, wanted) == run.whole[cut : cut + wanted]


@pytest.mark.parametrize("num_ranks", RANKS)
def test_a_whole_run_on_many_ranks(run: Run, num_ranks: int) -> None:
    assert run.steps(Position(), num_ranks, 2, len(run.whole)) == run.whole


def test_a_chain_of_cuts_with_changing_ranks_and_workers(run: Run) -> None:
    """After every fifth step everything starts anew, from nothing, on other ranks and workers."""
    seen: list[Step] = []
    position = Position()
    choices = list(product((1, 2, 3), (0, 1, 2)))
    while len(seen) < len(run.whole):
        ranks, workers = choices[(7 * len(seen)) % len(choices)]
        wanted = min(5, len(run.whole) - len(seen))
        seen += run.steps(position, ranks, workers, wanted, is_fresh=True)
        position = run.positions[len(seen) - 1].after
    assert seen == run.whole


def test_a_step_is_found_by_its_number(run: Run) -> None:
    for number in (0, 1, run.num_steps - 1, run.num_steps, len(run.whole) - 1):
        planned = run.shared.find(number)
        assert (planned.position, freeze(planned.units)) == (run.positions[number], run.whole[number])
    with pytest.raises(ConfigError, match=f"name one of its {len(run.whole)}"):
        run.shared.find(len(run.whole))
