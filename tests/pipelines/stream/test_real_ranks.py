"""Real worker processes and loaders of torch, on a pairwise selection: the steps of an undisturbed run."""

import multiprocessing
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import chain, combinations, islice, product
from multiprocessing.connection import Connection

import pytest
import torch
from test_stream import DATA, Steps, names, open_stream, run, weave
from tiny_corpus import TinyCorpus, build_corpus
from torch.utils.data import DataLoader

from operators.stored import StoredFeatures
from pipelines.stream.stream import FeatureStream

MIXED_SOURCES = {"captions": 2.0, "mixed": 1.0, "videos": 1.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return build_corpus(tmp_path_factory.mktemp("corpus"), rejected=(0, 5))


def settings(unit: str, mixed: bool, **changes):
    """Steps of eight units: one for each rank."""
    size = {"batch": 16} if unit == "count" else {"unit_tokens": 100, "units": 8}
    return DATA.model_copy(
        update={"unit": unit, "sources": MIXED_SOURCES if mixed else None, **size, **changes}
    )


@dataclass(frozen=True)
class Row:
    """One combination: ranks and workers before and after a cut."""

    unit: str
    mixed: bool
    ranks: int
    workers: int
    ranks_after: int
    workers_after: int
    cut: str
    side_by_side: bool

    @property
    def is_dear(self) -> bool:
        """Many processes, each of which starts a Python of its own when ranks are side by side."""
        num_workers = self.ranks * self.workers + self.ranks_after * self.workers_after
        return num_workers > 10 or (self.side_by_side and max(self.ranks, self.ranks_after) > 2)

    def __str__(self) -> str:
        return "-".join(map(str, astuple(self)))


FACTORS = {
    "unit": ("count", "cell", "pack"),
    "mixed": (False, True),
    "ranks": (1, 2, 3, 4, 8),
    "workers": (0, 1, 2, 4),
    "ranks_after": (1, 2, 3, 4, 8),
    "workers_after": (0, 1, 2, 4),
    "cut": ("inside", "block border", "epoch border"),
    "side_by_side": (False, True),
}


def pairs_of(row: Row) -> set[tuple[tuple[str, object], tuple[str, object]]]:
    return set(combinations([(name, getattr(row, name)) for name in FACTORS], 2))


def choose_pairwise() -> list[Row]:
    """Rows that hold every pair of values of two factors: of random ones always that of most new pairs."""
    chooser = random.Random(11)
    missing = {
        pair
        for one, other in combinations(FACTORS, 2)
        for pair in product(*([(name, value) for value in FACTORS[name]] for name in (one, other)))
    }
    rows = [Row("cell", True, 2, 1, 1, 0, "epoch border", True)]
    missing -= pairs_of(rows[0])
    while missing:
        wanted = dict(min(missing, key=str))
        drawn = [{name: chooser.choice(values) for name, values in FACTORS.items()} for _ in range(200)]
        rows.append(max((Row(**one | wanted) for one in drawn), key=lambda row: len(pairs_of(row) & missing)))
        missing -= pairs_of(rows[-1])
    return rows


PAIRWISE = choose_pairwise()


def test_the_selection_is_pairwise_and_few_rows_are_dear() -> None:
    held = set().union(*map(pairs_of, PAIRWISE))
    for one, other in combinations(FACTORS, 2):
        for pair in product(FACTORS[one], FACTORS[other]):
            assert ((one, pair[0]), (other, pair[1])) in held
    cheap = [row for row in PAIRWISE if not row.is_dear]
    assert any(row.side_by_side for row in cheap)
    assert {row.cut for row in cheap} == set(FACTORS["cut"])
    assert {row.unit for row in cheap} == set(FACTORS["unit"])
    assert {1, 2, 4, 8} <= {row.ranks for row in cheap} & {row.ranks_after for row in cheap}


def place_cut(stream: FeatureStream, kind: str) -> int:
    """The step before which a run is cut."""
    plan = stream.walk.plan(0)
    border = next(step for step in range(1, plan.num_steps) if plan.block_of(step) != plan.block_of(step - 1))
    return {"inside": border + 1, "block border": border, "epoch border": plan.num_steps}[kind]


def open_part(corpus: TinyCorpus, row: Row, rank: int, is_resumed: bool) -> FeatureStream:
    ranks, workers = (row.ranks_after, row.workers_after) if is_resumed else (row.ranks, row.workers)
    return open_stream(corpus, settings(row.unit, row.mixed, workers=workers), rank=rank, world_size=ranks)


def begin(corpus: TinyCorpus, row: Row, rank: int, cut: int) -> tuple[Steps, dict[str, int | str]]:
    stream = open_part(corpus, row, rank, is_resumed=False)
    return [names(step) for step in islice(stream, cut)], stream.state_dict()


def go_on(corpus: TinyCorpus, row: Row, rank: int, state: dict[str, int | str]) -> Steps:
    stream = open_part(corpus, row, rank, is_resumed=True)
    stream.load_state_dict(state)
    return run(stream)


def be_rank(corpus: TinyCorpus, row: Row, rank: int, cut: int, pipe: Connection) -> None:
    """A process that is one rank before the cut, one after it, or both."""
    if rank < row.ranks:
        pipe.send(begin(corpus, row, rank, cut))
    state = pipe.recv()
    if rank < row.ranks_after:
        pipe.send(go_on(corpus, row, rank, state))


@contextmanager
def ranks_side_by_side(corpus: TinyCorpus, row: Row, cut: int) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(max(row.ranks, row.ranks_after))]
    processes = [
        context.Process(target=be_rank, args=(corpus, row, rank, cut, theirs))
        for rank, (_, theirs) in enumerate(pairs)
    ]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()
    try:
        yield [ours for ours, _ in pairs]
    finally:
        for process in processes:
            process.join(60)
            process.kill()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[pytest.mark.slow] * row.is_dear, id=str(row)) for row in PAIRWISE]
)
def test_processes_resume_in_sequence(corpus: TinyCorpus, row: Row) -> None:
    undisturbed = open_stream(corpus, settings(row.unit, row.mixed))
    whole = run(undisturbed)
    cut = place_cut(undisturbed, row.cut)
    assert 0 < cut < len(whole) - 1
    if row.side_by_side:
        with ranks_side_by_side(corpus, row, cut) as pipes:
            begun = [pipe.recv() for pipe in pipes[: row.ranks]]
            for pipe in pipes:
                pipe.send(begun[0][1])
            rests = [pipe.recv() for pipe in pipes[: row.ranks_after]]
    else:
        begun = [begin(corpus, row, rank, cut) for rank in range(row.ranks)]
        rests = [go_on(corpus, row, rank, begun[0][1]) for rank in range(row.ranks_after)]
    assert weave([steps for steps, _ in begun]) == whole[:cut]
    assert all(state == begun[0][1] for _, state in begun)
    assert weave(rests) == whole[cut:]


