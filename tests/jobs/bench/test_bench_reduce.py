"""`onetoken bench reduce`, on few and small views."""

import pytest
import torch

from jobs.bench import reduce
from jobs.bench.bounds import BOUNDS
from jobs.bench.feature_statistics import STATISTICS
from jobs.bench.reduce import draw_view, loop_over_keys, loop_over_tokens
from jobs.bench.reduced_sizes import measure_sizes
from operators.reducers import build_reducer, reduce_view
from schemas.reducer import ReducerConfig


@pytest.mark.parametrize("loop", [loop_over_tokens, loop_over_keys])
@pytest.mark.parametrize("seed", range(3))
def test_the_loops_are_the_reducer(seed: int, loop) -> None:
    view = draw_view(seed, num_patches=64, width=16)
    found = reduce_view(build_reducer(ReducerConfig(name="prumerge", neighbors=5)), view)
    torch.testing.assert_close(found, loop(view, 5), rtol=1e-4, atol=1e-5)


def test_it_tells_a_ratio(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "NUM_ROUNDS", 1)
    monkeypatch.setattr(reduce, "draw_view", lambda seed: draw_view(seed, num_patches=64, width=16))
    threads = torch.get_num_threads()
    monkeypatch.setattr(reduce, "measure_sizes", lambda say, _: measure_sizes(say, 2, 576, 32))
    measured = reduce.measure(tmp_path, lambda _: None, 0.1)
    assert torch.get_num_threads() == threads
    assert measured.ratios["prumerge_vs_loop"] > 1
    assert measured.details["key_loop_ms"] > measured.details["token_loop_ms"] > 0
    assert measured.details["tokens"] >= 1
    assert set(measured.ratios) == set(BOUNDS["reduce"])


def test_sizes_are_those_of_the_tokens_that_are_left() -> None:
    """A quarter of the tokens takes a quarter of the bytes, and what every view costs besides."""
    ratios, details = measure_sizes(lambda _: None, 2, 576, 32)
    for kind in STATISTICS:
        assert details[f"spatial_{kind}_tokens"] == 144
        assert 1 <= details[f"prumerge_{kind}_tokens"] < 144 == details[f"prumerge_plus_{kind}_tokens"]
        assert details[f"prumerge_{kind}_size"] < details[f"prumerge_plus_{kind}_size"] < 0.4
    assert ratios["spatial_size"] == max(details[f"spatial_{kind}_size"] for kind in STATISTICS)
    assert 0.25 < ratios["spatial_size"] < 0.3
