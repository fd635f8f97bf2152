"""What a checkpoint says about itself: `state.json`, written last of its files."""

from typing import Final, Literal

from schemas.configuration import StrictModel

CHECKPOINT_FORMAT: Final = 1


class RunIdentity(StrictModel):
    """What must be the same when a run is resumed, besides its configuration."""

    manifest_sha256: str
    """Of the corpus manifest that the order of examples was worked out from."""
    spec_sha256: str
    """Of the feature spec."""
    encoder_width: int


class CheckpointState(StrictModel):
    """Where a run stands, and the digests of its files."""

    format: Literal[1] = CHECKPOINT_FORMAT
    step: int
    """Optimizer steps taken."""
    stream: dict[str, int | str]
    """Position in the order of examples, as its source counts it."""
    stage: Literal[1, 2]
    identity: RunIdentity
    recipe_sha256: str
    """Of the configuration's fields that decide numbers."""
    versions: dict[str, str]
    """Of the libraries that computed it; information, not compared."""
    files: dict[str, str]
    """Every other file of the folder by its path, with its sha256."""