def test_features_survive_the_way_between_processes(corpus: TinyCorpus) -> None:
    here = open_stream(corpus, num_epochs=1)
    there = open_stream(corpus, DATA.model_copy(update={"workers": 2}), num_epochs=1)
    num_compared = 0
    for mine, theirs in zip(here, there, strict=True):
        assert names(mine) == names(theirs)
        for one, other in zip(chain(*mine), chain(*theirs), strict=True):
            assert (one.turns, one.source) == (other.turns, other.source)
            for medium, again in zip(one.media, other.media, strict=True):
                assert isinstance(again, StoredFeatures)
                assert torch.equal(medium.patches, again.patches)
                num_compared += 1
    assert num_compared > 50


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_of_torch_hands_out_the_same(corpus: TinyCorpus, num_workers: int) -> None:
    whole = run(open_stream(corpus))
    stream = open_stream(corpus)
    loader = DataLoader(stream, batch_size=None, num_workers=num_workers, collate_fn=lambda step: step)
    begun = []
    for step in islice(loader, 4):
        begun.append(names(step))
        if num_workers:
            stream.count_delivered()
    assert begun == whole[:4]
    assert stream.state_dict()["step"] == 4
    rest = DataLoader(stream, batch_size=None, num_workers=num_workers, collate_fn=lambda step: step)
    assert [names(step) for step in rest] == whole[4:]
