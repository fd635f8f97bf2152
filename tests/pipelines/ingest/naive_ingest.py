"""All of ingest in one plain program: everything in memory, row by row, nothing shared with what it checks.

Only parsers (`operators.annotations`) and header readers are taken from the project; they have tests and
references of their own.
"""

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
from naive_rows import naive_rows

from operators.annotations import LAYOUTS
from operators.frames import FramePolicy, count_frames
from operators.image_header import read_image_header
from operators.video import read_video_facts
from operators.views import VIEWS_PER_PICTURE
from schemas.digest import canonical_json
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, Repair

EXTENSIONS = {MediumKind.IMAGE: {".jpg", ".gif", ".png"}, MediumKind.VIDEO: {".mp4", ".mkv"}}
ORDER = ("image", "multi", "text", "video")


@dataclass
class NaiveCorpus:
    """What the tables hold, as tuples, and what the manifest says."""

    examples: list = field(default_factory=list)
    media: list = field(default_factory=list)
    rejects: list = field(default_factory=list)
    """Of source, file, row, code and raw bytes."""
    totals: dict = field(default_factory=dict)
    """By source."""
    plan: list = field(default_factory=list)
    num_media_uses: int = 0


def naive_ingest(recipe, names):
    """Ingest a recipe.

    Args:
        recipe: relative to the current folder.
        names: the annotation files of each source, in order: pairs of path and name in tables.
    """
    corpus = NaiveCorpus()
    seen = Counter()
    items, repairs, read = {}, {}, {}
    written, taken = Counter(), Counter()
    for config in recipe.sources:
        read[config.name] = {}
        repairs[config.name] = Counter()
        rows = []
        for path, name in names[config.name]:
            of_file = read_rows(path)
            read[config.name][name] = len(of_file)
            rows += [(name, number, *row) for number, row in enumerate(of_file)]
        for name, number, raw, value, is_sound, pictures in [rows[i] for i in take(config.take, rows)]:
            taken[config.name] += 1
            where = (config.name, name, number)
            if not is_sound:
                corpus.rejects.append((*where, "bad_json", raw))
                continue
            try:
                record, media, mended = understand(config, value, name, number, pictures)
            except SampleError as error:
                corpus.rejects.append((*where, error.code.value, raw))
                continue
            turns = [[("human", "gpt")[n % 2], text] for n, text in enumerate(record.texts)]
            key = key_of(media, turns)
            identity = (config.name, key, canonical_json(turns))
            item = items.setdefault(key, {"modality": modality_of(media), "uses": Counter(), "places": []})
            item["places"].append([(config.name, location) for _, location in media])
            if config.deduplicate and seen[identity]:
                corpus.rejects.append((*where, "duplicate_record", raw))
                continue
            named = f"example/2 {config.name} {key} {seen[identity]}\n".encode() + canonical_json(turns)
            seen[identity] += 1
            example_id = sha256(named)[:32]
            num_chars = sum(map(len, record.texts))
            said = (record.record_id, key, item["modality"], num_chars, canonical_json(turns))
            corpus.examples.append((example_id, *where, *said))
            repairs[config.name].update(repair.value for repair in mended)
            written[config.name] += 1
            item["uses"][config.name] += 1
            item["media"] = [facts for facts, _ in media]
    finish(corpus, recipe, items)
    for config in recipe.sources:
        corpus.totals[config.name] = total(corpus, config, items, read, taken, written, repairs)
    return corpus


def finish(corpus, recipe, items):
    """Sort the tables, count, and plan the shards."""
    corpus.examples.sort(key=lambda row: (row[5], row[0]))
    sources = [config.name for config in recipe.sources]
    corpus.rejects.sort(key=lambda row: (sources.index(row[0]), row[1], row[2]))
    sizes = {modality: [] for modality in ORDER}
    for key, item in sorted(items.items()):
        uses = item["uses"].total()
        num_bytes = num_views = 0
        for position, facts in enumerate(item["media"]):
            source, location = min(places[position] for places in item["places"])
            corpus.media.append((key, position, *facts, uses, source, location))
            corpus.num_media_uses += uses
            num_bytes += facts[3]
            num_views += views_of(facts, recipe.views)
        sizes[item["modality"]].append((key, num_bytes, num_views))
    corpus.plan = [leaf for modality in ORDER for leaf in split(modality, "", sizes[modality], recipe.shards)]


def total(corpus, config, items, read, taken, written, repairs):
    """The totals of a source."""
    rejects = Counter(code for source, _, _, code, _ in corpus.rejects if source == config.name)
    used = [(item["uses"][config.name], item["media"]) for item in items.values()]
    return {
        "name": config.name,
        "files": read[config.name],
        "read": sum(read[config.name].values()),
        "taken": taken[config.name],
        "written": written[config.name],
        "rejected": rejects.total(),
        "rejects": dict(rejects),
        "repairs": dict(repairs[config.name]),
        "num_media": sum(uses * len(media) for uses, media in used),
        "num_unique_media": sum(len(media) for uses, media in used if uses),
        "num_media_bytes": sum(uses * facts[3] for uses, media in used for facts in media),
        "num_unique_media_bytes": sum(facts[3] for uses, media in used if uses for facts in media),
        "reject_budget": config.reject_budget,
    }


