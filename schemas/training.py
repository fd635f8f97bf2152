"""Training configurations, as a user writes them in YAML.

The defaults are the paper's (LLaVA-Mini, Table 9): stage 1 trains the projector for one epoch at 1e-3;
stage 2 everything but the vision tower for two at 1e-4, the projector at 1e-5; 256 examples a step, AdamW,
cosine with 3 % warm-up. `run_fields` leaves out what decides no number (places, logging, device, memory),
so that a run may be resumed elsewhere; everything else must be equal. `shared_fields` is what the processes
of a run have alike.
"""

from typing import Annotated, Literal, cast

from pydantic import Field, model_validator

from schemas.configuration import StrictModel
from schemas.digest import digest_of
from schemas.recipe import ByteSize
from schemas.reducer import ReducerConfig
from schemas.stream import HOW, DataConfig

Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
TemplateName = Literal["own", "vicuna_v1", "llava_llama_3"]

_NOT_COMPARED = {
    "corpus": True,
    "spec": True,
    "out": True,
    "data": HOW,
    "memory": True,
    "run": {
        "save_every",
        "keep_last",
        "stop_within_s",
        "evaluate_every",
        "evaluate_batches",
        "log_every",
        "device",
        "threads",
    },
}

_OF_A_MACHINE = {"corpus": True, "out": True, "data": HOW, "run": {"threads"}}


def _is_chosen(part: StrictModel, name: str) -> bool:
    """Whether a setting was given, and not as it would be anyway: what is written down has all of them."""
    default = cast("object", type(part).model_fields[name].default)
    return name in part.model_fields_set and cast("object", getattr(part, name)) != default


class PrefusionConfig(StrictModel):
    """Decoder layers that write what the patches say into the instruction."""

    layers: Annotated[int, Field(ge=0, le=64)] = 4
    """0 leaves pre-fusion out."""
    init: Literal["zero", "copy", "random"] = "zero"
    """zero: starts as the identity; copy: the language model's first layers; random: as it is initialized."""

    @model_validator(mode="after")
    def _has_layers_to_begin(self) -> "PrefusionConfig":
        if self.layers == 0 and _is_chosen(self, "init"):
            raise ValueError("layers: 0 leaves pre-fusion out; leave `init` out, too")
        return self


class LoraConfig(StrictModel):
    """Adapters of low rank on the language model (the extra `lora`), which itself is frozen."""

    rank: Count = 128
    alpha: Annotated[float, Field(gt=0)] = 256
    """What an adapter gives is scaled by alpha / rank."""
    dropout: Fraction = 0.05
    base: Literal["plain", "nf4"] = "plain"
    """What the language model's projections are kept in: `run.dtype`, or 4 bits (the extra `qlora`)."""


class ModelConfig(StrictModel):
    """The language model and what stands around it."""

    llm: str = "lmsys/vicuna-7b-v1.5"
    """A name on the Hub or a folder with safetensors and a tokenizer."""
    template: TemplateName = "own"
    """How a conversation is written in stage 2: the tokenizer's own chat template, Vicuna's, or LLaVA's for
    Llama 3 and 3.1, which has LLaVA's system prompt and no dates."""
    grid: Annotated[int, Field(gt=0, le=24)] = 1
    """C: a frame becomes C*C tokens (stage 2)."""
    reducer: ReducerConfig = ReducerConfig()
    """What a frame's patches become (stage 2): `query` is LLaVA-Mini, `all` with `prefusion: {layers: 0}`
    LLaVA-1.5. In stage 1 `query` means all patches. Of a reduced cache: all."""
    prefusion: PrefusionConfig = PrefusionConfig()
    positions: Literal["published", "native"] = "published"
    """published: the patches' positions are the C*C grid's, resized; native: those of the 24x24 patches."""
    lora: LoraConfig | None = None
    """`{}`: the language model trains through adapters (stage 2); everything else trains in full."""
    train_embeddings: bool = False
    """The language model's token embeddings train, too (stage 2); in the published training they do not. An
    output head that shares their weights trains either way."""
    start_from: str | None = None
    """A checkpoint folder. From stage 1: its projector and language model; from stage 2: everything."""
    init_from: str | None = None
    """Weights that others published, a folder or file: LLaVA-Mini's, LLaVA-1.5's, or its projector. What they
    hold replaces that part of the model, the rest stays fresh."""

    @model_validator(mode="after")
    def _one_start(self) -> "ModelConfig":
        if self.start_from is not None and self.init_from is not None:
            raise ValueError("give either start_from, for a checkpoint, or init_from, for published weights")
        return self

    @model_validator(mode="after")
    def _queries_have_a_compressor(self) -> "ModelConfig":
        unused = [name for name in ("grid", "positions") if _is_chosen(self, name)]
        if unused and self.reducer.name != "query":
            raise ValueError(
                f"{' and '.join(unused)}: of the compressor's queries, which `reducer: {self.reducer.name}` "
                "has not; leave out"
            )
        return self


