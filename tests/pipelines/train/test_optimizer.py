"""Rates by hand, and the optimizer against torch's own with torch's own schedule."""

import math
from pathlib import Path

import pytest
import torch
from tiny_training import WIDTH, save_language_model, tiny_config

from pipelines.train.adamw import AdamW
from pipelines.train.assembly import assemble
from pipelines.train.schedule import rate_factor
from schemas.errors import MismatchError
from schemas.training import OptimizerConfig


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def test_warm_up_and_cosine() -> None:
    config = OptimizerConfig(warmup_share=0.2)
    factors = [rate_factor(step, 10, config) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    expected = [0.5 * (1 + math.cos(math.pi * share / 8)) for share in range(8)]
    assert factors[2:] == pytest.approx(expected)
    assert factors == sorted(factors[:2]) + sorted(factors[2:], reverse=True)
    assert factors[-1] > 0


def test_no_warm_up_and_constant() -> None:
    flat = OptimizerConfig(warmup_share=0.0, schedule="constant")
    assert [rate_factor(step, 3, flat) for step in range(3)] == [1.0, 1.0, 1.0]
    assert rate_factor(0, 1, OptimizerConfig()) == 1.0


def give_gradients(weights: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_groups_move_at_their_own_rates_as_torch_would(llm: Path, tmp_path: Path) -> None:
    settings = {
        "lr": 1e-2,
        "projector_lr": 1e-4,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "betas": [0.8, 0.9],
    }
    config = tiny_config(llm, tmp_path, optimizer=settings)
    ours, theirs = assemble(config, WIDTH).model, assemble(config, WIDTH).model
    optimizer = AdamW(ours, config, num_steps=5)
    groups = [
        {
            "params": [weight for _, weight in group.parameters],
            "lr": {"projector": 1e-4, "rest": 1e-2}[group.name],
        }
        for group in theirs.parameter_groups()
    ]
    assert len(groups) == 2
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        reference, lambda step: rate_factor(step, 5, config.optimizer)
    )
    for step in range(3):
        for model in (ours, theirs):
            give_gradients([weight for weight in model.parameters() if weight.requires_grad], step)
        optimizer.begin_step(step)
        assert optimizer.end_step() > 0.5
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
        schedule.step()
    trained = dict(theirs.named_parameters())
    assert all(torch.equal(weight, trained[name]) for name, weight in ours.named_parameters())
    assert all(weight.grad is None for weight in ours.parameters())


def test_without_a_limit_gradients_stay(llm: Path, tmp_path: Path) -> None:
    config = tiny_config(llm, tmp_path, optimizer={"max_grad_norm": None})
    model = assemble(config, WIDTH).model
    optimizer = AdamW(model, config, 1)
    weight = model.projector[0].weight
    weight.grad = gradient = torch.full_like(weight, 1e6)
    assert optimizer.end_step() == pytest.approx(1e6 * math.sqrt(weight.numel()))
    assert gradient.min() == 1e6


def test_a_gradient_that_is_no_number_moves_nothing(llm: Path, tmp_path: Path) -> None:
    model = assemble(tiny_config(llm, tmp_path), WIDTH).model
    optimizer = AdamW(model, tiny_config(llm, tmp_path), 1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    give_gradients([weight for weight in model.parameters() if weight.requires_grad], 0)
    model.projector[0].weight.grad.fill_(math.nan)
    assert math.isnan(optimizer.end_step())
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_state_of_other_parameters_is_refused(llm: Path, tmp_path: Path) -> None:
    one = assemble(tiny_config(llm, tmp_path, stage=1), WIDTH).model
    optimizer = AdamW(one, tiny_config(llm, tmp_path, stage=1), 1)
    assert optimizer.state_tensors() == {}
    with pytest.raises(MismatchError, match=r"compressor.queries.exp_avg"):
        optimizer.load_state_tensors({"compressor.queries.exp_avg": torch.zeros(1, 16)})
    with pytest.raises(MismatchError, match=r"projector.0.bias.exp_avg"):
        optimizer.load_state_tensors({"projector.0.bias.exp_avg": torch.zeros(3)})
