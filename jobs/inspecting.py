"""`onetoken inspect`: a corpus, a shard or an item, in words.

Media are in `jobs.inspecting_medium`, steps of a training in `jobs.inspecting_step`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.storage import LocalStorage, open_storage
from infra.tar import Member, check_member, scan_tar
from jobs.console import Reporter, print_result
from jobs.inspecting_medium import inspect_medium
from jobs.options import JsonOption, read_configuration
from jobs.totals import feature_lines, feature_values, ingest_lines, ingest_values, shard_lines, shard_values
from schemas.errors import ConfigError, CorruptError, NotFoundError
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from operators.codec import Codec

Described = tuple[list[str], Mapping[str, object]]

NUM_LISTED = 10
HELP = "Tell what a corpus, a shard, an item of it, a picture or clip, or a step of a training holds."


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("inspect", help=HELP)(inspect_command)


def inspect_command(
    place: Annotated[
        str | None,
        typer.Argument(metavar="PATH|URL", help="A corpus, a shard (.tar) or a medium.", show_default=False),
    ] = None,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="An item of the shard.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="Cut the views of a medium as this recipe says.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the views of a medium here, as PNG."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="CONFIG", help="Look at a step of this training.", show_default=False
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", metavar="N", min=1, help="Which step, as metrics.jsonl counts.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", metavar="URL", help="Another place of the training's corpus.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="R", min=0, help="What this rank of --ranks takes, alone.")
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", metavar="N", min=1, help="Ranks that share a step.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    if config is not None and step is not None and place is None:
        from jobs.inspecting_step import describe_step

        checked = read_configuration(config, TrainConfig)
        with Reporter() as reporter:
            lines, values = describe_step(checked, step, reporter, corpus=corpus, rank=rank, world_size=ranks)
        print_result(lines, as_json, values)
        return
    if place is None or config or step or corpus or rank is not None:
        raise ConfigError("give PATH|URL, or --config and --step, with which --corpus, --rank and --ranks go")
    path = Path(place)
    if path.is_file() and path.suffix != ".tar" and key is None:
        inspect_medium(path, recipe, out, as_json)
        return
    if recipe or out:
        raise ConfigError(f"{place} is no picture or clip; --recipe and --out go with one")
    lines, values = describe(place, key)
    print_result(lines, as_json, values)


def describe(place: str, key: str | None) -> Described:
    """What is at a path or URL, in words and as plain values.

    Raises:
        ConfigError: when there is nothing, or a key goes with something else than a shard.
    """
    path = Path(place)
    is_shard = path.is_file() and path.suffix == ".tar"
    if key is not None and not is_shard:
        raise ConfigError(f"{place} is no shard; a key goes with one of the .tar files of a corpus")
    if "://" in place or path.is_dir():
        return describe_corpus(place)
    if not path.is_file():
        raise ConfigError(f"nothing is at {path}; give a corpus folder, a shard (.tar), or a picture or clip")
    return describe_item(path, key) if key else describe_shard(path)


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
        data = _read_member(path, members[f"{key}.feat.bin"])
        described, features = describe_features(data, path.parent / "spec.json")
        lines += described
        values.update(features)
    return lines, values


def describe_features(data: bytes, spec_path: Path) -> Described:
    """What a feature file holds, every view checked; its spec tells what the codec needs besides.

    Raises:
        MismatchError: when the codec is unknown here, or needs the spec and it is not there.
    """
    from operators.codec import RaggedCodec, count_tokens, decode_views
    from operators.feature_file import open_section, read_header, view_range

    header = read_header(data)
    codec = _open_codec(header.codec, header.codec_version, spec_path)
    payloads: list[memoryview] = []
    for index in range(len(header.views)):
        offset, length = view_range(header, index)
        payloads.append(open_section(header, index, data[offset : offset + length]).payload)
    patches = decode_views(codec, payloads, header.num_patches, header.width)
    is_reduced = isinstance(codec, RaggedCodec)
    counts = [count_tokens(one) if is_reduced else header.num_patches for one in payloads]
    norms = [
        float(view[:count].float().square().sum(dim=-1).sqrt().mean())
        for view, count in zip(patches, counts, strict=True)
    ]
    media = [f"{medium.num_frames} frames of {medium.views_per_frame} views" for medium in header.media]
    without = "" if header.has_class_rows else ", no class rows"
    lines = [
        f"features: codec {header.codec} {header.codec_version}, {len(header.views)} views of "
        f"{header.num_patches} x {header.width}{without}, checksums right",
        *(f"  medium {index}: {shape}" for index, shape in enumerate(media)),
        *([f"  reduced to tokens by view: {', '.join(map(str, counts))}"] if is_reduced else []),
        "  mean patch norm by view: " + ", ".join(f"{norm:.3f}" for norm in norms),
    ]
    shape = [len(header.views), header.num_patches, header.width]
    return lines, {
        "codec": header.codec,
        "shape": shape,
        "class_rows": header.has_class_rows,
        "media": media,
        "mean_patch_norms": norms,
    }


def _open_codec(name: str, version: int, spec_path: Path) -> "Codec":
    """The codec as the spec beside the shard describes it; a shard that was taken out has its name alone."""
    from operators.codec import open_codec, open_view_codec
    from pipelines.commit import parse_stored
    from schemas.feature import CodecIdentity, FeatureSpec

    if spec_path.exists():
        return open_view_codec(parse_stored(spec_path.read_bytes(), FeatureSpec, str(spec_path)))
    return open_codec(CodecIdentity(name=name, version=version))


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
