"""Real worker processes and loaders of torch, on a pairwise selection: the steps of an undisturbed run."""

from itertools import chain, islice, zip_longest

import pytest
import torch
from test_stream import DATA, names, open_stream, run
from tiny_corpus import TinyCorpus, build_corpus
from torch.utils.data import DataLoader

from operators.stored import StoredFeatures

MIXED_SOURCES = {"captions": 2.0, "mixed": 1.0, "videos": 1.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return build_corpus(tmp_path_factory.mktemp("corpus"), rejected=(0, 5))


def settings(unit: str, mixed: bool, **changes):
    budget = {} if unit == "count" else {"unit_tokens": 200, "units": 3}
    return DATA.model_copy(
        update={"unit": unit, "sources": MIXED_SOURCES if mixed else None, **budget, **changes}
    )


def weave(ranks: list[list[list[list[str]]]]) -> list[list[list[str]]]:
    return [
        [batch for row in zip_longest(*parts) for batch in row if batch] for parts in zip(*ranks, strict=True)
    ]


PAIRWISE = [
    # unit, mixture, ranks and workers before the cut, after it, cut
    ("count", False, (1, 2), (2, 1), 5),
    ("cell", True, (2, 1), (1, 2), 3),
    ("pack", False, (3, 0), (1, 4), 4),
    ("pack", True, (1, 4), (3, 0), 6),
    ("cell", False, (1, 1), (2, 0), 1),
    ("count", True, (2, 0), (1, 1), 7),
]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("unit", "mixed", "before", "after", "cut"), PAIRWISE)
def test_processes_resume_in_sequence(
    corpus: TinyCorpus, unit: str, mixed: bool, before: tuple[int, int], after: tuple[int, int], cut: int
) -> None:
    whole = run(open_stream(corpus, settings(unit, mixed)))
    assert len(whole) > cut + 3
    begun, states = [], []
    for rank in range(before[0]):
        data = settings(unit, mixed, workers=before[1])
        stream = open_stream(corpus, data, rank=rank, world_size=before[0])
        begun.append([names(step) for step in islice(stream, cut)])
        states.append(stream.state_dict())
    assert weave(begun) == whole[:cut]
    assert all(state == states[0] for state in states)
    rests = []
    for rank in range(after[0]):
        data = settings(unit, mixed, workers=after[1])
        stream = open_stream(corpus, data, rank=rank, world_size=after[0])
        stream.load_state_dict(states[0])
        rests.append([names(step) for step in stream])
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
