"""First part + resumed part == the undisturbed run, in sequence: every combination, on simulated ranks.

What a worker serves (`Walk.steps`) and a rank takes of a step (`deal`) is what `FeatureStream` takes of it.
Where all combinations meet they share plans, and what workers serve is dealt once for each number of ranks;
in whole runs and in the chain of cuts each worker of each rank plans for itself, from nothing. Real processes
and features are in `test_real_ranks.py`.
"""

from functools import cache
from itertools import islice, product, zip_longest

import pytest
from order_tables import ALL_MIX, EQUAL, RULES, TABLE, WEIGHTED, make_config

from pipelines.stream.order import EpochPlan, Order, OrderConfig
from pipelines.stream.walk import Position, Walk, deal
from schemas.errors import ConfigError

RANKS = (1, 2, 3, 4, 8)
WORKERS = (0, 1, 2, 4)
PLACES = list(product(RANKS, WORKERS))
"""Ranks, and workers of each."""
NUM_EPOCHS = 2
Step = tuple[tuple[int, ...], ...]
"""The rows of a step's units, in the order of the plan."""
Dealt = list[tuple[int, ...] | None]
"""What a rank takes of a step."""


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
        self._served: dict[tuple[Position, int], list[tuple[Position, Step]]] = {}

    def part(
        self, start: Position, num_ranks: int, num_workers: int, wanted: int
    ) -> tuple[list[Step], Position]:
        """So many steps from a position on, dealt to ranks and woven together, and where they stand then."""
        workers = max(1, num_workers)
        if (start, workers) not in self._served:
            self._served[start, workers] = serve([self.shared] * workers, start)
        served = self._served[start, workers][:wanted]
        position = served[-1][0].after if served else start
        return [share(step, num_ranks) for _, step in served], position

    def fresh_part(
        self, start: Position, num_ranks: int, num_workers: int, wanted: int
    ) -> tuple[list[Step], Position]:
        """The same; every worker of every rank plans for itself."""
        ranks: list[list[Dealt]] = []
        reached: set[Position] = set()
        for rank in range(num_ranks):
            walks = [Walk(self.order, NUM_EPOCHS) for _ in range(max(1, num_workers))]
            served = serve(walks, start, wanted)
            ranks.append([deal(step, rank, num_ranks) for _, step in served])
            reached.add(served[-1][0].after)
        (position,) = reached
        return [weave([rank[step] for rank in ranks]) for step in range(wanted)], position

    def borders(self) -> set[int]:
        """Steps that are the first of a block, in the first epoch."""
        plan = self.shared.plan(0)
        blocks = [plan.block_of(step) for step in range(plan.num_steps)]
        return {step for step in range(1, plan.num_steps) if blocks[step] != blocks[step - 1]}


def freeze(units) -> Step:
    return tuple(tuple(unit.rows.tolist()) for unit in units)


def serve(walks: list[Walk], start: Position, wanted: int | None = None) -> list[tuple[Position, Step]]:
    """Steps from a position on, to the end if no number is given, by workers in turn, each with its walk."""
    served = [walk.steps(start, worker, len(walks)) for worker, walk in enumerate(walks)]
    turns = zip_longest(*(islice(one, wanted) for one in served))
    planned = [step for turn in turns for step in turn if step is not None]
    return [(step.position, freeze(step.units)) for step in planned[:wanted]]


@cache
def share(step: Step, num_ranks: int) -> Step:
    """A step dealt to ranks and woven together again."""
    return weave([deal(step, rank, num_ranks) for rank in range(num_ranks)])


def weave(ranks: list[Dealt]) -> Step:
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


@pytest.mark.parametrize("after", PLACES, ids="{0[0]} ranks and {0[1]} workers".format)
def test_every_combination_resumes_in_sequence(run: Run, after: tuple[int, int]) -> None:
    """Cut before any step under any ranks and workers, go on under any: first part + rest == the whole."""
    num_steps = len(run.whole)
    assert run.borders()
    assert run.num_steps < num_steps - 1
    for cut in range(num_steps + 1):
        for before in PLACES:
            first, position = run.part(Position(), *before, cut)
            rest, end = run.part(position, *after, num_steps - cut)
            assert end == run.positions[-1].after
            assert first + rest == run.whole


@pytest.mark.parametrize("num_ranks", RANKS)
def test_a_whole_run_on_many_ranks(run: Run, num_ranks: int) -> None:
    """Each rank and worker plans for itself."""
    assert run.fresh_part(Position(), num_ranks, 2, len(run.whole))[0] == run.whole


def test_a_chain_of_cuts_with_changing_ranks_and_workers(run: Run) -> None:
    """After every fifth step everything starts anew, from nothing, on other ranks and workers."""
    seen: list[Step] = []
    position = Position()
    choices = list(product((1, 2, 3), (0, 1, 2)))
    while len(seen) < len(run.whole):
        ranks, workers = choices[(7 * len(seen)) % len(choices)]
        wanted = min(5, len(run.whole) - len(seen))
        steps, position = run.fresh_part(position, ranks, workers, wanted)
        seen += steps
    assert seen == run.whole


def test_a_step_is_found_by_its_number(run: Run) -> None:
    for number in (0, 1, run.num_steps - 1, run.num_steps, len(run.whole) - 1):
        planned = run.shared.find(number)
        assert (planned.position, freeze(planned.units)) == (run.positions[number], run.whole[number])
    with pytest.raises(ConfigError, match=f"name one of its {len(run.whole)}"):
        run.shared.find(len(run.whole))
