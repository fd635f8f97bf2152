"""Every gradient of the whole small model against differences of its loss, in double precision."""

import pytest
import torch
from tiny_models import Say, tiny_batch, tiny_model
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm

EXAMPLES = [
    [Say("human", 4, (1,)), Say("gpt", 3)],
    [Say("human", 5, (3,)), Say("gpt", 2), Say("human", 3), Say("gpt", 2)],
    [Say("human", 3), Say("gpt", 3)],
]
STEP = 2e-5


def normalize(norm: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    """The library's norm, which would round to float32 on its way."""
    return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


@pytest.mark.parametrize(
    ("stage", "trains_embeddings", "count"), [(1, False, 4), (2, False, 51), (2, True, 52)]
)
def test_gradients_are_differences(
    monkeypatch: pytest.MonkeyPatch, stage: int, trains_embeddings: bool, count: int
) -> None:
    monkeypatch.setattr(LlamaRMSNorm, "forward", normalize)
    model = tiny_model(stage, trains_embeddings=trains_embeddings).double()
    batch = tiny_batch(EXAMPLES).to("cpu", torch.float64)
    model(batch).total.backward()
    generator = torch.Generator().manual_seed(0)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == count
    for name, weight in trained.items():
        assert weight.grad is not None
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            losses = []
            for sign in (1, -1):
                weight += sign * STEP * direction
                losses.append(float(model(batch).total))
                weight -= sign * STEP * direction
        slope = (losses[0] - losses[1]) / (2 * STEP)
        assert slope != 0, name
        assert float((weight.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6), name
