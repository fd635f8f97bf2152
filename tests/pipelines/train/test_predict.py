"""Predicted bytes against torch's own accounting of a real step, and against the formulas for real models."""

from pathlib import Path

import pytest
import yaml
from memory_formulas import GIB, LLAMA_8B, VICUNA_7B, Sizes, activation_gib, peak_gib, static_gib
from transformers import LlamaConfig

from jobs.bench.train_memory import record_peak
from pipelines.train.advice import apply, complete, find_changes, list_changes, refuse
from pipelines.train.known_llms import find_llm_config
from pipelines.train.predict import StepShape, largest_step, predict
from schemas.configuration import build
from schemas.training import TrainConfig

RECIPES = Path(__file__).resolve().parents[3] / "jobs/recipes"
SMALL = LlamaConfig(
    vocab_size=2000,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IN_BACKWARD = {"kind": "adafactor", "weights": "bfloat16", "in_backward": True}


def config_of(stage: int = 2, micro_batch: int = 2, **sections: dict[str, object]) -> TrainConfig:
    data = {"batch": micro_batch, "micro_batch": micro_batch} | sections.pop("data", {})
    fusion = {"prefusion": {"layers": 2, "init": "random"}} if stage == 2 else {}
    model = fusion | sections.pop("model", {})
    value = {"corpus": "c", "out": "o", "stage": stage, "data": data, "model": model, **sections}
    return build(value, TrainConfig, "test")


@pytest.mark.parametrize(
    ("config", "step"),
    [
        pytest.param(
            config_of(optimizer=IN_BACKWARD, memory={"checkpoint_layers": True}),
            StepShape(num_examples=2, num_tokens=60, num_labels=30, num_patches=144),
            id="in_backward",
        ),
        pytest.param(
            config_of(data={"batch": 4}),
            StepShape(num_examples=2, num_tokens=60, num_labels=30, num_patches=144),
            id="adamw",
        ),
        pytest.param(
            config_of(optimizer=IN_BACKWARD, memory={"checkpoint_layers": True, "frames_per_chunk": 2}),
            StepShape(num_examples=1, num_tokens=60, num_labels=30, num_frames=7, num_patches=144),
            id="video",
        ),
        pytest.param(
            config_of(stage=1, memory={"checkpoint_layers": True}),
            StepShape(num_examples=2, num_tokens=40, num_labels=30, num_patches=144),
            id="stage1",
        ),
        pytest.param(
            config_of(data={"unit": "pack", "units": 1}, memory={"checkpoint_layers": True}),
            StepShape(num_examples=4, num_tokens=60, num_labels=30, num_patches=144),
            id="pack",
        ),
    ],
)
def test_it_is_what_torch_counts(config: TrainConfig, step: StepShape) -> None:
    measured = record_peak(SMALL, config, step)
    predicted = predict(SMALL, config, step).peak
    assert predicted == pytest.approx(measured, rel=0.05), predicted / measured


TABLE = [
    # State per parameter, in the backward pass, then GiB of 7B and 8B: static, 4 examples, 16 examples.
    (8.0, False, (83.4, 84, 87), (94.9, 96, 99)),
    (4.0, False, (55.7, 57, 59), (63.6, 65, 68)),
    (2.03, False, (42.0, 43, 45), (48.2, 49, 52)),
    (2.03, True, (28.7, 29.5, 31.8), (34.5, 35.5, 38.6)),
    (1.06, True, (21.9, 22.7, 25.1), (26.9, 27.9, 31.0)),
    (1.02, True, (21.7, 22.5, 24.8), (26.6, 27.6, 30.7)),
    (2.0, True, (28.5, 29.2, 31.6), (34.2, 35, 38)),
    (0.27, True, (16.5, 17.3, 19.6), (20.7, 21.7, 24.8)),
    (0.004, True, (14.6, 15.4, 17.8), (18.6, 19.7, 22.8)),
]
"""Estimates for stage 2 with all layers recomputed: 120 text tokens, 40 of them learned, one view."""


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_optimizers(row: tuple[float, bool, tuple[float, ...], tuple[float, ...]]) -> None:
    state, in_backward, *expected = row
    for sizes, figures in zip((VICUNA_7B, LLAMA_8B), expected, strict=True):
        static = static_gib(sizes, state, in_backward=in_backward)
        own = [static, *(static + activation_gib(sizes, batch, 120, 40) for batch in (4, 16))]
        assert own == pytest.approx(list(figures), rel=0.05)


def test_the_table_lies_above_the_peak() -> None:
    """It adds up what is never held at the same time; of 8B and 16 examples by a tenth."""
    for sizes, batch, above in ((VICUNA_7B, 4, 1.03), (VICUNA_7B, 16, 1.04), (LLAMA_8B, 16, 1.11)):
        table = static_gib(sizes, 0.004, in_backward=True) + activation_gib(sizes, batch, 120, 40)
        assert table / peak_gib(sizes, 0.004, batch, 120, 40) == pytest.approx(above, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("llm", ["lmsys/vicuna-7b-v1.5", "meta-llama/Llama-3.1-8B"])
@pytest.mark.parametrize("recipe", ["stage2_32gb", "stage2_24gb"])
def test_shipped_configurations_fit_their_cards(recipe: str, llm: str) -> None:
    config = build(yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text()), TrainConfig, recipe)
    config = config.model_copy(update={"model": config.model.model_copy(update={"llm": llm})})
    assert config.memory.limit is not None
    peak = predict(find_llm_config(llm), config, largest_step(config)).peak
    assert 0.5 * config.memory.limit < peak <= config.memory.limit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"), [("lmsys/vicuna-7b-v1.5", VICUNA_7B), ("meta-llama/Llama-3.1-8B", LLAMA_8B)]
)
@pytest.mark.parametrize(
    ("kind", "state"), [("adafactor", 0.004), ("adamw_4bit", 1.06), ("adamw_8bit", 2.03)]
)
def test_real_models(name: str, sizes: Sizes, kind: str, state: float) -> None:
    """Predictions for 7B and 8B against arithmetic."""
    settings = {"kind": kind, "weights": "bfloat16", "in_backward": True}
    for batch in (4, 16):
        config = config_of(
            2,
            batch,
            optimizer=settings,
            memory={"checkpoint_layers": True},
            model={"prefusion": {"layers": 4}},
        )
        step = StepShape(num_examples=batch, num_tokens=120, num_labels=40)
        predicted = predict(find_llm_config(name), config, step).peak / GIB
        assert predicted == pytest.approx(peak_gib(sizes, state, batch, 120, 40), rel=0.05)


