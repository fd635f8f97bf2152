"""`onetoken bench train`, small; its rivals compute what the model computes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.bench import train
from jobs.bench.bounds import BOUNDS
from jobs.bench.train_sides import call_modules, loop_over_frames
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.shape import ModelShape
from pipelines.train.step_shape import StepShape, make_batch

TINY = LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
)


def tiny_model() -> OneTokenModel:
    shape = ModelShape(
        encoder_width=16, num_prefusion_layers=2, prefusion_init="random", num_compressor_heads=2
    )
    return build_model(LlamaForCausalLM(TINY), shape, 2)


@pytest.mark.parametrize(
    ("rival", "examples", "frames"), [(loop_over_frames, 1, 3), (call_modules, 3, 1)], ids=["loop", "bare"]
)
def test_a_rival_computes_the_same(rival, examples: int, frames: int) -> None:
    model = tiny_model()
    step = StepShape(
        num_examples=examples, num_tokens=9, num_labels=4, num_frames=frames, num_patches=4, encoder_width=16
    )
    batch = make_batch(step)
    generator = torch.Generator().manual_seed(0)
    batch.token_ids[:, 1:] = torch.randint(0, 50, (examples, 9), generator=generator)
    batch.labels[:, -4:] = batch.token_ids[:, -4:]
    assert batch.frames is not None
    batch.frames.normal_(generator=generator)
    losses, gradients = [], []
    for total in (model(batch).total, rival(model, batch)):
        total.backward()
        losses.append(float(total.detach()))
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]))
        model.zero_grad(set_to_none=True)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_it_tells_every_figure(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "NUM_ROUNDS", 1)
    monkeypatch.setattr(train, "MICRO_BATCH", 2)
    monkeypatch.setattr(train, "A_SIXTEENTH", TINY)
    monkeypatch.setattr(train, "PLANNED", train.PLANNED[:1])
    threads = torch.get_num_threads()
    measured = train.measure(tmp_path, lambda _: None, 0.05)
    assert torch.get_num_threads() == threads
    assert measured.ratios.keys() == BOUNDS["train"].keys()
    assert measured.ratios["video_batched_vs_loop"] > 0
    assert 0 <= measured.ratios["data_wait"] < 1
    assert measured.ratios["plan_error"] <= 0.05
