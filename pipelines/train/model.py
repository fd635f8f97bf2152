"""The one-token model: cached features and text in, a summed loss out.

Stage 1 aligns the projector: all patches of the whole picture stand in place of the medium's token, as in
LLaVA. Stage 2 is LLaVA-Mini: each frame becomes C*C compressed tokens, and pre-fusion writes what the patches
say into the instruction before the language model reads it. Baselines put another reducer in the
compressor's place, or none; features that were reduced before come with their counts of tokens. The vision
tower is never here: its output comes from the cache.

The language model is any Hugging Face causal LM with Llama-like parts (`layers`, `embed_tokens`, `norm` and
an output head). Its token embeddings are looked up without gradient unless asked, as in the published
training. Rows are right-padded and causal, so no attention mask is ever given: what a token reads stands
before it. A pack is one row: positions begin anew with each example, and none attends to another.
"""

from functools import partial
from typing import Final, Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from operators.batch import ModelBatch
from operators.causal import check_shareable, share_row, use_causal_kernel
from operators.prefusion import Prefusion
from operators.projector import Projector
from operators.reducers import Reducer, ViewFeatures, build_reducer, build_trained_reducer
from pipelines.train.fusion import FrameFusion, average_frames
from pipelines.train.layout import BatchLayout, FusionLayout, SequenceLayout, plan_batch
from pipelines.train.loss import token_losses
from pipelines.train.recompute import recompute_layers
from pipelines.train.shape import ActivationPlan, ModelShape, Stage
from schemas.errors import MismatchError
from schemas.reducer import ReducerConfig

LOGITS_PER_CHUNK: Final = 2**26
"""Logits that exist at once; with their fp32 form and gradients 12 bytes each."""


class LossSum(NamedTuple):
    """A loss to be divided by the labels of the whole global batch."""

    total: Float[Tensor, ""]
    """Cross-entropy summed over learned tokens, fp32; carries the gradient."""
    num_labels: int
    example_totals: Float[Tensor, " batch"]
    """The same sum per example, detached; for evaluation by source."""
    example_labels: tuple[int, ...]


class ParameterGroup(NamedTuple):
    """Trainable parameters that share a learning rate."""

    name: Literal["projector", "rest"]
    parameters: tuple[tuple[str, nn.Parameter], ...]


class SplicedRows(NamedTuple):
    """What the language model reads, and where its tokens came from."""

    embeddings: Float[Tensor, "rows length width"]
    layout: SequenceLayout


