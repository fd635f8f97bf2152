"""`onetoken inspect`: a corpus, a shard, an item or a medium, in words."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.storage import LocalStorage, open_storage
from infra.tar import Member, check_member, scan_tar
from jobs.console import print_result
from jobs.options import JsonOption
from jobs.totals import feature_lines, feature_values, ingest_lines, ingest_values, shard_lines, shard_values
from schemas.errors import ConfigError, CorruptError, NotFoundError, SampleError
from schemas.record import MediumKind

Described = tuple[list[str], Mapping[str, object]]

NUM_LISTED = 10


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("inspect", help="Tell what a corpus, a shard, an item of it, or a picture or clip holds.")(
        inspect_command
    )


def inspect_command(
    place: Annotated[
        str,
        typer.Argument(metavar="PATH|URL", help="A corpus, a shard (.tar) or a medium.", show_default=False),
    ],
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="An item of the shard.")] = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    lines, values = describe(place, key)
    print_result(lines, as_json, values)


def describe(place: str, key: str | None) -> Described:
    """What is at a path or URL, in words and as plain values.

    Raises:
        ConfigError: when there is nothing, or a key goes with something else than a shard.
        SampleError: for a medium that would be rejected, with the code.
    """
    path = Path(place)
    is_shard = path.is_file() and path.suffix == ".tar"
    if key is not None and not is_shard:
        raise ConfigError(f"{place} is no shard; a key goes with one of the .tar files of a corpus")
    if "://" in place or path.is_dir():
        return describe_corpus(place)
    if not path.is_file():
        raise ConfigError(f"nothing is at {path}; give a corpus folder, a shard (.tar), or a picture or clip")
    if is_shard:
        return describe_item(path, key) if key else describe_shard(path)
    try:
        return describe_medium(path.read_bytes(), path)
    except SampleError as error:
        raise SampleError(error.code, f"{path}: {error.message}") from error


def describe_corpus(url: str) -> Described:
    """Totals of the manifest in force."""
    from pipelines.commit import load_manifest
    from pipelines.ingest.rejects import group_rejects

    storage = open_storage(url)
    manifest = load_manifest(storage)
    lines = [f"corpus {manifest.name!r}, manifest {manifest.digest[:16]}", *ingest_lines(manifest)]
    rejects = group_rejects(storage, manifest)
    for group in rejects:
        first = f"{group.record_file}:{group.record_row}: {group.message}"
        lines.append(f"  rejected of {group.source}: {group.count} {group.code}, first {first}")
    values: dict[str, object] = {"name": manifest.name, "manifest": manifest.digest}
    values |= ingest_values(manifest)
    if manifest.shards:
        lines += shard_lines(manifest)
        values |= shard_values(manifest)
    sets = {digest: feature_values(digest, features) for digest, features in manifest.features.items()}
    for digest, features in manifest.features.items():
        lines += feature_lines(digest, features)
    return lines, {**values, "features": sets, "reject_groups": [asdict(group) for group in rejects]}


def describe_shard(path: Path) -> Described:
    """The items of a shard: how many, and the first few."""
    members = list(_open_index(path).values())
    keys = [member.name.removesuffix(".json") for member in members if member.name.endswith(".json")]
    num_bytes = sum(member.size for member in members)
    lines = [f"{path.name}: {len(keys)} items, {len(members)} members, {num_bytes:,} bytes of data"]
    lines += [f"  {key}" for key in keys[:NUM_LISTED]]
    if len(keys) > NUM_LISTED:
        lines.append(f"  ... and {len(keys) - NUM_LISTED} more; name one to see it")
    return lines, {"items": len(keys), "members": len(members), "bytes": num_bytes, "keys": keys}


def describe_item(path: Path, key: str) -> Described:
    """Facts, conversations and features of one item of a shard.

    Raises:
        NotFoundError: when the shard has no such item.
    """
    members = _open_index(path)
    if f"{key}.json" not in members:
        raise NotFoundError(f"{path} holds no item {key!r}; `onetoken inspect {path}` lists them")
    facts: dict[str, object] = json.loads(_read_member(path, members[f"{key}.json"]))
    own = [member for member in members.values() if member.name.startswith(f"{key}.")]
    lines = [f"{member.name}: {member.size:,} bytes" for member in own]
    lines.append(json.dumps(facts, indent=2, ensure_ascii=False))
    values: dict[str, object] = {"item": facts, "members": {member.name: member.size for member in own}}
    if f"{key}.feat.bin" in members:
        described, features = describe_features(_read_member(path, members[f"{key}.feat.bin"]))
        lines += described
        values.update(features)
    return lines, values


def describe_features(data: bytes) -> Described:
    """What a feature file holds, every view checked."""
    from operators.codec import codec_named, decode_views
    from operators.feature_file import open_section, read_header, view_range

    header = read_header(data)
    codec = codec_named(header.codec, header.codec_version)
    payloads: list[memoryview] = []
    for index in range(len(header.views)):
        offset, length = view_range(header, index)
        payloads.append(open_section(header, index, data[offset : offset + length]).payload)
    patches = decode_views(codec, payloads, header.num_patches, header.width)
    norms = [float(view.float().square().sum(dim=-1).sqrt().mean()) for view in patches]
    media = [f"{medium.num_frames} frames of {medium.views_per_frame} views" for medium in header.media]
    lines = [
        f"features: codec {header.codec} {header.codec_version}, {len(header.views)} views of "
        f"{header.num_patches} x {header.width}, checksums right",
        *(f"  medium {index}: {shape}" for index, shape in enumerate(media)),
        "  mean patch norm by view: " + ", ".join(f"{norm:.3f}" for norm in norms),
    ]
    shape = [len(header.views), header.num_patches, header.width]
    return lines, {"codec": header.codec, "shape": shape, "media": media, "mean_patch_norms": norms}


def describe_medium(data: bytes, path: Path) -> Described:
    """What the pipeline makes of a picture or clip.

    Raises:
        SampleError: when it would be rejected, with the code.
    """
    from operators.frames import FramePolicy, choose_times
    from operators.image import read_image_facts
    from operators.sniff import HEAD_BYTES, sniff_format
    from operators.video import read_video_facts
    from operators.views import plan_views

    found = sniff_format(data[:HEAD_BYTES])
    if found is not None and found.kind is MediumKind.VIDEO:
        facts = read_video_facts(data)
        times_s = choose_times(facts.duration_s, FramePolicy())
        lines = [
            f"{path}: {facts.format.extension} clip, {facts.width_px} x {facts.height_px} pixels, "
            f"{facts.duration_s:.3f} s, {facts.num_packets} packets",
            f"  at 1 fps: {len(times_s)} views at " + ", ".join(f"{time_s:g}" for time_s in times_s) + " s",
        ]
        size = {"width_px": facts.width_px, "height_px": facts.height_px, "duration_s": facts.duration_s}
        return lines, {"kind": "video", "extension": facts.format.extension, "times_s": times_s} | size
    image = read_image_facts(data)
    views = plan_views(image.width_px, image.height_px, "hd4", "pad")
    lines = [
        f"{path}: {image.format.extension} picture, {image.width_px} x {image.height_px} pixels on display",
        "  views of hd4, pad (left, top, width, height; outside the picture is fill):",
        *(f"    {v.box.left}, {v.box.top}, {v.box.width}, {v.box.height}" for v in views),
    ]
    boxes = [[v.box.left, v.box.top, v.box.width, v.box.height] for v in views]
    size = {"width_px": image.width_px, "height_px": image.height_px}
    return lines, {"kind": "image", "extension": image.format.extension, "views": boxes} | size


def _open_index(path: Path) -> dict[str, Member]:
    """Members by name, from the tar itself: the index is named by its own digest and need not be near."""
    with path.open("rb") as file:
        try:
            return {member.name: member for member in scan_tar(file)}
        except CorruptError as error:
            raise CorruptError(f"{path}: {error}") from error


def _read_member(path: Path, member: Member) -> bytes:
    storage = LocalStorage(path.parent)
    return check_member(member, storage.read_range(path.name, member.offset, member.size), str(path))
