"""What a checkpoint says about itself: `state.json`, written last of its files."""

from typing import Final, Literal

from schemas.configuration import StrictModel
from schemas.feature import FeatureSpec

CHECKPOINT_FORMAT: Final = 1


class RunIdentity(StrictModel):
    """What must be the same when a run is resumed, besides its configuration."""

    manifest_sha256: str
    """Of the corpus manifest that the order of examples was worked out from."""
    spec: FeatureSpec
    """Of the features; here in full, so that a new picture can be encoded alike without the corpus."""
    encoder: str
    """The name or folder of the encoder; not compared, since it may have moved."""

    @property
    def encoder_width(self) -> int:
        """Width of the features."""
        return self.spec.encoder.width

    @property
    def compared_fields(self) -> dict[str, object]:
        """What must agree, by name."""
        fields: dict[str, object] = {"manifest_sha256": self.manifest_sha256}
        fields.update((f"spec.{name}", value) for name, value in self.spec.list_values().items())
        return fields


class CheckpointState(StrictModel):
    """Where a run stands, and the digests of its files."""

    format: Literal[1] = CHECKPOINT_FORMAT
    step: int
    """Optimizer steps taken."""
    stream: dict[str, int | str]
    """Position in the order of examples, as its source counts it."""
    stage: Literal[1, 2]
    identity: RunIdentity
    run_sha256: str
    """Of the configuration's fields that decide numbers."""
    versions: dict[str, str]
    """Of the libraries that computed it; information, not compared."""
    files: dict[str, str]
    """Every other file of the folder by its path, with its sha256."""
