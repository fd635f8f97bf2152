"""Audit: random views recomputed from stored media, compared with what the cache gives, and the result kept.

It is kept as `features/SPEC/audits/DIGEST.json`, created once and named by what it says: an audit is a
statement about a manifest and is never changed. What it costs is decoding and encoding of as many media as
views are asked for, of clips all frames decoded and one encoded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from infra.storage import Storage
from operators.codec import find_kind
from operators.fidelity import measure_fidelity
from pipelines.audit.loss import measure_loss_change, open_audited_checkpoint
from pipelines.audit.views import read_random_views
from pipelines.commit import parse_stored, read_named
from pipelines.engine import Progress, no_progress
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.fresh import FreshFeatures
from pipelines.stream.reader import FeatureReader, find_features
from schemas.corpus import Manifest
from schemas.digest import canonical_json, sha256_hex
from schemas.errors import ConfigError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.fidelity import AuditRecord, FidelityFloor

NUM_VIEWS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """What is audited, and what is demanded."""

    spec: str
    """Short digest."""
    num_views: int = NUM_VIEWS
    seed: int = 0
    floor: FidelityFloor | None = None
    """None: what the codec promises."""
    checkpoint: Path | None = None
    encoder: str | None = None
    """Where the encoder lies now, if it has moved."""


def audit(
    storage: Storage, manifest: Manifest, plan: AuditPlan, progress: Progress = no_progress
) -> tuple[str, AuditRecord]:
    """Compare and keep the result, above the floor or not; returns where it is kept, and the result.

    Raises:
        ConfigError: when the floor demands what only a checkpoint tells, and none is named.
        NotFoundError: when there are no such features, no view of them, no encoder, or no checkpoint.
        CorruptError: when stored features or media are damaged.
        MismatchError: when this machine would make other features, naming every field that differs.
    """
    floor = plan.floor
    if floor and floor.loss_change is not None and not plan.checkpoint:
        raise ConfigError(
            "the floor demands `loss_change`, which a checkpoint tells: name one with --checkpoint"
        )
    features = find_features(manifest, plan.spec)
    reader = FeatureReader(storage, manifest, plan.spec)
    spec = reader.spec
    checkpoint = open_audited_checkpoint(plan.checkpoint, spec) if plan.checkpoint else None
    fresh = FreshFeatures(storage, manifest, MediumEncoder(spec, plan.encoder or features.encoder))
    names: list[str] = []
    wanted: list[torch.Tensor] = []
    found: list[torch.Tensor] = []
    for view in read_random_views(reader, plan.num_views, plan.seed):
        names.append(f"{view.key}/{view.view}")
        found.append(view.patches)
        wanted.append(fresh.compute_view(view.shard, view.key, view.media, view.view))
        progress("audit", len(names), plan.num_views)
    if not names:
        raise NotFoundError(f"the cache {plan.spec} holds no view; there is nothing to audit")
    fidelity = measure_fidelity(torch.stack(wanted), torch.stack(found))
    loss = (
        measure_loss_change(storage, manifest, plan.spec, checkpoint, fresh, plan.seed)
        if checkpoint
        else None
    )
    floor = floor or promise_of(spec)
    shortfalls = fidelity.find_shortfalls(floor) + (loss.find_shortfalls(floor) if loss else [])
    record = AuditRecord(
        manifest_sha256=manifest.digest,
        spec_sha256=spec.digest,
        seed=plan.seed,
        num_views=plan.num_views,
        views=names,
        fidelity=fidelity,
        loss=loss,
        floor=floor,
        shortfalls=shortfalls,
        environment=_describe_environment(),
    )
    return keep_audit(storage, plan.spec, record), record


def find_audit(storage: Storage, manifest: Manifest, plan: AuditPlan) -> tuple[str, AuditRecord] | None:
    """An audit of this manifest that was kept, of as many views against the same floor.

    Raises:
        CorruptError: when one that was kept is not as it was written.
    """
    for path in storage.list(f"{_folder_of(plan.spec)}/audits"):
        record = parse_stored(read_named(storage, path), AuditRecord, f"{storage.url}/{path}")
        wanted = (manifest.digest, plan.seed, plan.num_views, plan.floor)
        if wanted == (record.manifest_sha256, record.seed, record.num_views, record.floor):
            return path, record
    return None


def promise_of(spec: FeatureSpec) -> FidelityFloor:
    """What the codec of a spec promises; nothing where a foreign one promises nothing."""
    promise = find_kind(spec.codec.name).promise
    return promise(spec.codec) if promise else FidelityFloor()


def keep_audit(storage: Storage, spec: str, record: AuditRecord) -> str:
    """Store a result under its digest; the same result is kept once. Returns its path."""
    data = canonical_json(record.model_dump(mode="json"))
    path = f"{_folder_of(spec)}/audits/{sha256_hex(data)}.json"
    storage.create(path, data)
    return path


def _folder_of(spec: str) -> str:
    return f"features/{spec}"


def _describe_environment() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "torch": torch.__version__}
