"""Latency by its parts: the turns that ways take, ratios of rounds, and the product's own pieces below."""

from itertools import count
from statistics import median

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from operators.costs.flops import count_language_model, count_tower
from operators.costs.shapes import CLIP_L_336, VICUNA_7B, LanguageShape, VisionShape
from pipelines.analyze.latency import (
    WAYS,
    LatencyRow,
    compare_ways,
    count_prompt_tokens,
    make_batch,
    measure_latency,
    take_medians,
)
from pipelines.analyze.latency_subject import ShapePair, Subject, draw_subject, find_pair
from pipelines.analyze.stopwatch import CpuStopwatch, choose_stopwatch
from pipelines.train.generation import generate_tokens
from schemas.errors import ConfigError

TINY = ShapePair(
    llm=LanguageShape(
        name="tiny",
        layers=2,
        width=32,
        inner_width=48,
        heads=4,
        key_value_heads=2,
        vocabulary=61,
        context=128,
    ),
    tower=VisionShape(layers=2, width=64, inner_width=64, patches=16, patch_values=588),
)
CPU = torch.device("cpu")
VIEWS = 5


@pytest.fixture(scope="module")
def subject() -> Subject:
    return draw_subject(TINY, 5, VIEWS, CPU)


class Turns:
    """A stopwatch that notes who was timed, and tells 1, 2, 3 and 4 seconds for the parts of the first."""

    def __init__(self) -> None:
        self.ways: list[str] = []

    def time(self, parts):
        self.ways.append(parts[0].__self__.way)
        for part in parts:
            part()
        return (1.0, 2.0, 3.0, float(len(self.ways)))


def test_parts_are_told_apart() -> None:
    ticks = iter([10.0, 10.5, 12.0])
    done: list[str] = []
    parts = (lambda: done.append("first"), lambda: done.append("second"))
    assert CpuStopwatch(lambda: next(ticks)).time(parts) == (0.5, 1.5)
    assert done == ["first", "second"]
    assert isinstance(choose_stopwatch(CPU), CpuStopwatch)


def test_ways_take_turns_and_begin_by_turns(subject: Subject) -> None:
    turns = Turns()
    told: list[tuple[str, int, int]] = []
    rows = measure_latency(subject, turns, 3, lambda *words: told.append(words))
    cached, live, patches = WAYS
    assert turns.ways == [*WAYS, *WAYS, live, patches, cached, patches, cached, live]
    assert [(row.round, row.way) for row in rows] == [
        (place // 3, way) for place, way in enumerate(turns.ways[3:])
    ]
    assert [row.first_token_s for row in rows] == [4, 5, 6, 7, 8, 9, 10, 11, 12], (
        "the first three are warm-up"
    )
    assert [row.total_s for row in rows] == [6 + row.first_token_s for row in rows]
    assert told[-1] == ("rounds", 3, 3)


def test_ratios_are_taken_within_rounds() -> None:
    seconds = {"cached": (1.0, 10.0, 2.0), "live": (2.0, 30.0, 2.0), "all patches": (4.0, 30.0, 10.0)}
    rows = [
        LatencyRow(
            round=number, way=way, see_s=0.0, fuse_s=0.0, prefill_s=seconds[way][number], first_token_s=0.0
        )
        for number in range(3)
        for way in WAYS
    ]
    by_pair = {(row.slower, row.faster): row for row in compare_ways(rows)}
    live = by_pair["live", "cached"]
    assert (live.least, live.median, live.most) == (1.0, 2.0, 3.0)
    assert by_pair["all patches", "live"].median == median([2.0, 1.0, 5.0])
    assert by_pair["all patches", "cached"].median == median([4.0, 3.0, 5.0])
    assert [(way, values[-1]) for way, values in take_medians(rows)] == [
        ("cached", 2.0),
        ("live", 2.0),
        ("all patches", 10.0),
    ]


def test_each_way_reads_its_own_number_of_tokens(subject: Subject) -> None:
    assert count_prompt_tokens(subject) == {"cached": 1 + 5, "live": 1 + 5, "all patches": VIEWS * 16 + 5}
    facts = subject.list_facts()
    assert (facts["views"], facts["patches"], facts["llm_layers"], facts["prefusion_layers"]) == (
        VIEWS,
        16,
        2,
        4,
    )


def test_the_first_token_is_the_one_that_is_generated(subject: Subject, monkeypatch) -> None:
    """On the live way, by the code that answers questions."""
    chosen: list[int] = []
    head = subject.model.head

    def seen(states: torch.Tensor) -> torch.Tensor:
        logits = type(head).forward(head, states)
        chosen.append(int(logits.argmax()))
        return logits

    monkeypatch.setattr(head, "forward", seen)
    ticks = count()
    measure_latency(subject, CpuStopwatch(lambda: float(next(ticks))), 1)
    patches = subject.encoder.encode_fixed(subject.pixels, VIEWS).patches
    monkeypatch.undo()
    (answer,) = generate_tokens(subject.model, make_batch_of(patches), 1, frozenset())
    (plain,) = generate_tokens(subject.plain, make_batch_of(patches), 1, frozenset())
    assert chosen[4:6] == [*answer, *plain]


def make_batch_of(patches: torch.Tensor):
    from operators.batch import MediumFeatures

    return make_batch(MediumFeatures(patches[None]), 5)


def test_an_eighth_keeps_proportions() -> None:
    pair = find_pair("eighth")
    assert (pair.llm.width, pair.llm.inner_width, pair.tower.width) == (512, 1376, 128)
    wide = count_language_model(VICUNA_7B, 619).linear / count_tower(CLIP_L_336).linear
    narrow = count_language_model(pair.llm, 619).linear / count_tower(pair.tower).linear
    assert narrow == pytest.approx(wide, rel=0.02)
    assert find_pair("vicuna-7b").llm == VICUNA_7B
    with pytest.raises(ConfigError, match="eighth"):
        find_pair("nothing")


def test_shapes_become_models(subject: Subject) -> None:
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    wanted = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in subject.model.llm.state_dict().items()}
    assert found == wanted
    assert subject.plain.llm is subject.model.llm
    assert not any(weight.requires_grad for weight in subject.model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_is_timed_by_its_events() -> None:
    subject = draw_subject(TINY, 5, 1, torch.device("cuda"))
    rows = measure_latency(subject, choose_stopwatch(subject.device), 1)
    assert all(row.total_s > 0 for row in rows)