OptimizerKind = Literal["adamw", "adafactor", "adamw_8bit", "adamw_4bit"]


class OptimizerConfig(StrictModel):
    """Who moves the weights, and how fast.

    - `adamw`: the paper's, two moments in float32.
    - `adafactor`: without momentum; the state is two vectors a matrix.
    - `adamw_8bit`, `adamw_4bit`: moments in 8 or 4 bits (the extra `torchao`).
    """

    kind: OptimizerKind = "adamw"
    weights: Literal["float32", "bfloat16"] = "float32"
    """What the weights that train are kept in. bfloat16 is rounded stochastically."""
    in_backward: bool = False
    """For one GPU: each weight moves as soon as its gradient is whole, and the gradient is dropped. A step is
    one micro-batch: the paper's 256 examples become the 16 to 32 that fit."""
    lr: Rate | None = None
    """Omitted: 1e-3 in stage 1, 1e-4 in stage 2."""
    projector_lr: Rate | None = None
    """Omitted: `lr` in stage 1, 1e-5 in stage 2."""
    warmup_share: Fraction = 0.03
    """Share of the steps over which the rate rises from zero."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to zero along a cosine, or flat."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The gradient of a step is scaled down to this norm; null: never, as in the backward pass."""

    @model_validator(mode="before")
    @classmethod
    def _no_norm_in_backward(cls, value: object) -> object:
        """Without `max_grad_norm`, an optimizer that cannot know the norm clips by none."""
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, object]", value)
        return {"max_grad_norm": None} | given if given.get("in_backward") is True else given

    @model_validator(mode="after")
    def _parts_fit(self) -> "OptimizerConfig":
        if self.in_backward and self.max_grad_norm is not None:
            raise ValueError(
                "in_backward knows no norm of all gradients before the weights move; leave max_grad_norm out"
            )
        if self.kind == "adamw" and (self.in_backward or self.weights == "bfloat16"):
            raise ValueError(
                "adamw keeps weights in float32 and all gradients; in_backward and weights: bfloat16 go with "
                "kind: adafactor, adamw_8bit or adamw_4bit, which round stochastically"
            )
        if self.kind == "adafactor" and _is_chosen(self, "betas"):
            raise ValueError("betas: of AdamW; adafactor has no moments to weigh, leave betas out")
        return self


class MemoryConfig(StrictModel):
    """What is recomputed instead of kept: decides memory and time, not the result."""

    checkpoint_layers: bool = False
    """Keep one hidden state per decoder layer and recompute the rest in the backward pass."""
    frames_per_chunk: Count | None = None
    """Frames that go through compressor and pre-fusion at once. Omitted: all."""
    limit: ByteSize | None = None
    """What a run may take, such as 30GiB; leave 1.5 GiB of a card to CUDA. Checked by `onetoken plan`."""


class LiveConfig(StrictModel):
    """Training without the cache: media are decoded and encoded in every step, to compare the two.

    The order of examples is planned over those that have features, so that both see the same.
    """

    encoder: str | None = None
    """Where the encoder is now, if it moved since; its weights must be the same."""
    batch_size: Count = 5
    """Views of a medium that a GPU encodes at once; what is missing is padded."""


