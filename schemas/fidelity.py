"""How far stored features are from what the encoder gives: what an audit measures, demands and keeps."""

from typing import Annotated, Final, Literal

from pydantic import Field

from schemas.configuration import StrictModel

AUDIT_FORMAT: Final = 1


class FidelityFloor(StrictModel):
    """The worst that is accepted; what is left out is not looked at."""

    raw_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least cosine of a token with its recomputed self."""
    normalized_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    """The same after each channel was brought to mean 0 and deviation 1: massive channels hide nothing."""
    channel_nrmse: Annotated[float, Field(ge=0)] | None = None
    """Greatest error of a channel over ordinary tokens (root mean square), by its deviation."""
    loss_change: Annotated[float, Field(ge=0)] | None = None
    """Greatest change of the training loss, by the loss."""


class Fidelity(StrictModel):
    """Stored against recomputed."""

    worst_raw_cosine: float
    mean_raw_cosine: float
    worst_normalized_cosine: float
    mean_normalized_cosine: float
    channel_nrmse: float
    """Of the worst channel."""
    worst_relative_error: float
    """Length of a token's error by the length of the token."""
    mean_relative_error: float

    def find_shortfalls(self, floor: FidelityFloor) -> list[str]:
        """What lies below the floor, in words; numbers that are no numbers do."""
        shortfalls: list[str] = []
        for name in ("raw_cosine", "normalized_cosine"):
            least, found = getattr(floor, name), float(getattr(self, f"worst_{name}"))
            if least is not None and not found >= least:
                shortfalls.append(f"{name} is {found:.6f}, at least {least:g} is demanded")
        if floor.channel_nrmse is not None and not self.channel_nrmse <= floor.channel_nrmse:
            shortfalls.append(
                f"channel_nrmse is {self.channel_nrmse:.4g}, at most {floor.channel_nrmse:g} is demanded"
            )
        return shortfalls


class LossChange(StrictModel):
    """The loss of one checkpoint on one batch, from recomputed and from stored features."""

    checkpoint_step: int
    checkpoint_run_sha256: str
    num_examples: int
    num_labels: int
    recomputed: float
    stored: float

    @property
    def relative(self) -> float:
        """Change by the loss that recomputed features give."""
        return abs(self.stored - self.recomputed) / self.recomputed

    def find_shortfalls(self, floor: FidelityFloor) -> list[str]:
        """What lies below the floor, in words."""
        if floor.loss_change is None or self.relative <= floor.loss_change:
            return []
        return [f"loss_change is {self.relative:.4g}, at most {floor.loss_change:g} is demanded"]


class AuditRecord(StrictModel):
    """What stands under `features/SPEC/audits/`: never changed, named by its digest."""

    format_version: Literal[1] = AUDIT_FORMAT
    manifest_sha256: str
    """Of the manifest whose features were audited."""
    spec_sha256: str
    seed: int
    num_views: int
    """That were asked for."""
    views: list[str]
    """Key of the item, and which of its views, `KEY/3`."""
    fidelity: Fidelity
    loss: LossChange | None
    floor: FidelityFloor
    shortfalls: list[str]
    environment: dict[str, str]
    """Device, torch version: features of another device class differ in their last bits."""
