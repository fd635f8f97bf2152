"""The codec benchmark on a few views: every key, the fidelity that is promised, and what is drawn for it."""

import pytest
import torch
from torch.nn.functional import normalize

from jobs.bench.bounds import BOUNDS
from jobs.bench.codec import measure
from jobs.bench.feature_statistics import STATISTICS, draw_views
from jobs.bench.result import Measured
from jobs.bench.token_choice import choose_tokens, make_weights, share_kept

PUBLISHED = {
    "clip_rand": (8, 3, 0.38),
    "hybrid": (127, 52, 0.84),
    "nominal": (144, 30, 0.70),
    "severe": (668, 180, 0.95),
}
"""Largest by median value, largest by median channel, mean cosine of two tokens: of the sets stood in for."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measure(tmp_path_factory.mktemp("bench"), lambda words: None, scale=0.5)


def test_every_key_is_measured_and_stands_where_it_has_to(measured: Measured) -> None:
    bounds = BOUNDS["codec"]
    assert measured.ratios.keys() == bounds.keys()
    judged = [key for key in bounds if "decode" not in key]
    assert len(judged) == 8
    assert [key for key in judged if not bounds[key].holds(measured.ratios[key])] == []
    assert all(measured.ratios[key] > 0 for key in bounds)


def test_codecs_leave_the_choice_of_tokens_nearly_alone(measured: Measured) -> None:
    for kind in STATISTICS:
        assert measured.details[f"fp16_{kind}_tokens_kept"] >= 0.98
        assert measured.details[f"int8_{kind}_tokens_kept"] >= 0.95
        assert measured.details[f"compact_{kind}_tokens_kept"] >= 0.9


def test_the_choice_is_of_a_few_tokens_that_stand_out() -> None:
    views = draw_views(STATISTICS["hybrid"], 2)
    chosen = choose_tokens(views, views.mean(dim=1), make_weights(1024))
    assert 5 <= int(chosen.sum()) <= 200
    shuffled = choose_tokens(views.flip(1), views.mean(dim=1), make_weights(1024))
    assert share_kept(chosen, chosen) == 1
    assert torch.equal(shuffled.flip(1), chosen)
    assert share_kept(chosen, ~chosen) == 0


@pytest.mark.parametrize("kind", sorted(STATISTICS))
def test_what_is_drawn_has_the_traits_it_stands_for(kind: str) -> None:
    values = draw_views(STATISTICS[kind], 4).flatten(0, 1)
    channels = values.abs().mean(dim=0)
    units = normalize(values[::7], dim=1)
    num = len(units)
    found = (
        float(values.abs().max() / values.abs().flatten()[::37].median()),
        float(channels.max() / channels.median()),
        float(((units @ units.t()).sum() - num) / (num * (num - 1))),
    )
    for value, wanted in zip(found, PUBLISHED[kind], strict=True):
        assert 0.65 * wanted <= value <= 1.35 * wanted


def test_the_same_seed_gives_the_same_views() -> None:
    two = draw_views(STATISTICS["severe"], 2, num_patches=30, width=24)
    assert torch.equal(two, draw_views(STATISTICS["severe"], 2, num_patches=30, width=24))
    assert not torch.equal(two, draw_views(STATISTICS["severe"], 2, seed=1, num_patches=30, width=24))