class RunConfig(StrictModel):
    """How long, how often, where."""

    steps: Count | None = None
    epochs: Count | None = None
    """Omitted, as `steps`: 1 in stage 1, 2 in stage 2."""
    save_every: Count = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_last: Count | None = 2
    """Older checkpoints are removed once a newer one is whole; null: never."""
    stop_within_s: Count = 120
    """Seconds after SIGTERM within which the run ends its step and saves; then it ends unsaved. Under
    torchrun, `--shutdown-timeout` has to be longer: it is 30."""
    held_out: Rate | None = None
    """Share of the items of each modality that training leaves out, in whole shards that are chosen from the
    corpus: as if their names stood under `data.exclude`, instead of which it is."""
    evaluate_every: Count | None = None
    """Steps between losses on held-out examples: those of the shards that are left out. Null: never."""
    evaluate_batches: Count = 32
    """Micro-batches of held-out examples that are read each time."""
    log_every: Count = 10
    """Steps between lines of metrics.jsonl."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What layers compute in. What the weights that train are kept in, `optimizer.weights` says."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None
    """Threads of torch on the CPU. Omitted: as torch chooses."""

    @model_validator(mode="after")
    def _one_length(self) -> "RunConfig":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs, not both")
        return self


class TrainConfig(StrictModel):
    """One training run."""

    corpus: str
    """Folder or URL."""
    spec: str = "latest"
    """The digest of a feature spec of the corpus, at least its first 8 digits, or `latest`."""
    stage: Literal[1, 2]
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    live: LiveConfig | None = None
    """`{}`: features come from the sample shards through the encoder, not from the cache."""
    optimizer: OptimizerConfig = OptimizerConfig()
    memory: MemoryConfig = MemoryConfig()
    run: RunConfig = RunConfig()
    out: str
    """Folder for checkpoints and metrics."""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> "TrainConfig":
        if self.run.held_out is not None and self.data.exclude:
            raise ValueError("give either run.held_out, a share, or data.exclude, names of shards")
        return self

    @model_validator(mode="after")
    def _crops_are_for_stage_2(self) -> "TrainConfig":
        if self.stage == 1 and self.data.views == "all":
            raise ValueError("stage 1 looks at whole pictures; leave `data.views` out")
        return self

    @model_validator(mode="after")
    def _stage_1_has_a_projector_only(self) -> "TrainConfig":
        if self.stage == 2:
            return self
        unused = [
            f"`{section}.{name}`"
            for section, part, names in (
                ("model", self.model, ("template", "grid", "positions", "prefusion", "train_embeddings")),
                ("optimizer", self.optimizer, ("projector_lr",)),
                ("memory", self.memory, ("frames_per_chunk",)),
            )
            for name in names
            if _is_chosen(part, name)
        ]
        if unused:
            raise ValueError(
                "stage 1 trains the projector alone, at `optimizer.lr`, on all patches and captions; leave "
                f"{', '.join(unused)} out"
            )
        return self

    @model_validator(mode="after")
    def _live_reads_in_threads(self) -> "TrainConfig":
        if self.live is not None and self.data.workers:
            raise ValueError("live: one encoder serves the threads of one process; leave `data.workers` out")
        return self

    @model_validator(mode="after")
    def _lora_fits(self) -> "TrainConfig":
        if self.model.lora is not None and self.stage == 1:
            raise ValueError("stage 1 trains the projector alone; model.lora goes with stage 2")
        if self.model.lora is not None and self.optimizer.weights == "bfloat16":
            raise ValueError("model.lora: few weights train, in float32; leave optimizer.weights out")
        if self.model.lora is not None and self.model.train_embeddings:
            raise ValueError("model.lora freezes the language model; leave model.train_embeddings out")
        return self

    @model_validator(mode="after")
    def _reducer_fits(self) -> "TrainConfig":
        reducer = self.model.reducer
        if self.stage == 1 and reducer.is_trained and reducer.name != "query":
            raise ValueError(
                f"stage 1 trains the projector alone; `model.reducer: {reducer.name}` is for stage 2"
            )
        if reducer.needs_focus and self.live is not None:
            raise ValueError(
                f"`model.reducer: {reducer.name}` reads class rows from the cache; leave `live` out"
            )
        if reducer.needs_focus and self.data.workers:
            raise ValueError(
                f"`model.reducer: {reducer.name}` works while features are read, by threads; leave "
                "`data.workers` out"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_fits(self) -> "TrainConfig":
        if self.optimizer.in_backward and self.data.units_per_step != 1:
            size = min(self.data.batch, max(self.data.micro_batch, 16))
            raise ValueError(
                "optimizer.in_backward moves the weights with every micro-batch and cannot accumulate; write "
                f"data: {{batch: {size}, micro_batch: {size}}}"
            )
        if self.optimizer.weights == "bfloat16" and self.run.dtype != "bfloat16":
            raise ValueError("optimizer.weights: bfloat16 goes with run.dtype: bfloat16")
        return self

    @property
    def lr(self) -> float:
        """The highest rate of everything but the projector."""
        return self.optimizer.lr or (1e-3 if self.stage == 1 else 1e-4)

    @property
    def projector_lr(self) -> float:
        """The highest rate of the projector."""
        return self.optimizer.projector_lr or (self.lr if self.stage == 1 else 1e-5)

    @property
    def epochs(self) -> int | None:
        """Passes over the data; None where `run.steps` says how long."""
        if self.run.steps is not None:
            return None
        return self.run.epochs or (1 if self.stage == 1 else 2)

    @property
    def run_fields(self) -> dict[str, object]:
        """What decides the numbers, as `model.grid: 1` and so on."""
        return _flatten(self.model_dump(mode="json", exclude=_NOT_COMPARED), "")

    @property
    def shared_fields(self) -> dict[str, object]:
        """What all processes of a run must have alike: everything but places and threads of a machine."""
        return _flatten(self.model_dump(mode="json", exclude=_OF_A_MACHINE), "")

    @property
    def run_digest(self) -> str:
        """Digest of what decides the numbers."""
        return digest_of(self.run_fields)


def _flatten(value: dict[str, object], prefix: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat |= _flatten(inner, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[prefix + key] = inner
    return flat
