"""`onetoken bench reduce`, on few and small views."""

import pytest
import torch

from jobs.bench import reduce
from jobs.bench.reduce import draw_view, loop_over_tokens
from operators.reducers import build_reducer, reduce_view
from schemas.reducer import ReducerConfig


@pytest.mark.parametrize("seed", range(3))
def test_the_loop_is_the_reducer(seed: int) -> None:
    view = draw_view(seed, num_patches=64, width=16)
    found = reduce_view(build_reducer(ReducerConfig(name="prumerge", neighbors=5)), view)
    torch.testing.assert_close(found, loop_over_tokens(view, 5), rtol=1e-4, atol=1e-5)


def test_it_tells_a_ratio(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "NUM_ROUNDS", 1)
    monkeypatch.setattr(reduce, "draw_view", lambda seed: draw_view(seed, num_patches=64, width=16))
    threads = torch.get_num_threads()
    measured = reduce.measure(tmp_path, lambda _: None, 0.1)
    assert torch.get_num_threads() == threads
    assert measured.ratios["prumerge_vs_loop"] > 1
    assert measured.details["tokens"] >= 1