def read_rows(path):
    """(raw, value, whether it is sound, embedded pictures) of every row of a file."""
    if path.suffix == ".parquet":
        return [read_parquet_row(row) for row in pq.read_table(path).to_pylist()]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return [(*row, ()) for row in naive_rows(data)]


def read_parquet_row(row):
    image = row["image"]
    structs = [] if image is None else image if isinstance(image, list) else [image]
    pictures = [struct["bytes"] for struct in structs]
    without = [{"path": struct["path"]} for struct in structs]
    value = row | {"image": without if isinstance(image, list) else (without or [None])[0]}
    raw = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return raw, value, True, pictures


def take(how, rows):
    """The places of the rows that are taken."""
    if how == "all":
        return range(len(rows))
    how, _, amount = how.partition(":")
    wanted = int(amount.rstrip("%"))
    if amount.endswith("%"):
        wanted = -(-wanted * len(rows) // 100)
    wanted = min(wanted, len(rows))
    if how == "first":
        return range(wanted)
    if how == "last":
        return range(len(rows) - wanted, len(rows))
    ranked = sorted(range(len(rows)), key=lambda i: (hashlib.sha256(rows[i][2]).digest()[:8], i))
    return sorted(ranked[:wanted])


def understand(config, value, name, number, pictures):
    """The record of a row, its media with their places, its repairs."""
    layout = LAYOUTS[config.format]
    record = layout.parse(value)
    mended = list(record.repairs)
    if layout.is_embedded:
        media = []
        for place, data in enumerate(pictures):
            location = f"{name}#{number}/{place}" if place else f"{name}#{number}"
            media.append((look(data or b"", MediumKind.IMAGE), location))
        return record, media, mended
    media = []
    is_by_stem = False
    for reference in record.media:
        location = find(Path(config.media_root), reference)
        is_by_stem |= not reference.by_stem and Path(location).name != Path(reference.path).name
        media.append((look((Path(config.media_root) / location).read_bytes(), reference.kind), location))
    return record, media, mended + [Repair.FOUND_BY_STEM] * is_by_stem


def find(root, reference):
    """Where a medium lies below a root."""
    path = Path(reference.path)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise SampleError(RejectCode.UNSAFE_PATH, "")
    if (root / path).is_file():
        return str(path)
    stem = path.name if reference.by_stem else path.stem
    folder = root / path.parent
    found = sorted(
        str(file.relative_to(root))
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.stem == stem and file.suffix in EXTENSIONS[reference.kind]
    )
    if len(found) != 1:
        raise SampleError(RejectCode.AMBIGUOUS_FILE if found else RejectCode.MISSING_FILE, "")
    return found[0]


@cache
def look(data, kind):
    """sha256, kind, extension, bytes, width, height, duration."""
    if kind is MediumKind.IMAGE:
        if not data:
            raise SampleError(RejectCode.EMPTY_FILE, "")
        header = read_image_header(data)
        seconds = 0.0
    else:
        header = read_video_facts(data)
        seconds = header.duration_s
    size = (len(data), header.width_px, header.height_px, seconds)
    return (sha256(data), kind.value, header.format.extension, *size)


def sha256(data):
    """Hex digits."""
    return hashlib.sha256(data).hexdigest()


def key_of(media, turns):
    """The key of the item of a record."""
    digests = [facts[0] for facts, _ in media]
    if not digests:
        return sha256(canonical_json(["text/1", sha256(canonical_json(turns))]))[:32]
    return (digests[0] if len(digests) == 1 else sha256(canonical_json(["item/1", digests])))[:32]


def modality_of(media):
    """image, video, multi or text."""
    if len(media) > 1:
        return "multi"
    return media[0][0][1] if media else "text"


def views_of(facts, views):
    """How many views a medium has."""
    if facts[1] == "image":
        return VIEWS_PER_PICTURE[views.image]
    video = views.video
    policy = FramePolicy(fps=video.fps, uniform=video.uniform, max_frames=video.max_frames)
    return count_frames(facts[6], policy)


def split(modality, prefix, items, limits):
    """Leaves of the tree over (key, bytes, views), as tuples."""
    if not items:
        return []
    num_bytes, num_views = (sum(item[place] for item in items) for place in (1, 2))
    if len(items) == 1 or (num_bytes <= limits.max_bytes and num_views <= limits.max_views):
        return [(modality, prefix, len(items), num_bytes, num_views)]
    halves = [
        [item for item in items if f"{int(item[0], 16):0128b}".startswith(prefix + bit)] for bit in "01"
    ]
    return [
        leaf
        for bit, half in zip("01", halves, strict=True)
        for leaf in split(modality, prefix + bit, half, limits)
    ]