class OneTokenModel(nn.Module):
    """Projector, compressor, pre-fusion and language model, for one stage of training."""

    def __init__(
        self, llm: PreTrainedModel, shape: ModelShape, stage: Stage, plan: ActivationPlan | None = None
    ) -> None:
        """Build fresh modules around `llm`, on its device and in its dtype; stage 1 has a projector only.

        Raises:
            ConfigError: the shape does not fit the language model, or its examples cannot share a row.
        """
        super().__init__()
        self.shape, self.stage, self.plan = shape, stage, plan or ActivationPlan()
        if self.plan.packed:
            check_shareable(llm.config)
        use_causal_kernel(llm)
        self.llm = llm
        embeddings = self.token_embeddings
        self.projector = Projector(shape.encoder_width, embeddings.embedding_dim)
        self.compressor: nn.Module | None = None
        self.prefusion: Prefusion | None = None
        self.pooling = build_pooling(shape.reducer)
        if stage == 2:
            if shape.reducer.is_trained:
                self.compressor = build_trained_reducer(
                    shape.reducer,
                    shape.encoder_width,
                    shape.num_compressor_heads,
                    grid=shape.grid,
                    positions=shape.positions,
                )
            if shape.num_prefusion_layers:
                self.prefusion = Prefusion(llm.config, shape.num_prefusion_layers, shape.prefusion_init)
                self.copy_to_prefusion()
        for module in (self.projector, self.compressor, self.prefusion):
            if module is not None:
                _match_weights(module, embeddings.weight)
        self._plan_recomputing()

    def copy_to_prefusion(self) -> None:
        """Where pre-fusion starts as a copy of the language model's first layers: copy them.

        A model is built so; it is for who loads other weights of the language model afterwards.
        """
        if self.prefusion is not None and self.shape.prefusion_init == "copy":
            self.prefusion.copy_layers(cast("nn.ModuleList", self.llm.base_model.layers))

    def _plan_recomputing(self) -> None:
        """Recompute layer by layer; chunks of frames are recomputed around that."""
        decoders = [self.llm] if self.prefusion is None else [self.llm, self.prefusion.decoder]
        for decoder in decoders if self.plan.checkpoint else ():
            recompute_layers(decoder)

    @property
    def token_embeddings(self) -> nn.Embedding:
        """The language model's table of token embeddings."""
        return cast("nn.Embedding", self.llm.get_input_embeddings())

    @property
    def head(self) -> nn.Module:
        """The language model's output layer."""
        return cast("nn.Module", self.llm.get_output_embeddings())

    def set_trainable(self) -> None:
        """Let this stage's parameters train: the projector (1), or all but the token embeddings (2).

        These train where the shape says so. Of a language model with adapters, the adapters alone.
        An output head that shares the embeddings' weights trains all the same, through its own use of them.
        """
        adapters = [weight for name, weight in self.llm.named_parameters() if "lora_" in name]
        for weight in self.parameters():
            weight.requires_grad = self.stage == 2 and weight.is_floating_point()
        self.projector.requires_grad_(True)
        if adapters:
            self.llm.requires_grad_(False)
            for weight in adapters:
                weight.requires_grad = True
            return
        is_tied = self.token_embeddings.weight is getattr(self.head, "weight", None)
        if self.stage == 2 and not is_tied and not self.shape.trains_embeddings:
            self.token_embeddings.requires_grad_(False)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """The trainable parameters by group, empty groups left out."""
        trainable = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        projector = tuple(pair for pair in trainable if pair[0].startswith("projector."))
        rest = tuple(pair for pair in trainable if not pair[0].startswith("projector."))
        groups = (ParameterGroup("projector", projector), ParameterGroup("rest", rest))
        return tuple(group for group in groups if group.parameters)

    def lay_out(
        self,
        batch: ModelBatch,
        frames: Float[Tensor, "frames views patches encoder_width"] | None,
        *,
        packed: bool = False,
    ) -> BatchLayout:
        """Where the tokens of a batch with these frames go; cheapest while the batch stands on the CPU.

        `packed` puts its examples into one row of the language model, without padding.
        """
        shape = (1, 0) if frames is None else (frames.shape[1], frames.shape[2])
        self.check_reduced(batch)
        fuses = self.prefusion is not None
        return plan_batch(batch, self.count_frame_tokens(*shape), fuses=fuses, packed=packed)

    def count_frame_tokens(self, num_views: int, num_patches: int) -> int:
        """What a frame takes in the language model's sequence; of reduced frames, the longest."""
        reducer = self.shape.reducer
        if self.compressor is not None:
            return self.shape.grid**2 if reducer.name == "query" else reducer.num_tokens
        views = 1 if self.stage == 1 else num_views
        kept = num_patches if self.pooling is None else self.pooling.bound_tokens(num_patches).most
        return views * kept if num_patches else 0

    def check_reduced(self, batch: ModelBatch) -> None:
        """Refuse to reduce again what was reduced before, and patches that a reader should have reduced.

        Raises:
            MismatchError: these features were, and this model reduces; or they were not, and its reducer
                works where features are read.
        """
        if batch.frames_per_medium and batch.frame_tokens is None and self.shape.reducer.needs_focus:
            raise MismatchError(
                f"this model reads the tokens that {self.shape.reducer.name} leaves, and these features hold "
                "all patches; reduce them while they are read (`ReducingReader`), or look at a reduced cache"
            )
        if batch.frame_tokens is not None and (self.compressor is not None or self.pooling is not None):
            raise MismatchError(
                "these features hold reduced tokens and no patches: write `model: {reducer: all}`, or train "
                "from a cache of all patches"
            )

    def count_passes(self, batch: ModelBatch) -> int:
        """How often the vision modules run for a batch."""
        num_frames = sum(batch.frames_per_medium)
        size = self.plan.frames_per_chunk if self.stage == 2 else None
        return min(num_frames, 1) if size is None else -(-num_frames // size)

    def forward(
        self, batch: ModelBatch, layout: BatchLayout | None = None, num_passes: int | None = None
    ) -> LossSum:
        """The summed loss of a batch that stands on the model's device.

        Args:
            batch: its examples.
            layout: as `lay_out` gave it; omitted: laid out now, packed if the plan says so.
            num_passes: how often the vision modules run, at least as often as the batch needs; where several
                processes compute together, all must run them alike. Omitted: as the batch needs.
        """
        planned = layout or self.lay_out(batch, batch.frames, packed=self.plan.packed)
        rows, sequence = self.splice(batch, planned, num_passes)
        packed = {} if sequence.positions is None else share_row(sequence.lengths, sequence.positions)
        hidden = self.llm.base_model(inputs_embeds=rows, use_cache=False, **packed).last_hidden_state
        losses = token_losses(
            self.head,
            hidden.flatten(0, 1)[sequence.label_rows],
            sequence.label_targets,
            self.plan.loss_rows_per_chunk or max(1, LOGITS_PER_CHUNK // self.token_embeddings.num_embeddings),
        )
        example_totals = losses.new_zeros(len(sequence.lengths)).index_add(
            0, sequence.label_examples, losses.detach()
        )
        return LossSum(losses.sum(), losses.shape[0], example_totals, sequence.labels_per_example)

    def splice(
        self,
        batch: ModelBatch,
        layout: BatchLayout | None = None,
        num_passes: int | None = None,
        frames_at_once: int | None = None,
    ) -> SplicedRows:
        """The rows that the language model reads: vision tokens for media, fused text where marked.

        With `frames_at_once` no gradient passes, frames may stand in another memory, and what is held beside
        the rows does not depend on their number (stage 2).
        """
        text = self.embed(batch.token_ids).flatten(0, 1)
        planned = (layout or self.lay_out(batch, batch.frames)).to(text.device)
        vision = text.new_zeros(0, 0, text.shape[1])
        if batch.frames is not None:
            frames = batch.frames[:, -1:] if self.stage == 1 else batch.frames
            if frames_at_once is not None and planned.fusion is not None:
                vision, text = self._fuse_by_and_by(planned.fusion, batch, frames, text, frames_at_once)
            else:
                vision, text = self._fuse(self._fusion(), planned.fusion, batch, frames.to(text), text)
        num_idle = (num_passes or 0) - self.count_passes(batch)
        if num_idle > 0:
            text = text + self._run_idle(num_idle, text)
        pool = torch.cat([text, vision.flatten(0, 1), text.new_zeros(1, text.shape[1])])
        return SplicedRows(pool[planned.sequence.sources], planned.sequence)

    def embed(self, token_ids: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """Token embeddings; the place of a medium gets those of token 0, which nothing reads."""
        embeddings: Tensor = self.token_embeddings(token_ids.clamp(min=0))
        return embeddings if self.stage == 2 and self.shape.trains_embeddings else embeddings.detach()

    def _fusion(self) -> FrameFusion:
        compress = self.compressor if self.pooling is None else partial(pool_frames, self.pooling)
        return FrameFusion(self.projector, compress, self.prefusion)

    def _run_idle(self, num_passes: int, text: Float[Tensor, "tokens width"]) -> Float[Tensor, ""]:
        """Zero, through the vision modules: one view of one patch, `num_passes` times, times 0."""
        num_patches = 1 if self.pooling is None else self.shape.reducer.num_tokens
        view = text.new_zeros(1, 1, num_patches, self.shape.encoder_width)
        if self.stage == 1:
            return self.projector(view).sum() * 0
        instruction = text.new_zeros(1, 1, text.shape[1])
        idle = [self._fusion().fuse(view, instruction) for _ in range(num_passes)]
        return torch.stack([part.compressed.sum() + part.instruction.sum() for part in idle]).sum() * 0

    def _fuse(
        self,
        fusion: FrameFusion,
        layout: FusionLayout | None,
        batch: ModelBatch,
        frames: Float[Tensor, "frames views patches encoder_width"],
        text: Float[Tensor, "tokens width"],
    ) -> tuple[Float[Tensor, "frames queries width"], Float[Tensor, "tokens width"]]:
        """Compressed tokens of all frames, and the text with its instructions in their fused form."""
        counts = _count_tokens(batch, text.device)
        plan = self.plan if self.stage == 2 else ActivationPlan()
        if layout is None:
            empty = text.new_zeros(frames.shape[0], 0, text.shape[1])
            return fusion.fuse_in_chunks(frames, empty, plan, counts).compressed, text
        fused = fusion.fuse_in_chunks(frames, text[layout.places][layout.owners], plan, counts)
        instruction = average_frames(fused.instruction, layout.frames_per_example).flatten(0, 1)
        return fused.compressed, text.index_copy(0, layout.targets, instruction[layout.kept])

    def _fuse_by_and_by(
        self,
        layout: FusionLayout,
        batch: ModelBatch,
        frames: Float[Tensor, "frames views patches encoder_width"],
        text: Float[Tensor, "tokens width"],
        size: int,
    ) -> tuple[Float[Tensor, "frames queries width"], Float[Tensor, "tokens width"]]:
        """The same, some frames at a time."""
        with torch.no_grad():
            compressed, means = self._fusion().fuse_by_and_by(
                frames, text[layout.places], layout.owners, size, _count_tokens(batch, text.device)
            )
        return compressed, text.index_copy(0, layout.targets, means.flatten(0, 1)[layout.kept])


def _count_tokens(batch: ModelBatch, device: torch.device) -> Int64[Tensor, " frames"] | None:
    own = batch.frame_tokens
    return None if own is None else torch.tensor(own, device=device)


def pool_frames(
    reducer: Reducer, views: Float[Tensor, "frames views patches width"]
) -> Float[Tensor, "frames queries width"]:
    """Tokens of frames, as many of each; a reducer's choice of patches carries no gradient of its own.

    Reducers that see no focus weigh all views alike, so one product serves all.
    """
    weights = reducer.weigh(ViewFeatures(views[0, 0]))
    return (weights @ views.to(torch.float32)).to(views.dtype).flatten(1, 2)


def _match_weights(module: nn.Module, like: Tensor) -> None:
    """Move a module and cast its weights, but not its buffers: rotary frequencies must stay fp32."""
    module.to(like.device)
    for weight in module.parameters():
        weight.data = weight.data.to(like.dtype)


def build_pooling(config: ReducerConfig) -> Reducer | None:
    """The reducer that works on a model's patches: one without weights that leaves a known number."""
    if config.is_trained or config.needs_focus or config.name == "all":
        return None
    return build_reducer(config)


def build_model(
    llm: PreTrainedModel,
    shape: ModelShape,
    stage: Stage,
    *,
    seed: int = 0,
    plan: ActivationPlan | None = None,
) -> OneTokenModel:
    """A model with fresh modules drawn from `seed`, its stage's parameters trainable.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        model = OneTokenModel(llm, shape, stage, plan)
    model.set_trainable()
    return model
