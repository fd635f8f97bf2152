"""The model against its slow twin, and the promises that training relies on."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_models import (
    Say,
    select_example,
    slow_losses,
    slow_rows,
    tiny_batch,
    tiny_llm,
    tiny_model,
)
from torch import Tensor, nn

from operators.batch import IGNORED_LABEL, ModelBatch
from pipelines.train.fusion import average_frames
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.shape import ActivationPlan, ModelShape

IMAGE = [Say("human", 5, (1,)), Say("gpt", 4)]
VIDEO = [Say("human", 3), Say("human", 4, (3,)), Say("gpt", 6)]
TEXT = [Say("human", 6), Say("gpt", 3)]
TWO_IMAGES = [Say("human", 2, (1,)), Say("human", 4, (1,)), Say("gpt", 3), Say("human", 5), Say("gpt", 2)]
PROJECTOR = {f"projector.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")}
MIXED = [IMAGE, VIDEO, TEXT, TWO_IMAGES]


def gradients(model: OneTokenModel) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def backward(model: OneTokenModel, batch: ModelBatch) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(batch)
    loss.total.backward()
    return loss.total.item(), gradients(model)


def reached(model: OneTokenModel, batch: ModelBatch) -> set[str]:
    return {name for name, gradient in backward(model, batch)[1].items() if gradient.abs().max() > 0}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("stage", "views", "prefusion_layers", "trains_embeddings"),
    [
        (1, 1, 0, False),
        (1, 5, 0, False),
        (2, 1, 0, False),
        (2, 1, 2, False),
        (2, 5, 2, False),
        (2, 1, 2, True),
    ],
)
def test_batch_equals_frame_by_frame(
    stage: int, views: int, prefusion_layers: int, trains_embeddings: bool
) -> None:
    model = tiny_model(stage, prefusion_layers=prefusion_layers, trains_embeddings=trains_embeddings)
    batch = tiny_batch(MIXED, views=views)
    model.zero_grad()
    expected = slow_losses(model, batch)
    expected.sum().backward()
    expected_gradients = gradients(model)
    model.zero_grad()
    loss = model(batch)
    loss.total.backward()
    torch.testing.assert_close(loss.example_totals, expected.detach(), rtol=1e-5, atol=1e-5)
    assert loss.total.item() == pytest.approx(expected.sum().item(), rel=1e-5)
    assert loss.num_labels == sum(loss.example_labels) == 18
    assert loss.example_labels == (4, 6, 3, 5)
    assert len(expected_gradients) > 2
    assert_same_gradients(gradients(model), expected_gradients)


def test_rows_equal_frame_by_frame() -> None:
    model, batch = tiny_model(), tiny_batch(MIXED)
    rows, layout = model.splice(batch)
    expected = slow_rows(model, batch)
    assert layout.lengths == tuple(len(row) for row in expected)
    for index, row in enumerate(expected):
        torch.testing.assert_close(rows[index, : len(row)], row, rtol=1e-5, atol=1e-5)
        assert not rows[index, len(row) :].any()


@pytest.mark.parametrize("frames_per_chunk", [None, 1, 2, 5])
@pytest.mark.parametrize(("checkpoint", "trains_embeddings"), [(False, False), (True, False), (True, True)])
def test_chunks_and_recomputing_change_nothing(
    frames_per_chunk: int | None, checkpoint: bool, trains_embeddings: bool
) -> None:
    batch = tiny_batch([IMAGE, VIDEO, TWO_IMAGES])
    plan = ActivationPlan(checkpoint=checkpoint, frames_per_chunk=frames_per_chunk, loss_rows_per_chunk=4)
    expected_loss, expected = backward(tiny_model(trains_embeddings=trains_embeddings), batch)
    model = tiny_model(plan=plan, trains_embeddings=trains_embeddings)
    fired: list[str] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda _, name=name: fired.append(name))
    loss, found = backward(model, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same_gradients(found, expected)
    assert sorted(fired) == sorted(expected), (
        "a gradient hook must fire once, or stepping inside backward is wrong"
    )


def test_evaluation_in_chunks_equals_training() -> None:
    batch = tiny_batch(MIXED)
    model = tiny_model(plan=ActivationPlan(checkpoint=True, frames_per_chunk=2, loss_rows_per_chunk=4))
    training = model(batch).total.item()
    with torch.no_grad():
        assert model.eval()(batch).total.item() == pytest.approx(training, rel=1e-6)


def test_recomputing_runs_layers_again() -> None:
    calls: list[bool] = []
    for checkpoint in (False, True):
        model = tiny_model(plan=ActivationPlan(checkpoint=checkpoint))
        model.prefusion.layers[0].mlp.register_forward_pre_hook(
            lambda *_, mark=checkpoint: calls.append(mark)
        )
        backward(model, tiny_batch([IMAGE]))
    assert calls == [False, True, True]


class TestGradientReach:
    def test_stage_one(self) -> None:
        model = tiny_model(1)
        assert {name for name, weight in model.named_parameters() if weight.requires_grad} == PROJECTOR
        assert reached(model, tiny_batch([IMAGE])) == PROJECTOR

    @pytest.mark.parametrize("example", [IMAGE, VIDEO, TWO_IMAGES], ids=["image", "video", "two images"])
    def test_stage_two(self, example: list[Say]) -> None:
        model = tiny_model(2)
        everything = {name for name, _ in model.named_parameters()} - {"llm.model.embed_tokens.weight"}
        assert any(name.startswith("prefusion.") for name in everything)
        assert reached(model, tiny_batch([example])) == everything

    def test_text_only(self) -> None:
        model = tiny_model(2)
        expected = {name for name, _ in model.named_parameters() if name.startswith("llm.")}
        assert reached(model, tiny_batch([TEXT])) == expected - {"llm.model.embed_tokens.weight"}

    @pytest.mark.parametrize("tied", [False, True])
    def test_token_embeddings_where_asked(self, tied: bool) -> None:
        """Those of the words that were read; the place of a medium reads none."""
        model = tiny_model(2, tied=tied, trains_embeddings=True)
        batch = tiny_batch([IMAGE, VIDEO, TEXT], seed=1)
        assert "llm.model.embed_tokens.weight" in reached(model, batch)
        rows, _ = model.splice(batch)
        (gradient,) = torch.autograd.grad(rows.square().sum(), [model.token_embeddings.weight])
        moved = set(gradient.abs().sum(dim=1).nonzero().flatten().tolist())
        is_word = batch.attention_mask & (batch.token_ids >= 0)
        assert moved == set(batch.token_ids[is_word].tolist())

    def test_tied_head_trains(self) -> None:
        model = tiny_model(2, tied=True)
        batch = tiny_batch([IMAGE])
        assert "llm.model.embed_tokens.weight" in reached(model, batch)
        rows, _ = model.splice(batch)
        (gradient,) = torch.autograd.grad(rows.sum(), [model.token_embeddings.weight], allow_unused=True)
        assert gradient is None

    def test_groups(self) -> None:
        model = tiny_model(2)
        groups = {group.name: {name for name, _ in group.parameters} for group in model.parameter_groups()}
        assert groups["projector"] == PROJECTOR
        trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert groups["projector"] | groups["rest"] == trainable
        assert [group.name for group in tiny_model(1).parameter_groups()] == ["projector"]


def change_tokens(batch: ModelBatch, where: Tensor) -> ModelBatch:
    token_ids = torch.where(where, (batch.token_ids + 1) % 50, batch.token_ids)
    labels = torch.where(batch.labels == IGNORED_LABEL, batch.labels, token_ids)
    assert (token_ids != batch.token_ids).any()
    return replace(batch, token_ids=token_ids, labels=labels)


def text_and_vision(model: OneTokenModel, batch: ModelBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Fused instruction tokens, answers and vision tokens of a batch without padding."""
    with torch.no_grad():
        rows, layout = model.splice(batch)
    flat, sources = rows.flatten(0, 1), layout.sources.flatten()
    is_text = sources < batch.token_ids.numel()
    fused = batch.fuse_mask.flatten()[sources[is_text]]
    return flat[is_text][fused], flat[is_text][~fused], flat[~is_text]


