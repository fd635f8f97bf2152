"""Whole shards for few machines that read from afar, ranges for many and for whoever is beside the corpus."""

from pathlib import Path

import pytest
import torch.distributed
from test_stream import open_stream
from tiny_corpus import build_corpus

from infra.storage import LocalStorage, open_storage
from pipelines.stream.reader import FeatureReader
from pipelines.stream.source import CachedSource, DirectSource, open_source
from pipelines.train.processes import ALONE, join_processes
from schemas.stream import CacheConfig, DataConfig


@pytest.mark.parametrize(
    ("fetch", "is_local", "num_nodes", "kept"),
    [
        ("auto", False, 1, True),
        ("auto", False, 2, True),
        ("auto", False, 3, False),
        ("auto", True, 1, False),
        ("shards", True, 3, True),
        ("items", False, 1, False),
    ],
)
def test_who_keeps_whole_shards(tmp_path: Path, fetch, is_local, num_nodes, kept) -> None:
    storage = LocalStorage(tmp_path / "corpus") if is_local else open_storage("s3://bucket/corpus")
    cache = CacheConfig(folder=str(tmp_path / "cache"), fetch=fetch)
    assert type(open_source(storage, cache, num_nodes)) is (CachedSource if kept else DirectSource)
    assert type(open_source(storage, None, num_nodes)) is DirectSource


def test_what_takes_the_place_of_the_cache_reads_from_the_same_disk(tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path / "corpus")
    cache = CacheConfig(folder=str(tmp_path / "cache"), fetch="shards")
    data = DataConfig(batch=4, micro_batch=2, threads=0, shards_per_block=3, cache=cache)
    stream = open_stream(corpus, data)
    stream.reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    next(iter(stream))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert any(path.stat().st_size > 1000 for path in kept)


@pytest.mark.parametrize(("beside", "num_nodes"), [("1", 3), ("2", 2), ("3", 1), (None, 1)])
def test_processes_know_on_how_many_machines_they_are(monkeypatch, beside, num_nodes) -> None:
    with join_processes("cpu") as alone:
        assert alone is ALONE
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if beside:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
    with join_processes("cpu") as processes:
        assert (processes.rank, processes.world_size, processes.num_nodes) == (1, 3, num_nodes)
