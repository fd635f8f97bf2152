"""The benchmark of the stream on a few items: all sides read the same, and no key is forgotten."""

import pytest

from jobs.bench.bounds import BOUNDS
from jobs.bench.feature_corpus import write_feature_corpus
from jobs.bench.stream import measure
from jobs.bench.stream_rates import count_streamed, list_batches, list_ranges, open_bench_stream, take_turns
from operators.feature_file import cut_views, read_header
from pipelines.stream.reader import FeatureReader
from schemas.errors import WorkError


def test_all_sides_read_the_same_items_in_the_same_order(tmp_path):
    corpus = write_feature_corpus(tmp_path, num_shards=3, items_per_shard=2)
    stream = open_bench_stream(corpus, corpus.storage)
    batches = list_batches(stream)
    streamed = [
        [example.media[0].patches.shape[:2] for example in batch] for step in stream for batch in step
    ]
    assert [[(1, 5)] * len(batch) for batch in batches] == streamed
    assert sorted(place for batch in batches for place in batch) == sorted(corpus.keys)
    ranges = list_ranges(corpus, batches)
    read = [corpus.storage.read_range(path, offset, length) for path, offset, length in ranges]
    reader = FeatureReader(corpus.storage, corpus.manifest, corpus.spec)
    bare = [medium for batch in batches for (medium,) in reader.read_features(batch)]
    for item, medium in zip(read, bare, strict=True):
        assert cut_views(read_header(item), memoryview(item)) == [*medium.payloads]
    assert count_streamed(stream) == count_streamed(stream) == 6
    with pytest.raises(WorkError, match="nothing was compared"):
        take_turns({"one": lambda: 1, "other": lambda: 2})


@pytest.mark.slow
def test_every_key_is_measured(tmp_path):
    measured = measure(tmp_path, lambda words: None, scale=0.001)
    assert {*measured.ratios, *measured.not_measured} == BOUNDS["stream"].keys()
    assert set(measured.not_measured) <= {"s3_vs_ranged"}
    assert all(value > 0 for value in measured.ratios.values())
