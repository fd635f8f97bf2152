"""The most that one example of a run holds: what the memory of the run is planned for.

Read from the tables that the order is planned over: the narrow columns of the examples, the media of their
items, and token counts where they are there. Each figure is the largest of all examples by itself. Left out
are the examples that a run leaves out, but for those of excluded shards: a run may evaluate on them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.stream.columns import ExampleFile, join_columns, parse_names, read_columns
from pipelines.stream.lengths import Lengths, read_lengths
from pipelines.stream.measures import ClipFrames, look_at_clips
from pipelines.stream.mixture import scale_weights
from pipelines.stream.reader import find_features
from schemas.corpus import Manifest
from schemas.feature import FeatureSpec
from schemas.record import Modality
from schemas.stream import DataConfig

_KEY_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExtremes:
    """Of the texts, in tokens, those of media not among them."""

    longest: int
    shortest: int
    instruction: int
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes:
    """Of the examples that a run may read."""

    pictures: int
    """Of an example without clips; 0: there is none with pictures."""
    frames: int
    """Of an example with clips, its pictures among them; 0: there is none."""
    text: TextExtremes | None
    """None where tokens were not counted."""


def find_extremes(
    storage: Storage,
    manifest: Manifest,
    spec: FeatureSpec,
    data: DataConfig,
    lengths: Lengths | None = None,
) -> Extremes:
    """Look at all examples.

    Args:
        storage: the corpus.
        manifest: of the corpus.
        spec: of its features that are read.
        data: which examples, and how much of their media.
        lengths: of the prompts.

    Raises:
        ConfigError: `data.sources` names one that the corpus has not.
        NotFoundError: there are no features of this spec.
        CorruptError: a table is not as it was written.
    """
    weights = scale_weights([source.name for source in manifest.sources], data.sources)
    is_used = np.array([weight > 0 for weight in weights.values()], dtype=np.bool_)
    rejects = find_features(manifest, spec.short_digest).rejects
    rejected = np.array([int(one.key[:_KEY_DIGITS], 16) for one in rejects], dtype=np.uint64)
    clips = look_at_clips(storage, manifest, spec, data.frames)
    several = _count_media(storage, manifest)
    pictures = frames = 0
    texts: list[Int64[np.ndarray, "3 _"]] = []
    for place, entry in enumerate(manifest.examples):
        file = ExampleFile(read_object(storage, entry), entry.path)
        columns = join_columns(file.order_columns([*weights], [one.value for one in Modality]))
        kept = (columns.sources >= 0) & is_used[columns.sources] & ~np.isin(columns.keys, rejected)
        num_media = several.count(columns.keys, np.ones(len(kept), dtype=np.int64))
        num_media[columns.modalities == [*Modality].index(Modality.TEXT)] = 0
        if lengths is not None:
            table = read_lengths(storage, lengths.files[place], entry.num_rows)
            kept &= (table.codes == 0) & (table.num_tokens <= data.max_tokens)
            whole = table.num_tokens.astype(np.int64) - table.num_media
            texts.append(np.stack([whole, whole - table.num_labels, table.num_labels])[:, kept])
        has_clip = np.isin(columns.keys, clips.keys)
        pictures = max(pictures, _largest(num_media, kept & ~has_clip))
        frames = max(frames, _largest(clips.count(columns.keys, num_media), kept & has_clip))
    return Extremes(pictures=pictures, frames=frames, text=_sum_up(texts))


def _largest(counts: Int64[np.ndarray, " rows"], chosen: Bool[np.ndarray, " rows"]) -> int:
    return int(counts[chosen].max(initial=0))


def _sum_up(texts: list[Int64[np.ndarray, "3 _"]]) -> TextExtremes | None:
    joined = np.concatenate(texts, axis=1) if texts else np.empty((3, 0), dtype=np.int64)
    if not joined.shape[1]:
        return None
    longest, instruction, answer = (int(most) for most in joined.max(axis=1))
    return TextExtremes(
        longest=longest, shortest=int(joined[0].min()), instruction=instruction, answer=max(1, answer)
    )


def _count_media(storage: Storage, manifest: Manifest) -> ClipFrames:
    """Media of the items that have several."""
    keys: list[UInt64[np.ndarray, " _"]] = [np.empty(0, np.uint64)]
    for entry in manifest.media if any(leaf.modality is Modality.MULTI for leaf in manifest.plan) else ():
        columns = read_columns(read_object(storage, entry), entry.path, ["item_key"])
        keys.append(parse_names(columns["item_key"], entry.path, "item_key"))
    distinct, counts = np.unique(np.concatenate(keys), return_counts=True)
    return ClipFrames(distinct[counts > 1], counts[counts > 1].astype(np.int64))