@pytest.mark.parametrize("views", [1, 5])
def test_question_never_reaches_compressed_tokens(views: int) -> None:
    model, batch = tiny_model(), tiny_batch([VIDEO], views=views)
    question, _, vision = text_and_vision(model, batch)
    other_question, _, other_vision = text_and_vision(model, change_tokens(batch, batch.fuse_mask))
    assert vision.shape[0] == 3 * 4
    assert torch.equal(vision, other_vision)
    assert not torch.equal(question, other_question)


def test_answer_never_reaches_fused_text() -> None:
    model, batch = tiny_model(), tiny_batch([TWO_IMAGES])
    question, answer, vision = text_and_vision(model, batch)
    changed = change_tokens(batch, batch.labels != IGNORED_LABEL)
    other_question, other_answer, other_vision = text_and_vision(model, changed)
    assert torch.equal(question, other_question)
    assert torch.equal(vision, other_vision)
    assert not torch.equal(answer, other_answer)


@pytest.mark.parametrize("stage", [1, 2])
def test_mates_and_padding_do_not_change_a_loss(stage: int) -> None:
    model = tiny_model(stage)
    batch = tiny_batch(MIXED, padding=7)
    together = model(batch).example_totals
    alone = torch.stack([model(select_example(batch, index)).total.detach() for index in range(len(MIXED))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert len(set(together.tolist())) == len(MIXED)


def test_pictures_stay_with_their_examples() -> None:
    model, batch = tiny_model(), tiny_batch([TWO_IMAGES, IMAGE, TEXT])
    before = model(batch).example_totals
    for frame, example in ((0, 0), (1, 0), (2, 1)):
        frames = batch.frames.clone()
        frames[frame] += 1.0
        after = model(replace(batch, frames=frames)).example_totals
        assert (after != before).nonzero().flatten().tolist() == [example]


def test_order_of_pictures_matters() -> None:
    model, batch = tiny_model(), tiny_batch([TWO_IMAGES])
    swapped = replace(batch, frames=batch.frames.flip(0))
    assert abs((model(batch).total - model(swapped).total).item()) > 1e-4


def test_text_only_is_the_language_model_alone() -> None:
    model = tiny_model()
    for module in (model.projector, model.compressor, model.prefusion):
        module.register_forward_pre_hook(lambda *_: pytest.fail("a text-only batch went through vision"))
    batch = tiny_batch([TEXT, TEXT])
    expected = model.llm(input_ids=batch.token_ids, labels=batch.labels).loss
    loss = model(batch)
    assert (loss.total / loss.num_labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_mask_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    attend = nn.functional.scaled_dot_product_attention

    def record(*tensors: Tensor, attn_mask: Tensor | None = None, **options: object) -> Tensor:
        mask = tensors[3] if len(tensors) > 3 else attn_mask
        seen.append((mask is not None, bool(options.get("is_causal"))))
        return (
            attend(*tensors, attn_mask=attn_mask, **options)
            if len(tensors) == 3
            else attend(*tensors, **options)
        )

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record)
    batch = tiny_batch(MIXED, padding=3)
    tiny_model()(batch)
    num_frames = sum(batch.frames_per_medium)
    expected = [(False, False)] * num_frames + [(False, True)] * 4
    assert seen == expected, "the compressor frame by frame, 2 pre-fusion layers, 2 layers"


def test_frames_are_averaged_in_float32() -> None:
    """Added up in bfloat16, frames would stop to count before the hundredth."""
    frames = (1 + torch.rand(500, 3, 8, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    means = average_frames(frames, (400, 100))
    expected = torch.stack([frames[:400].double().mean(dim=0), frames[400:].double().mean(dim=0)])
    assert means.dtype is torch.bfloat16
    assert torch.equal(means, expected.to(torch.bfloat16))
    slow = torch.zeros(3, 8, dtype=torch.bfloat16)
    for frame in frames[:400]:
        slow += frame
    assert float(((slow / 400).double() - expected[0]).abs().min()) > 0.1


def test_nothing_to_learn_is_a_zero_loss() -> None:
    model = tiny_model()
    batch = tiny_batch([[Say("human", 4, (1,))]])
    loss = model(batch)
    loss.total.backward()
    assert (loss.total.item(), loss.num_labels, loss.example_labels) == (0.0, 0, (0,))
    assert not model.projector[0].weight.grad.any()


def test_bfloat16_follows_the_language_model() -> None:
    shape = ModelShape(encoder_width=16, num_prefusion_layers=1, num_compressor_heads=2)
    model = build_model(tiny_llm().to(torch.bfloat16), shape, 2)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.prefusion.buffers()} == {torch.float32}, "rotary frequencies"
    loss = model(tiny_batch(MIXED).to("cpu", torch.float16))
    assert loss.total.dtype == torch.float32
    assert torch.isfinite(loss.total)


def test_seed_decides_fresh_weights() -> None:
    llm = tiny_llm()
    shape = ModelShape(
        encoder_width=16, num_prefusion_layers=1, prefusion_init="random", num_compressor_heads=2
    )
    before = torch.random.get_rng_state()
    states = [build_model(copy.deepcopy(llm), shape, 2, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["compressor.query"], states[2]["compressor.query"])
    assert not torch.equal(states[0]["projector.0.weight"], states[2]["projector.0.weight"])
