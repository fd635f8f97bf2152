"""The stream on a real S3 server: by items, or through a cache that several processes of a host share."""

import io
import multiprocessing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from test_real_ranks import weave
from test_stream import DATA, names, open_stream, run
from tiny_corpus import TinyCorpus, build_corpus
from watched_storage import read_objects

from infra.storage import Storage, open_storage
from pipelines.stream.stream import FeatureStream
from schemas.errors import CorruptError
from schemas.stream import CacheConfig, DataConfig

pytestmark = pytest.mark.usefixtures("real_s3")


def slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return build_corpus(tmp_path_factory.mktemp("corpus"), rejected=(0, 5))


@pytest.fixture
def remote(corpus: TinyCorpus, s3_url: str) -> Storage:
    """The corpus, on the server."""
    storage = open_storage(s3_url)
    for path, data in read_objects(corpus.storage.url).items():
        storage.put(path, io.BytesIO(data))
    return storage


def open_remote(corpus: TinyCorpus, storage: Storage, data: DataConfig, **changes) -> FeatureStream:
    arguments = {"seed": 3, "num_epochs": 2, **changes}
    return FeatureStream(storage, corpus.manifest, corpus.spec, data, **arguments)


def cached(folder: Path, max_bytes: int = 1 << 30, **changes) -> DataConfig:
    cache = CacheConfig(folder=str(folder), max_bytes=max_bytes, fetch="shards")
    return DATA.model_copy(update={"cache": cache, **changes})


def num_cached(folder: Path) -> int:
    return len([path for path in folder.iterdir() if path.is_file()])


@pytest.mark.parametrize("how", ["workers", "threads", slow("items"), slow("cache")])
def test_on_s3_it_is_the_same_run(corpus: TinyCorpus, remote: Storage, tmp_path: Path, how: str) -> None:
    data = {
        "items": DATA,
        "cache": cached(tmp_path),
        "threads": cached(tmp_path, threads=2),
        "workers": DATA.model_copy(update={"workers": 2}),
    }[how]
    here, there = open_stream(corpus), open_remote(corpus, remote, data)
    num_compared = 0
    for mine, theirs in zip(here, there, strict=True):
        assert names(mine) == names(theirs)
        for one, other in zip(chain(*mine), chain(*theirs), strict=True):
            for medium, again in zip(one.media, other.media, strict=True):
                assert torch.equal(medium.patches, again.patches)
                num_compared += 1
    assert num_compared > 100
    assert there.state_dict() == here.state_dict()


def test_it_resumes_on_s3_where_a_run_on_disk_stopped(
    corpus: TinyCorpus, remote: Storage, tmp_path: Path
) -> None:
    stream = open_stream(corpus)
    begun = [names(step) for step in islice(stream, 7)]
    rests = []
    for rank in range(2):
        resumed = open_remote(corpus, remote, cached(tmp_path), rank=rank, world_size=2)
        resumed.load_state_dict(stream.state_dict())
        rests.append([names(step) for step in resumed])
    assert begun + weave(rests) == run(open_stream(corpus))


def _run_rank(rank: int, corpus: TinyCorpus, url: str, data: DataConfig, answers: Any) -> None:
    stream = open_remote(corpus, open_storage(url), data, rank=rank, world_size=2)
    answers.put((rank, run(stream)))


@pytest.mark.parametrize("room", ["one block", slow("all")])
def test_processes_of_a_host_share_the_cache(
    corpus: TinyCorpus, remote: Storage, tmp_path: Path, room: str
) -> None:
    """Also one that is so small that each throws out what the other still reads."""
    sizes = sorted(shard.tar.num_bytes for shard in corpus.features.shards)
    block = sum(sizes[-DATA.shards_per_block :])
    assert block < sum(sizes)
    data = cached(tmp_path, 1 << 30 if room == "all" else block)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [
        context.Process(target=_run_rank, args=(rank, corpus, remote.url, data, answers)) for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    try:
        found = dict(answers.get(timeout=300) for _ in ranks)
    finally:
        for rank in ranks:
            rank.join(60)
            rank.kill()
    assert weave([found[0], found[1]]) == run(open_stream(corpus))
    if room == "all":
        assert num_cached(tmp_path) == len(sizes)
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()) <= data.cache.max_bytes


def test_what_is_damaged_in_the_cache_is_fetched_again_and_on_the_server_it_stops(
    corpus: TinyCorpus, remote: Storage, tmp_path: Path
) -> None:
    data = cached(tmp_path)
    whole = run(open_remote(corpus, remote, data))
    bad = next(shard for shard in corpus.features.shards if shard.name == "image-01")
    copy = tmp_path / bad.tar.path.rpartition("/")[2]
    copy.write_bytes(bytes(copy.stat().st_size))
    assert run(open_remote(corpus, remote, data)) == whole
    assert any(copy.read_bytes())
    copy.unlink()
    remote.remove(bad.tar.path)
    remote.put(bad.tar.path, io.BytesIO(bytes(bad.tar.num_bytes)))
    with pytest.raises(CorruptError, match=r"exclude: \[image-01\]"):
        run(open_remote(corpus, remote, data))
    excluded = data.model_copy(update={"exclude": ("image-01",)})
    assert len(run(open_remote(corpus, remote, excluded))) < len(whole)
