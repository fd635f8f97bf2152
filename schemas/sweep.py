"""Sweeps: many training runs over one cache, as a user writes them, and the table that comes of them.

A change names a setting of the base by its dotted path, `model.grid` or `optimizer.lr`. What changes make of
the base must be a training configuration, so a misspelled path is refused before anything starts.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from schemas.configuration import StrictModel
from schemas.digest import SHORT, digest_of
from schemas.recipe import ByteSize
from schemas.training import TrainConfig

SWEEP_FORMAT: Final = 1
TABLE_NAME: Final = "table.json"
"""In the folder of a sweep."""

Changes = dict[str, Any]
"""Dotted path of a setting to its value."""


class SweepResources(StrictModel):
    """What one run occupies on its machine. Of the serial engine: nothing but `cpus` counts."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Also the threads of torch, where the configuration names none."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """0.5: two runs share one."""
    memory: ByteSize | None = None
    """Of the machine, not of the GPU."""
    hours: Annotated[float, Field(gt=0)] = 7 * 24.0
    """A run that takes longer is taken for lost, and goes on elsewhere from its last checkpoint."""


class SweepConfig(StrictModel):
    """Many runs: each of the variants at each point of the grid."""

    base: str
    """The training configuration that all start from. Its `out` counts for nothing here."""
    variants: Annotated[dict[str, Changes], Field(min_length=1)] | None = None
    """A name to what it changes. Omitted: one, the base as it is."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None
    """The path of a setting to its values; every combination is one point."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = 0.05
    """Share of the items of each modality that no run sees and all are evaluated on, in whole shards. null:
    evaluated on what the base leaves out by `data.exclude`."""
    resources: SweepResources = SweepResources()
    keep_checkpoint: bool = True
    """Of a finished run; false: its row alone is kept."""
    out: str
    """Folder of the table, and of a folder for each run."""


class Variant(StrictModel):
    """One run of a sweep."""

    name: str
    changes: Changes
    config: TrainConfig
    """The base with the changes, the held-out shards and its own folder."""
    spec: str
    """Short digest of the features that it reads."""
    manifest_sha256: str
    """The state of the corpus that it reads."""
    held_out: tuple[str, ...]
    """Shards that it is evaluated on."""
    keep_checkpoint: bool = True

    @property
    def digest(self) -> str:
        """Of all that decides the numbers; what names the run's folder."""
        fields = {
            "run": self.config.run_fields,
            "spec": self.spec,
            "manifest": self.manifest_sha256,
            "held_out": sorted(self.held_out),
        }
        return digest_of(fields)[:SHORT]


class SourceScore(StrictModel):
    """One source's held-out examples."""

    examples: int
    labels: int
    loss: float | None
    asked: int
    """Examples whose answer is a few words."""
    right: int


class VariantError(StrictModel):
    """Why a run failed."""

    kind: str
    """The error's class; those of this project are listed in the documentation."""
    message: str


class Outcome(StrictModel):
    """What a finished run came to."""

    steps: int
    train_loss: float
    """Mean over the last tenth of the logged steps."""
    loss: float | None
    """Mean over the learned tokens of held-out examples; None of nothing."""
    accuracy: float | None
    """Share of short answers that are right; None where nothing short was asked."""
    sources: dict[str, SourceScore]
    vision_tokens: int
    """That the language model reads of a frame; at most, where it depends on the picture."""
    flops: float
    """Of reading one frame from the cache with the text of the published tables; attention counted."""
    predicted_bytes: int
    """Peak of tensors in the largest step that the configuration allows."""
    measured_bytes: int
    """Peak of tensors on a GPU; of a CPU, of the process, which may have trained others before."""
    hours: float
    """Of all steps, at the mean time of those that were logged."""
    checkpoint: str | None


class SweepRow(StrictModel):
    """One run in the table: waiting, finished or failed."""

    name: str
    digest: str
    changes: Changes
    outcome: Outcome | None = None
    error: VariantError | None = None

    @model_validator(mode="after")
    def _one_state(self) -> "SweepRow":
        if self.outcome is not None and self.error is not None:
            raise ValueError("a run is either finished or failed")
        return self

    @property
    def state(self) -> Literal["waiting", "finished", "failed"]:
        """How it stands."""
        if self.error is not None:
            return "failed"
        return "waiting" if self.outcome is None else "finished"


class SweepTable(StrictModel):
    """`table.json`: a sweep as it stands, written anew after every run."""

    format: Literal[1] = SWEEP_FORMAT
    corpus: str
    manifest_sha256: str
    held_out: tuple[str, ...]
    rows: tuple[SweepRow, ...]
