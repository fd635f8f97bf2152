"""The stream in sequence: resumed, on other ranks, with threads, it gives what an undisturbed run gives."""

import shutil
from collections import Counter
from itertools import islice, zip_longest
from pathlib import Path

import pytest
import torch
from tiny_corpus import SOURCES, TinyCorpus, build_corpus

from infra.storage import LocalStorage
from operators.batch import TrainingExample
from pipelines.stream.mixture import scale_weights
from pipelines.stream.stream import FeatureStream
from schemas.errors import ConfigError, CorruptError, MismatchError, NotFoundError
from schemas.record import Modality, Turn
from schemas.stream import DataConfig, FramesConfig

DATA = DataConfig(batch=6, micro_batch=2, shards_per_block=3, threads=0)
MIXED = DATA.model_copy(update={"sources": {"captions": 2.0, "mixed": 1.0, "videos": 1.0}})
Steps = list[list[list[str]]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return build_corpus(tmp_path_factory.mktemp("corpus"), rejected=(0, 5))


def open_stream(corpus: TinyCorpus, data: DataConfig = DATA, **changes) -> FeatureStream:
    return FeatureStream(
        corpus.storage, corpus.manifest, corpus.spec, data, **{"seed": 3, "num_epochs": 2, **changes}
    )


def with_data(**changes) -> DataConfig:
    return DATA.model_copy(update=changes)


def names(step: list[list[TrainingExample]]) -> list[list[str]]:
    return [[example.example_id for example in batch] for batch in step]


def run(stream: FeatureStream) -> Steps:
    return [names(step) for step in stream]


def weave(ranks: list[Steps]) -> Steps:
    """Micro-batches of all ranks, in the order of the plan."""
    return [
        [batch for row in zip_longest(*parts) for batch in row if batch] for parts in zip(*ranks, strict=True)
    ]


def usable(corpus: TinyCorpus) -> list:
    rejected = {reject.key for reject in corpus.features.rejects}
    return [example for example in corpus.examples if example.item.key not in rejected]


def test_an_epoch_has_every_usable_example_once(corpus: TinyCorpus) -> None:
    stream = open_stream(corpus, num_epochs=1)
    steps = run(stream)
    assert len(steps) == stream.num_steps(0) > 10
    seen = [name for step in steps for batch in step for name in batch]
    assert sorted(seen) == sorted(example.id for example in usable(corpus))
    left_out = {corpus.examples[0].item.key} & {reject.key for reject in corpus.features.rejects}
    assert left_out
    assert stream.catalog.num_rejected == len(corpus.examples) - len(seen) > 0


def test_examples_carry_their_own_text_and_features(corpus: TinyCorpus) -> None:
    examples = {example.id: example for example in corpus.examples}
    modalities: Counter[Modality] = Counter()
    data = DATA.model_copy(update={"views": "all"})
    for step in open_stream(corpus, data, num_epochs=1):
        for batch in step:
            assert len({len(found.media[0].patches[0]) for found in batch if found.media}) <= 1
            for found in batch:
                wanted = examples[found.example_id]
                assert found.source == wanted.source
                assert found.turns == (Turn("human", wanted.text), Turn("gpt", "Yes."))
                assert len(found.media) == len(wanted.item.media)
                if found.media:
                    views = torch.cat([medium.patches.flatten(0, 1) for medium in found.media])
                    assert torch.equal(views, wanted.item.views)
                modalities[wanted.item.modality] += 1
    assert set(modalities) == set(Modality)


@pytest.mark.parametrize(
    ("before", "after", "data"), [(1, 1, DATA), (1, 2, MIXED), (2, 3, MIXED), (3, 4, DATA), (4, 1, MIXED)]
)
def test_resume_on_other_ranks(corpus: TinyCorpus, before: int, after: int, data: DataConfig) -> None:
    """Cuts in the middle of an epoch and at its border; after each the next steps, once all that follow."""
    whole = run(open_stream(corpus, data))
    firsts = [open_stream(corpus, data, rank=rank, world_size=before) for rank in range(before)]
    iterators = [iter(stream) for stream in firsts]
    border = firsts[0].num_steps(0)
    begun: Steps = []
    num_cuts = 0
    for cut in range(len(whole)):
        if cut % 6 == 0 or cut in (border, border + 1, len(whole) - 1):
            state = firsts[0].state_dict()
            assert all(stream.state_dict() == state for stream in firsts)
            rests = [open_stream(corpus, data, rank=rank, world_size=after) for rank in range(after)]
            for stream in rests:
                stream.load_state_dict(state)
            wanted = len(whole) if num_cuts == 2 else 5
            following = weave([[names(step) for step in islice(stream, wanted)] for stream in rests])
            assert following == whole[cut : cut + wanted]
            num_cuts += 1
        begun += weave([[names(next(iterator))] for iterator in iterators])
    assert begun == whole
    assert num_cuts > 5


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_take_as_many_steps_and_rounds(corpus: TinyCorpus, world_size: int) -> None:
    ranks = [run(open_stream(corpus, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [[len(step) for step in rank] for rank in ranks] == [[len(step) for step in ranks[0]]] * world_size
    assert weave(ranks) == run(open_stream(corpus))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing_and_the_position_is_what_was_handed_out(
    corpus: TinyCorpus, num_threads: int
) -> None:
    whole = run(open_stream(corpus))
    stream = open_stream(corpus, with_data(threads=num_threads))
    begun = [names(step) for step in islice(stream, 5)]
    state = stream.state_dict()
    assert (state["epoch"], state["step"]) == (0, 5)
    resumed = open_stream(corpus, with_data(threads=num_threads))
    resumed.load_state_dict(state)
    assert begun + run(resumed) == whole


def test_weights_count_over_epochs(corpus: TinyCorpus) -> None:
    counts = Counter(
        name for step in run(open_stream(corpus, MIXED, num_epochs=4)) for batch in step for name in batch
    )
    by_source = {source: set() for source in SOURCES}
    for example in usable(corpus):
        by_source[example.source].add(counts[example.id])
    assert by_source == {"captions": {4}, "mixed": {2}, "videos": {2}}


def test_sources_that_are_not_named_are_left_out(corpus: TinyCorpus) -> None:
    stream = open_stream(corpus, with_data(sources={"videos": 0.5}), num_epochs=1)
    seen = [name for step in run(stream) for batch in step for name in batch]
    assert sorted(seen) == sorted(example.id for example in usable(corpus) if example.source == "videos")
    assert stream.catalog.num_unused == sum(example.source != "videos" for example in corpus.examples)


@pytest.mark.parametrize(
    ("views", "expected"), [("whole", {(1, 1), (3, 1)}), ("all", {(1, 5), (1, 1), (3, 1)})]
)
def test_views_and_frames_are_chosen(corpus: TinyCorpus, views: str, expected: set) -> None:
    data = with_data(frames=FramesConfig(max=3), views=views)
    shapes = {
        tuple(medium.patches.shape[:2])
        for step in open_stream(corpus, data, num_epochs=1)
        for batch in step
        for example in batch
        for medium in example.media
    }
    assert shapes == expected


def test_one_file_or_many_is_the_same_order(corpus: TinyCorpus, tmp_path: Path) -> None:
    other = build_corpus(tmp_path, rejected=(0, 5), num_files=9)
    assert run(open_stream(other)) == run(open_stream(corpus))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "config"),
        ({"data": DATA.model_copy(update={"views": "all"})}, "config"),
        ({"data": MIXED}, "config"),
        ({"data": with_data(exclude=("image-00",))}, "config"),
    ],
)
def test_a_state_of_another_order_is_refused(corpus: TinyCorpus, changes: dict, named: str) -> None:
    state = open_stream(corpus).state_dict()
    with pytest.raises(MismatchError, match=f"cannot go on: {named}"):
        open_stream(corpus, **changes).load_state_dict(state)


def test_a_state_of_another_manifest_is_refused(corpus: TinyCorpus, tmp_path: Path) -> None:
    state = open_stream(build_corpus(tmp_path)).state_dict()
    with pytest.raises(MismatchError, match="cannot go on: manifest"):
        open_stream(corpus).load_state_dict(state)
    digests = {
        name: value for name, value in open_stream(corpus).state_dict().items() if name.endswith("digest")
    }
    with pytest.raises(MismatchError, match="epoch -1"):
        open_stream(corpus).load_state_dict({**digests, "epoch": -1, "step": 0})


@pytest.mark.parametrize(("num_threads", "views"), [(0, "whole"), (0, "all"), (2, "all")])
def test_a_bad_shard_stops_and_the_printed_line_leaves_it_out(
    corpus: TinyCorpus, tmp_path: Path, num_threads: int, views: str
) -> None:
    shutil.copytree(corpus.storage.url, tmp_path / "copy")
    copied = TinyCorpus(LocalStorage(tmp_path / "copy"), corpus.manifest, corpus.items, corpus.examples)
    tar = copied.tar_path("image-01")
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(CorruptError, match=r"exclude: \[image-01\]"):
        run(open_stream(copied, with_data(threads=num_threads, views=views)))
    stream = open_stream(copied, with_data(exclude=("image-01",), views=views), num_epochs=1)
    seen = {name for step in run(stream) for batch in step for name in batch}
    assert seen == {example.id for example in usable(corpus) if example.item.shard != "image-01"}
    assert stream.catalog.num_excluded > 0


def test_missing_features_and_unknown_names(corpus: TinyCorpus) -> None:
    with pytest.raises(ConfigError, match="no shard 'image-0x', did you mean 'image-"):
        open_stream(corpus, with_data(exclude=("image-0x",)))
    with pytest.raises(ConfigError, match="did you mean 'captions'"):
        open_stream(corpus, with_data(sources={"caption": 1.0}))
    with pytest.raises(ConfigError, match="rank 2"):
        open_stream(corpus, rank=2, world_size=2)
    fewer = corpus.features.model_copy(update={"shards": corpus.features.shards[1:]})
    manifest = corpus.manifest.model_copy(update={"features": {corpus.spec: fewer}})
    with pytest.raises(NotFoundError, match="the first is image-00"):
        FeatureStream(corpus.storage, manifest, corpus.spec, DATA, seed=0)
    every = tuple(leaf.name for leaf in corpus.manifest.plan)
    with pytest.raises(ConfigError, match="no example is left"):
        open_stream(corpus, with_data(exclude=every))


def test_damaged_examples_are_found(corpus: TinyCorpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.storage.url, tmp_path / "copy")
    storage = LocalStorage(tmp_path / "copy")
    path = storage.local_path(corpus.manifest.examples[1].path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match="does not hold the bytes"):
        FeatureStream(storage, corpus.manifest, corpus.spec, DATA, seed=0)


def test_weights_are_scaled_by_the_largest() -> None:
    assert scale_weights(["a", "b", "c"], {"a": 4.0, "b": 1.0}) == {"a": 1.0, "b": 0.25, "c": 0.0}
    assert scale_weights(["a", "b"], None) == {"a": 1.0, "b": 1.0}
