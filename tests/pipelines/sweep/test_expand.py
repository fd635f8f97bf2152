"""What a sweep is made of: runs, names, refusals; which shards are held out."""

import re
from pathlib import Path

import pytest

from pipelines.sweep.expand import expand
from pipelines.sweep.held_out import choose_held_out
from schemas.configuration import build, load_yaml, parse_yaml
from schemas.errors import ConfigError
from schemas.plan import Leaf
from schemas.record import Modality
from schemas.sweep import SweepConfig

ROOT = Path(__file__).resolve().parents[3]
BASE = {
    "corpus": "c",
    "stage": 2,
    "out": "o",
    "model": {"llm": "x", "reducer": "average"},
    "optimizer": {"lr": 1e-3},
}


def expand_sweep(base: object = BASE, **parts: object):
    sweep = build({"base": "base.yaml", "out": "sweep", **parts}, SweepConfig, "test")
    return expand(sweep, base, "sweep.yaml")


def test_each_variant_at_each_point_in_the_order_of_the_file() -> None:
    runs = expand_sweep(
        variants={"fused": {}, "plain": {"model.prefusion.layers": 0}},
        grid={"data.micro_batch": [1, 2], "optimizer.lr": [1e-3, 1e-4]},
    )
    assert list(runs) == [
        *(
            "fused micro_batch=1 lr=0.001",
            "fused micro_batch=1 lr=0.0001",
            "fused micro_batch=2 lr=0.001",
            "fused micro_batch=2 lr=0.0001",
        ),
        *(
            "plain micro_batch=1 lr=0.001",
            "plain micro_batch=1 lr=0.0001",
            "plain micro_batch=2 lr=0.001",
            "plain micro_batch=2 lr=0.0001",
        ),
    ]
    changes, config = runs["plain micro_batch=2 lr=0.0001"]
    assert changes == {"model.prefusion.layers": 0, "data.micro_batch": 2, "optimizer.lr": 1e-4}
    assert (config.model.prefusion.layers, config.data.micro_batch, config.lr) == (0, 2, 1e-4)
    assert config.model.reducer.name == "average"


def test_names_without_variants_and_without_a_grid() -> None:
    assert list(expand_sweep()) == ["base"]
    grid = {"model.reducer": ["query", {"name": "average", "tokens": 16}], "run.steps": [None, 5]}
    assert list(expand_sweep(grid=grid)) == [
        *("reducer=query steps=none", "reducer=query steps=5"),
        *("reducer=average+16 steps=none", "reducer=average+16 steps=5"),
    ]
    paths = {"model.prefusion.layers": [1, 2], "model.lora.rank": [8], "memory.frames_per_chunk": [None]}
    twice = {"model.prefusion.init": ["copy"], "model.reducer.init": [1]}
    assert next(iter(expand_sweep(grid=paths))) == "layers=1 rank=8 frames_per_chunk=none"
    with pytest.raises(ConfigError, match=r"model\.prefusion\.init=copy model\.reducer\.init=1"):
        expand_sweep({**BASE, "model": {"llm": "x"}}, grid=twice)


def test_what_is_left_out_is_worked_out_for_each_run_anew() -> None:
    """Without gradient clipping in the backward pass, with it elsewhere."""
    in_backward = {
        "optimizer.kind": "adafactor",
        "optimizer.in_backward": True,
        "data.batch": 8,
    }
    runs = expand_sweep(variants={"plain": {}, "in_backward": in_backward})
    norms = [config.optimizer.max_grad_norm for _, config in runs.values()]
    assert norms == [1.0, None]


def test_the_sweep_of_the_documentation_is_one() -> None:
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs/sweeps.md").read_text(), re.DOTALL | re.MULTILINE
    )
    sweep = parse_yaml(block, SweepConfig, "sweeps.md")
    runs = expand(sweep, load_yaml((ROOT / sweep.base).read_text(), sweep.base), "sweeps.md")
    assert len(runs) == 8
    assert [
        config.model.reducer.num_tokens for _, config in runs.values() if config.model.reducer.tokens
    ] == [1] * 4


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"grid": {"model.griid": [1]}}, r"unknown key 'model\.griid', did you mean 'grid'\?"),
        ({"grid": {"optimiser.lr": [1e-3]}}, r"unknown key 'optimiser', did you mean 'optimizer'\?"),
        ({"variants": {"odd": {"model.grid": 99}}}, r"sweep\.yaml: 'odd': model\.grid"),
        ({"variants": {"odd": {"model.reducer.tokens": 4}}}, "`model.reducer` is 'average'"),
        ({"variants": {"odd": {"out": "here"}}}, "folder of its own"),
        ({"variants": {"odd": {"corpus": "d"}}}, "share one cache"),
        ({"grid": {"data.exclude": [["image-0"]]}}, "same shards"),
        ({"grid": {"run.held_out": [0.1, 0.2]}}, "same shards"),
        ({"variants": {"odd": {"data": {"batch": 4}}}}, "same shards"),
        ({"variants": {"a": {}, "b": {"run.device": "cpu"}}}, "'b' trains the same as 'a'"),
        ({"grid": {"data.micro_batch": [2, 2]}}, "two runs are called 'micro_batch=2'"),
        ({"variants": {"a": {"model.grid": 2}}, "grid": {"model.grid": [1]}}, "both change model.grid"),
        ({"grid": {"model.grid": []}}, "grid"),
        ({"griid": {}}, "did you mean 'grid'"),
    ],
)
def test_what_leads_nowhere_is_refused(parts: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expand_sweep(**parts)


def make_leaf(modality: Modality, prefix: str, num_items: int) -> Leaf:
    return Leaf(modality=modality, prefix=prefix, num_items=num_items, num_media_bytes=1, num_views=1)


IMAGES = [make_leaf(Modality.IMAGE, prefix, 10) for prefix in ("00", "01", "10", "11")]


def test_a_share_of_each_modality_is_held_out_in_whole_shards() -> None:
    plan = [*IMAGES, make_leaf(Modality.VIDEO, "", 5)]
    assert choose_held_out(plan, 0.05) == ("image-11",)
    assert choose_held_out(plan, 0.3) == ("image-10", "image-11")
    assert choose_held_out(plan, 0.99) == ("image-01", "image-10", "image-11")
    assert choose_held_out(plan, 0.05, ["image-11"]) == ("image-10",)
    clips = [make_leaf(Modality.VIDEO, "0", 5), make_leaf(Modality.VIDEO, "1", 5)]
    assert choose_held_out([*plan[:-1], *clips], 0.05) == ("image-11", "video-1")


def test_one_shard_of_each_modality_cannot_be_held_out() -> None:
    with pytest.raises(ConfigError, match="smaller `shards`"):
        choose_held_out([make_leaf(Modality.IMAGE, "", 9), make_leaf(Modality.VIDEO, "", 9)], 0.5)
