"""How long the language model's sequence of an example is: its text, and the tokens of its media.

Text comes from the tables of lengths (`pipelines.stream.lengths`); without one, characters stand for tokens.
A picture is one frame; the frames of a clip are those that the feature spec plans for its duration, thinned
as the run thins them. A clip that is damaged or shorter than its container says has fewer: lengths of clips
are what the order plans with, not what is read.

Costs 12 bytes an item with a clip, and one look at the table of media where there are clips.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

from infra.storage import Storage
from operators.frames import FramePolicy, count_frames
from pipelines.commit import read_object
from pipelines.stream.columns import parse_names, read_columns
from pipelines.stream.lengths import WRITABLE, Lengths, read_lengths
from pipelines.stream.selection import select_frames
from schemas.corpus import Manifest, ObjectEntry
from schemas.errors import CorruptError
from schemas.feature import FeatureSpec
from schemas.record import MediumKind, Modality
from schemas.stream import DataConfig, FramesConfig

TOO_LONG = "too_many_tokens"


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """Frames that are read of the items with clips, by the leading bits of their keys, ascending."""

    keys: UInt64[np.ndarray, " items"]
    frames: Int64[np.ndarray, " items"]

    def count(
        self, keys: UInt64[np.ndarray, " rows"], num_media: Int64[np.ndarray, " rows"]
    ) -> Int64[np.ndarray, " rows"]:
        """Frames of each item; one for each medium where none is a clip."""
        if not len(self.keys):
            return num_media
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.frames[places], num_media)


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows of one file: their lengths, and why some are left out."""

    lengths: UInt32[np.ndarray, " rows"]
    is_left_out: Bool[np.ndarray, " rows"]
    codes: Int64[np.ndarray, " rows"]
    """Places in `names`; 0 where nothing is wrong."""
    names: tuple[str, ...]


class Measures:
    """Measures the rows of the table of examples, file by file."""

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        spec: FeatureSpec,
        data: DataConfig,
        lengths: Lengths | None = None,
        frame_tokens: int = 1,
    ) -> None:
        """Look at the clips.

        Args:
            storage: the corpus.
            manifest: of the corpus.
            spec: of the features.
            data: limits, frames and units.
            lengths: of the prompts; None: characters stand for tokens, and nothing is left out.
            frame_tokens: what a frame takes in the language model's sequence.

        Raises:
            CorruptError: when the lengths are those of another table, or the table of media is damaged.
        """
        if lengths is not None and len(lengths.files) != len(manifest.examples):
            raise CorruptError(
                f"lengths of {len(lengths.files)} files come with {len(manifest.examples)} files of examples"
            )
        self._storage = storage
        self._data = data
        self._lengths = lengths
        self._frame_tokens = frame_tokens
        self._clips = look_at_clips(storage, manifest, spec, data.frames)

    def measure(
        self,
        file: int,
        examples: ObjectEntry,
        keys: UInt64[np.ndarray, " rows"],
        chars: UInt32[np.ndarray, " rows"],
    ) -> Measured:
        """The rows of a file.

        Args:
            file: its place among the files.
            examples: the file.
            keys: leading bits of the item keys.
            chars: of the conversations.
        """
        if self._lengths is None:
            nothing = np.zeros(len(keys), dtype=np.int64)
            return Measured(chars, nothing > 0, nothing, (WRITABLE,))
        columns = read_lengths(self._storage, self._lengths.files[file], examples.num_rows)
        num_media = columns.num_media.astype(np.int64)
        frames = self._clips.count(keys, num_media) * (num_media > 0)
        text = columns.num_tokens.astype(np.int64)
        lengths = text - num_media + frames * self._frame_tokens
        is_long = text > self._data.max_tokens
        if self._data.unit != "count":
            is_long |= lengths > self._data.unit_tokens
        names = columns.names if TOO_LONG in columns.names else (*columns.names, TOO_LONG)
        codes = np.where((columns.codes == 0) & is_long, names.index(TOO_LONG), columns.codes)
        return Measured(np.maximum(lengths, 1).astype(np.uint32), codes > 0, codes, names)


def look_at_clips(
    storage: Storage, manifest: Manifest, spec: FeatureSpec, frames: FramesConfig
) -> ClipFrames:
    """The frames that are read of each item with clips.

    Raises:
        CorruptError: when the table of media is damaged.
    """
    if not any(leaf.modality in (Modality.VIDEO, Modality.MULTI) for leaf in manifest.plan):
        return ClipFrames(np.empty(0, np.uint64), np.empty(0, np.int64))
    rules = spec.video
    policy = FramePolicy(fps=rules.fps, uniform=rules.uniform, max_frames=rules.max_frames, rule=rules.rule)
    keys: list[UInt64[np.ndarray, " _"]] = []
    counts: list[Int64[np.ndarray, " _"]] = []
    for entry in manifest.media:
        columns = read_columns(read_object(storage, entry), entry.path, ["item_key", "kind", "duration_s"])
        is_clip = columns["kind"].astype(str) == MediumKind.VIDEO.value
        all_keys = parse_names(columns["item_key"], entry.path, "item_key")
        wanted = np.isin(all_keys, all_keys[is_clip])
        seconds = columns["duration_s"][wanted].tolist()
        counts.append(
            np.array(
                [
                    len(select_frames(count_frames(float(long), policy), frames)) if clip else 1
                    for long, clip in zip(seconds, is_clip[wanted].tolist(), strict=True)
                ],
                dtype=np.int64,
            )
        )
        keys.append(all_keys[wanted])
    if not keys:
        return ClipFrames(np.empty(0, np.uint64), np.empty(0, np.int64))
    distinct, places = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.bincount(places, weights=np.concatenate(counts), minlength=len(distinct))
    return ClipFrames(distinct, sums.astype(np.int64))
