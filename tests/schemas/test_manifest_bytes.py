"""A manifest is written piece by piece; the bytes are the canonical JSON of the whole."""

from schemas.corpus import FeatureReject, FeatureSet, Manifest, ObjectEntry, ShardEntry, SourceTotals
from schemas.digest import canonical_json, digest_of
from schemas.plan import Leaf, ShardPlan
from schemas.record import Modality


def entry(name: str) -> ObjectEntry:
    return ObjectEntry(path=f"shards/{name}", sha256="0" * 64, num_bytes=3, num_rows=1)


def make_manifest(num_shards: int) -> Manifest:
    names = [f"image-{number}" for number in range(num_shards)]
    shards = [ShardEntry(name=name, tar=entry(f"{name}.tar"), index=entry(f"{name}.idx")) for name in names]
    features = FeatureSet(
        ordinal=1,
        spec=entry("spec"),
        encoder="clip \u00e9",
        attention=entry("attention"),
        shards=shards,
        num_items=1,
        num_views=5,
        num_fp16_bytes=10,
        rejects=[FeatureReject(key="k", code="c", message='say "no"')] * num_shards,
    )
    totals = SourceTotals(name="s", files={"b": 2, "a": 1}, read=3, taken=3, rejects={}, reject_budget=0.1)
    return Manifest(
        name="corpus",
        ingest_digest="1",
        sources=[totals],
        num_media=1,
        num_media_bytes=2,
        num_media_uses=3,
        media_digest="2",
        examples=[entry("examples")],
        media=[],
        quarantine=[],
        plan=ShardPlan(
            Leaf(modality=Modality.IMAGE, prefix=f"{place:b}", num_items=1, num_media_bytes=1, num_views=5)
            for place in range(num_shards)
        ),
        shards=shards,
        features={"z": features, "a": features} if num_shards else {},
    )


def test_pieces_are_the_canonical_json_of_the_whole() -> None:
    for num_shards in (0, 1, 3):
        manifest = make_manifest(num_shards)
        whole = manifest.model_dump(mode="json")
        assert manifest.to_bytes() == canonical_json(whole)
        assert manifest.digest == digest_of(whole)
        assert Manifest.model_validate_json(manifest.to_bytes()) == manifest
