"""A shard that fails its digest stops all ranks: two real processes, one bad shard, no deadlock."""

import multiprocessing
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
from test_stream import DATA, names, open_stream
from tiny_corpus import TinyCorpus, build_corpus

from infra.storage import LocalStorage
from pipelines.stream.together import stop_together
from schemas.errors import CorruptError, NoSpaceError, PipelineError, StorageUnavailableError

NUM_RANKS = 2


def _run_rank(rank: int, corpus: TinyCorpus, meeting: Path, answers: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=NUM_RANKS
    )
    stream = open_stream(corpus, DATA, rank=rank, world_size=NUM_RANKS)
    seen: list[list[list[str]]] = []
    try:
        for step in stop_together(iter(stream)):
            seen += [names(step)]
        answers.put((rank, len(seen), ""))
    except CorruptError as error:
        answers.put((rank, len(seen), str(error)))
    torch.distributed.destroy_process_group()


def _run_ranks(corpus: TinyCorpus, meeting: Path) -> list[tuple[int, int, str]]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [
        context.Process(target=_run_rank, args=(rank, corpus, meeting, answers)) for rank in range(NUM_RANKS)
    ]
    for rank in ranks:
        rank.start()
    try:
        return sorted(answers.get(timeout=300) for _ in ranks)
    finally:
        for rank in ranks:
            rank.join(60)
            rank.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over files")
def test_one_bad_shard_stops_all_ranks(tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path / "corpus")
    bad = "image-01"
    stream = open_stream(corpus, DATA)
    by_id = {example.id: example for example in corpus.examples}
    whole = [
        {by_id[name].item.shard for batch in names(step) for name in batch} for step in islice(stream, 99)
    ]
    first_bad = next(place for place, shards in enumerate(whole) if bad in shards)
    assert first_bad > 0
    shutil.copytree(corpus.storage.url, tmp_path / "copy")
    copied = TinyCorpus(LocalStorage(tmp_path / "copy"), corpus.manifest, corpus.items, corpus.examples)
    tar = copied.tar_path(bad)
    tar.write_bytes(bytes(tar.stat().st_size))
    ended = _run_ranks(copied, tmp_path / "meeting")
    assert [rank for rank, _, _ in ended] == [0, 1]
    assert {num_steps for _, num_steps, _ in ended} == {first_bad}
    assert all(f"shard {bad}" in said and f"exclude: [{bad}]" in said for _, _, said in ended)
    assert ended[0][2] == ended[1][2]


@pytest.mark.parametrize(
    "failure", [CorruptError("torn"), StorageUnavailableError("no answer"), NoSpaceError("full")]
)
def test_what_may_recover_stays_so(tmp_path: Path, failure: PipelineError) -> None:
    """Whoever starts ranks again tries the one and not the other."""

    def fail():
        yield 1
        raise failure

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        steps = stop_together(fail())
        assert next(steps) == 1
        with pytest.raises(type(failure), match=f"rank 0 cannot read its part of a step: {failure}"):
            next(steps)
    finally:
        torch.distributed.destroy_process_group()


def test_an_error_in_a_worker_process_comes_when_its_step_would(tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path)
    tar = corpus.tar_path("image-01")
    tar.write_bytes(bytes(tar.stat().st_size))
    ended: list[tuple[list[list[list[str]]], dict[str, int | str], str]] = []
    for workers in (0, 2):
        stream = open_stream(corpus, DATA.model_copy(update={"workers": workers}), num_epochs=1)
        seen: list[list[list[str]]] = []
        with pytest.raises(CorruptError) as caught:
            seen.extend(map(names, stream))
        ended.append((seen, stream.state_dict(), str(caught.value)))
    assert ended[0][0]
    assert "shard image-01" in ended[0][2]
    assert "exclude: [image-01]" in ended[0][2]
    assert ended[0] == ended[1]