def test_the_largest_step_is_what_the_configuration_lets_through() -> None:
    hd = config_of(2, 3, data={"views": "all", "max_tokens": 100, "frames": {"uniform": 8}})
    assert largest_step(hd) == StepShape(
        num_examples=3, num_tokens=100, num_labels=50, num_frames=1, views_per_frame=5
    )
    video = config_of(2, 3, data={"frames": {"uniform": 8}})
    assert largest_step(video, 40).num_frames == 8
    assert largest_step(video, 40).num_tokens == 40
    assert largest_step(config_of(1, 3, data={"frames": {"uniform": 8}})).num_frames == 1


@pytest.mark.parametrize(("tokens", "rows", "length"), [(3000, 2, 2048), (512, 8, 512), (5000, 1, 4096)])
def test_the_largest_step_fills_a_budget(tokens: int, rows: int, length: int) -> None:
    config = config_of(2, 3, data={"unit": "pack", "unit_tokens": 4096, "max_tokens": 5000})
    step = largest_step(config, tokens)
    assert (step.num_examples, step.num_tokens) == (rows, length)


def weigh(config: TrainConfig) -> int:
    """Plain arithmetic in place of a prediction."""
    state = {"adamw": 12, "adamw_8bit": 4, "adamw_4bit": 3, "adafactor": 1}[config.optimizer.kind]
    tokens = config.data.micro_batch * config.data.max_tokens
    return 100 * state + tokens * (1 if config.memory.checkpoint_layers else 4) // 100


def test_the_cheapest_changes_come_first() -> None:
    config = config_of(2, 8, data={"batch": 256})
    assert weigh(config) == 1200 + 655
    mild = find_changes(config, lambda changed: weigh(changed) <= 1600)
    assert [str(change) for change in mild] == [
        "memory: {checkpoint_layers: true} (a third more time)",
        "data: {micro_batch: 4} (more, smaller passes a step)",
        "data: {micro_batch: 1} (more, smaller passes a step)",
    ]
    harsh = find_changes(config, lambda changed: weigh(changed) <= 320)
    assert harsh
    assert all("adafactor" in str(change) for change in harsh)
    for change in harsh:
        changed = apply(config, change.fields)
        assert weigh(changed) <= 320
        assert changed.optimizer.in_backward
        assert changed.data.batch == changed.data.micro_batch


def test_a_refusal_names_them() -> None:
    config = config_of(2, 8, data={"batch": 256})
    error = refuse(config, 1600 * 2**30, 1855 * 2**30, lambda changed: weigh(changed) <= 1600)
    assert "needs 1855.0 GiB and may take 1600.0 GiB" in str(error)
    assert str(error).count("\n  ") == 3
    assert "a smaller `model.llm`" in str(refuse(config, 1, 2, lambda _: False))


def test_every_change_makes_a_configuration() -> None:
    for config in (
        config_of(2, 8, data={"batch": 256}),
        config_of(2, 16, optimizer=IN_BACKWARD),
        config_of(1, 3),
    ):
        changes = list_changes(config)
        assert len(changes) >= 3
        for change in changes:
            assert apply(config, complete(config, change).fields) != config
