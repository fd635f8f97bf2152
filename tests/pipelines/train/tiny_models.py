"""Models and batches of a few thousand numbers, and the slow, obvious model that the real one must equal."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, ModelBatch
from operators.view_grid import order_patches
from pipelines.train.model import OneTokenModel, build_model
from pipelines.train.shape import ActivationPlan, ModelShape, Stage

VOCABULARY = 61
PATCHES = 4
ENCODER_WIDTH = 16


def tiny_llm(*, tied: bool = False, layers: int = 2) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def tiny_model(
    stage: Stage = 2,
    *,
    grid: int = 2,
    prefusion_layers: int = 2,
    plan: ActivationPlan | None = None,
    tied: bool = False,
    trains_embeddings: bool = False,
    seed: int = 0,
) -> OneTokenModel:
    """A model whose weights are all large enough to matter."""
    shape = ModelShape(
        encoder_width=ENCODER_WIDTH,
        grid=grid,
        num_prefusion_layers=prefusion_layers,
        prefusion_init="random",
        num_compressor_heads=2,
        trains_embeddings=trains_embeddings,
    )
    model = build_model(tiny_llm(tied=tied), shape, stage, plan=plan)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator) * 0.15
            weight.copy_(drawn + 1.0 if weight.ndim == 1 else drawn)
    return model.train()


@dataclass(frozen=True)
class Say:
    """Tokens of one role, `frames` media before them: one medium for each number of frames."""

    role: str
    num_tokens: int
    frames: tuple[int, ...] = ()


def tiny_batch(examples: list[list[Say]], *, views: int = 1, seed: int = 0, padding: int = 0) -> ModelBatch:
    """Random tokens and features in the given layout."""
    generator = torch.Generator().manual_seed(seed)
    rows = [_example_row(turns, generator) for turns in examples]
    longest = max(len(row) for row in rows) + padding
    cells = [row + [(0, IGNORED_LABEL, False, False)] * (longest - len(row)) for row in rows]
    token_ids, labels, attended, fused = (
        torch.tensor([[cell[part] for cell in row] for row in cells]) for part in range(4)
    )
    media = [[count for turn in turns for count in turn.frames] for turns in examples]
    num_frames = sum(map(sum, media))
    frames = torch.randn(num_frames, views, PATCHES, ENCODER_WIDTH, generator=generator)
    return ModelBatch(
        token_ids=token_ids,
        labels=labels,
        attention_mask=attended,
        fuse_mask=fused,
        frames=frames if num_frames else None,
        frames_per_medium=tuple(count for counts in media for count in counts),
        media_per_example=tuple(map(len, media)),
        example_ids=tuple(f"example{index}" for index in range(len(examples))),
    )


def _example_row(turns: list[Say], generator: torch.Generator) -> list[tuple[int, int, bool, bool]]:
    row: list[tuple[int, int, bool, bool]] = []
    for turn in turns:
        row += [(MEDIUM_TOKEN, IGNORED_LABEL, True, False)] * len(turn.frames)
        ids = torch.randint(0, VOCABULARY, (turn.num_tokens,), generator=generator).tolist()
        answers = turn.role == "gpt"
        row += [(token, token if answers else IGNORED_LABEL, True, not answers) for token in ids]
    return row


def select_example(batch: ModelBatch, index: int) -> ModelBatch:
    """One example of a batch, without padding."""
    length = int(batch.attention_mask[index].sum())
    first = sum(batch.media_per_example[:index])
    counts = batch.frames_per_medium[first : first + batch.media_per_example[index]]
    skipped = sum(batch.frames_per_medium[:first])
    return ModelBatch(
        token_ids=batch.token_ids[index : index + 1, :length],
        labels=batch.labels[index : index + 1, :length],
        attention_mask=batch.attention_mask[index : index + 1, :length],
        fuse_mask=batch.fuse_mask[index : index + 1, :length],
        frames=batch.frames[skipped : skipped + sum(counts)] if counts else None,
        frames_per_medium=counts,
        media_per_example=(len(counts),),
        example_ids=(batch.example_ids[index],),
    )


def slow_rows(model: OneTokenModel, batch: ModelBatch) -> list[Tensor]:
    """What the language model reads, example by example and frame by frame, without padding."""
    rows = []
    for index in range(len(batch.example_ids)):
        example = select_example(batch, index)
        ids, fuse = example.token_ids[0], example.fuse_mask[0]
        text = model.token_embeddings(ids.clamp(min=0))
        if not model.shape.trains_embeddings:
            text = text.detach()
        frames = (
            []
            if example.frames is None
            else [_slow_frame(model, frame, text[fuse]) for frame in example.frames]
        )
        if frames and model.stage == 2:
            text = text.clone()
            text[fuse] = torch.stack([instruction for _, instruction in frames]).mean(dim=0)
        vision = [tokens for tokens, _ in frames]
        counts = list(example.frames_per_medium)
        pieces = []
        for place, token in enumerate(ids.tolist()):
            if token == MEDIUM_TOKEN:
                pieces += [vision.pop(0) for _ in range(counts.pop(0))]
            else:
                pieces.append(text[place : place + 1])
        rows.append(torch.cat(pieces))
    return rows


def _slow_frame(model: OneTokenModel, views: Tensor, instruction: Tensor) -> tuple[Tensor, Tensor]:
    if model.stage == 1:
        return model.projector(views[-1]), instruction
    compressed = model.projector(model.compressor(views[None])[0])
    if model.prefusion is None:
        return compressed, instruction
    patches = model.projector(order_patches(views[None])[0])
    fused = model.prefusion(torch.cat([patches, compressed, instruction])[None])[0]
    start, end = len(patches), len(patches) + len(compressed)
    return fused[start:end], fused[end:]


def slow_losses(model: OneTokenModel, batch: ModelBatch) -> Tensor:
    """The summed loss of each example, by the language model's own forward with all logits."""
    losses = []
    for index, rows in enumerate(slow_rows(model, batch)):
        example = select_example(batch, index)
        targets: list[int] = []
        media = list(example.frames_per_medium)
        tokens_per_frame = PATCHES if model.stage == 1 else model.shape.grid**2
        for token, label in zip(example.token_ids[0].tolist(), example.labels[0].tolist(), strict=True):
            repeats = media.pop(0) * tokens_per_frame if token == MEDIUM_TOKEN else 1
            targets += [label] * repeats
        logits = model.llm(inputs_embeds=rows[None]).logits[0]
        losses.append(functional.cross_entropy(logits[:-1], torch.tensor(targets)[1:], reduction="sum"))
    return torch.stack(losses)
