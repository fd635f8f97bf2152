"""Examples that share one row of the language model learn what they would learn in rows of their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, Say, select_example, slow_losses, tiny_batch, tiny_llm, tiny_model
from tiny_training import WIDTH, color_example, save_language_model, tiny_config
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from operators.batch import IGNORED_LABEL, ModelBatch
from operators.causal import share_row, use_causal_kernel
from pipelines.train.assembly import assemble
from pipelines.train.gradients import accumulate_gradients
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.shape import ActivationPlan, ModelShape, plan_of
from schemas.errors import ConfigError

IMAGE = [Say("human", 5, (1,)), Say("gpt", 4)]
VIDEO = [Say("human", 3), Say("human", 4, (3,)), Say("gpt", 6)]
TEXT = [Say("human", 11), Say("gpt", 3), Say("human", 5), Say("gpt", 7)]
TWO_IMAGES = [Say("human", 2, (1,)), Say("human", 4, (1,)), Say("gpt", 3), Say("human", 5), Say("gpt", 2)]
LONE_TOKEN = [Say("human", 1)]
MIXED = [TEXT, IMAGE, VIDEO, LONE_TOKEN, TWO_IMAGES]
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def windowed_llm() -> PreTrainedModel:
    """Every layer sees the last five tokens; most examples are longer."""
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5))


def half_windowed_llm() -> PreTrainedModel:
    """The second layer sees the last six tokens."""
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    assert config.layer_types == ["full_attention", "sliding_attention"]
    return Qwen2ForCausalLM(config)


LLMS = {"llama": tiny_llm, "mistral": windowed_llm, "qwen2": half_windowed_llm}


def draw_model(stage: int, llm: str = "llama", **plan: Any) -> OneTokenModel:
    shape = ModelShape(
        encoder_width=16, grid=2, num_prefusion_layers=2, prefusion_init="random", num_compressor_heads=2
    )
    model = build_model(LLMS[llm](), shape, stage, plan=ActivationPlan(**plan))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator) * 0.15
            weight.copy_(drawn + 1.0 if weight.ndim == 1 else drawn)
    return model.train()


def backward(model: OneTokenModel, batch: ModelBatch) -> dict[str, Tensor]:
    model.zero_grad()
    loss = model(batch)
    loss.total.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return gradients | {"loss": loss.total.detach(), "by example": loss.example_totals}


def read_logits(model: OneTokenModel, batch: ModelBatch) -> list[Tensor]:
    """What the language model says at every token of each example of a pack."""
    seen: list[Tensor] = []
    hook = model.llm.base_model.norm.register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        model(batch)
    hook.remove()
    lengths = model.lay_out(batch, batch.frames, packed=True).sequence.lengths
    assert seen[0].shape[:2] == (1, sum(lengths))
    return list(model.head(seen[0])[0].split(list(lengths)))


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize(("stage", "views"), [(1, 1), (2, 1), (2, 5)])
def test_a_pack_learns_what_padded_rows_learn(stage: int, views: int, llm: str) -> None:
    batch = tiny_batch(MIXED, views=views)
    expected = backward(draw_model(stage, llm), batch)
    found = backward(draw_model(stage, llm, packed=True), batch)
    assert found.keys() == expected.keys()
    assert len(found) > (5 if stage == 1 else 30)
    for name, value in expected.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_pack_learns_what_examples_learn_alone() -> None:
    model, batch = tiny_model(plan=ActivationPlan(packed=True)), tiny_batch(MIXED)
    expected = slow_losses(model, batch).detach()
    torch.testing.assert_close(model(batch).example_totals, expected, rtol=1e-5, atol=1e-5)


def test_recomputing_a_pack_changes_nothing() -> None:
    batch = tiny_batch(MIXED)
    expected = backward(draw_model(2, "qwen2", packed=True), batch)
    plan = {"checkpoint": True, "frames_per_chunk": 2, "loss_rows_per_chunk": 4}
    found = backward(draw_model(2, "qwen2", packed=True, **plan), batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("changes", ["text", "picture"])
def test_an_example_reaches_no_other_of_its_pack(changes: str, llm: str) -> None:
    model, batch = draw_model(2, llm, packed=True), tiny_batch([IMAGE, VIDEO, TEXT, TWO_IMAGES])
    before = read_logits(model, batch)
    for changed in range(4):
        other = change_example(batch, changed, changes)
        for index, (one, two) in enumerate(zip(before, read_logits(model, other), strict=True)):
            reached = index == changed and not (changes == "picture" and changed == 2)
            assert torch.equal(one, two) is not reached, (changed, index)


def change_example(batch: ModelBatch, index: int, changes: str) -> ModelBatch:
    """Another text or other pictures for one example, of the same lengths."""
    if changes == "text":
        token_ids = batch.token_ids.clone()
        row = token_ids[index]
        row[(row >= 0) & batch.attention_mask[index]] += 1
        token_ids[index] = torch.where(row >= VOCABULARY, 0, row)
        labels = torch.where(batch.labels == IGNORED_LABEL, batch.labels, token_ids)
        return replace(batch, token_ids=token_ids, labels=labels)
    first = sum(batch.frames_per_example[:index])
    frames = batch.frames.clone()
    frames[first : first + batch.frames_per_example[index]] += 1.0
    return replace(batch, frames=frames)


def test_positions_begin_anew() -> None:
    batch = tiny_batch([IMAGE, TEXT, LONE_TOKEN])
    model = draw_model(2, packed=True)
    padded = model.lay_out(batch, batch.frames).sequence
    packed = model.lay_out(batch, batch.frames, packed=True).sequence
    assert padded.positions is None
    assert padded.sources.shape == (3, max(padded.lengths))
    assert packed.positions.tolist() == [[place for length in padded.lengths for place in range(length)]]
    rows = zip(padded.sources, padded.lengths, strict=True)
    assert packed.sources.tolist() == [[source for row, length in rows for source in row[:length].tolist()]]
    for layout in (padded, packed):
        predicted = layout.sources.flatten()[layout.label_rows + 1]
        assert batch.labels.flatten()[predicted].tolist() == layout.label_targets.tolist()


def test_examples_alone_equal_those_of_a_pack() -> None:
    model, batch = draw_model(2, "mistral", packed=True), tiny_batch(MIXED)
    for index, logits in enumerate(read_logits(model, batch)):
        alone = read_logits(model, select_example(batch, index))
        torch.testing.assert_close(alone[0], logits, rtol=1e-4, atol=1e-5)


def test_no_mask_is_made_and_no_padding_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor | None] = []
    attend = functional.scaled_dot_product_attention

    def look(*rows: Tensor, attn_mask: Tensor | None = None, **rest: Any) -> Tensor:
        masks.append(attn_mask)
        return attend(*rows, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", look)
    batch = tiny_batch([TEXT] + [[Say("human", 2), Say("gpt", 1)]] * 9)
    counted: list[int] = []
    for packed in (False, True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            draw_model(2, packed=packed)(batch)
        counted.append(counter.get_total_flops())
    assert len(masks) == 2 + 2 * 10
    assert set(masks) == {None}
    # 26 + 9 * 3 tokens, padded 260; the head reads learned tokens alone
    assert counted[1] < 0.25 * counted[0]


def test_layers_that_would_mix_examples_are_refused() -> None:
    llm = tiny_llm()
    llm.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ConfigError, match=r"linear_attention.*unit: cell"):
        build_model(llm, ModelShape(encoder_width=16), 1, plan=ActivationPlan(packed=True))
    build_model(llm, ModelShape(encoder_width=16), 1)


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def test_the_unit_decides(llm_folder: Path, tmp_path: Path) -> None:
    """Units that are packs are computed as packs, and a step comes out the same."""
    examples = [color_example(index, frames=1 + index % 2, text_only=index == 3) for index in range(5)]
    gradients: list[Tensor] = []
    for unit in ("cell", "pack"):
        config = tiny_config(llm_folder, tmp_path, data={"unit": unit, "unit_tokens": 400})
        assert plan_of(config).packed is (unit == "pack")
        assembly = assemble(config, WIDTH)
        found = accumulate_gradients(assembly, [examples[:3], [], examples[3:]], torch.float32)
        weights = [weight.grad.flatten() for weight in assembly.model.parameters() if weight.grad is not None]
        gradients.append(torch.cat([torch.tensor([found.loss]), *weights]))
    assert gradients[0][1:].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_a_decoder_that_drops_the_lengths_mixes_nothing() -> None:
    """The mask that stands for them covers no key, so attention without them fails."""
    llm = tiny_llm()
    use_causal_kernel(llm)
    shared = share_row([3, 2], torch.tensor([[0, 1, 2, 0, 1]]))
    ids = torch.arange(5)[None]
    assert llm(input_ids=ids, **shared).logits.shape[1] == 5
    del shared["example_lengths"]
    with pytest.raises(RuntimeError):
        llm(input_ids=ids, **shared)
