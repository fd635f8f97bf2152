"""Items to look at: picture or clip, its views as the encoder saw them, what is said, how the features lie.

Views are cut anew from the stored media by the policy of the newest spec, in a decoding process like any
other medium's, so that a hostile file costs its own pictures and a word why. The norms of the stored tokens
are read from the cache: a view that is flat, dark or full of outliers is seen at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Final

import msgspec
import numpy as np
from jaxtyping import Float32

from infra.storage import Storage
from operators.preprocess import CLIP_PROCESSOR, Processor
from operators.render import RenderedMedium
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.policy import rendering_of
from pipelines.featurize.samples import StoredMedium
from pipelines.featurize.spec import settings_of
from pipelines.report.choice import choose_items
from pipelines.report.pictures import draw_heat, draw_photo
from pipelines.report.visible import make_visible
from pipelines.stream.reader import FeatureReader
from schemas.corpus import Manifest
from schemas.errors import MismatchError, SampleError
from schemas.feature import FeatureSpec
from schemas.recipe import ViewsConfig
from schemas.record import MediumKind

PHOTO_PX: Final = 320
VIEW_PX: Final = 128
NUM_FRAMES: Final = 8
NUM_CONVERSATIONS: Final = 3
NUM_TURNS: Final = 6
NUM_MEDIA: Final = 4
_CROPS: Final = ("top left", "top right", "bottom left", "bottom right", "whole picture")


class _Turn(msgspec.Struct, frozen=True, rename={"role": "from"}):
    role: str
    value: str


class _Example(msgspec.Struct, frozen=True):
    example_id: str
    source: str
    conversations: list[_Turn]


class _Description(msgspec.Struct, frozen=True):
    examples: list[_Example]


@dataclass(frozen=True, slots=True)
class ShownView:
    """One view: what the encoder saw, and how long its tokens are."""

    label: str
    photo: str
    heat: str | None = None
    norms: str = ""


@dataclass(frozen=True, slots=True)
class ShownMedium:
    """A picture or clip."""

    facts: StoredMedium
    photo: str | None
    views: tuple[ShownView, ...]
    num_views_left_out: int
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class ShownConversation:
    """What is said about an item: who, and what."""

    source: str
    turns: tuple[tuple[str, str], ...]
    num_turns_left_out: int


@dataclass(frozen=True, slots=True)
class ShownItem:
    """One item of the sample."""

    key: str
    modality: str
    shard: str
    media: tuple[ShownMedium, ...]
    num_media_left_out: int
    conversations: tuple[ShownConversation, ...]
    num_conversations_left_out: int


class ItemShower:
    """Turns stored items into what is shown of them."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        """Open the newest cache, where there is one.

        Raises:
            MismatchError: when its codec is unknown here.
        """
        self._storage, self._manifest = storage, manifest
        latest = manifest.latest_spec
        self._reader = FeatureReader(storage, manifest, latest) if latest else None
        self._without = {reject.key for reject in manifest.features[latest].rejects} if latest else set[str]()
        self._views, self._processor = _policy_of(self._reader.spec if self._reader else None)
        whole = self._views.model_copy(update={"image": "global", "aspect": "squash"})
        self._cutter = IsolatedDecoder(rendering_of(self._views, self._processor))
        self._looker = IsolatedDecoder(rendering_of(whole, replace(self._processor, size_px=PHOTO_PX)))

    def show_items(self) -> Iterator[ShownItem]:
        """The sample, modality by modality.

        Raises:
            CorruptError: when shards are damaged.
        """
        for modality, entry, opened, keys in choose_items(self._storage, self._manifest):
            for key in keys:
                stored, data = opened.read_item(key)
                said = msgspec.json.decode(opened.read_description(key), type=_Description)
                norms = self._read_norms(entry.name, key)
                shown = list(zip(stored.media, data, strict=True))[:NUM_MEDIA]
                media = tuple(
                    self._show_medium(facts, content, norms.get(position, {}))
                    for position, (facts, content) in enumerate(shown)
                )
                conversations = tuple(_show_conversation(one) for one in said.examples[:NUM_CONVERSATIONS])
                yield ShownItem(
                    key,
                    modality.value,
                    entry.name,
                    media,
                    len(stored.media) - len(media),
                    conversations,
                    len(said.examples) - len(conversations),
                )

    def _read_norms(self, shard: str, key: str) -> dict[int, dict[int, Float32[np.ndarray, "rows columns"]]]:
        """Lengths of tokens by medium and view; empty where the item has no features, or tokens no place."""
        if (
            self._reader is None
            or self._reader.spec.reducer != "none"
            or key in self._without
            or shard not in self._reader.list_shards()
        ):
            return {}
        if key not in self._reader.list_keys(shard):
            return {}
        shapes = self._reader.read_shapes(key, shard=shard)
        found: dict[int, dict[int, Float32[np.ndarray, "rows columns"]]] = {}
        start = 0
        for position, shape in enumerate(shapes[:NUM_MEDIA]):
            chosen = _choose_views(shape.num_views, shape.views_per_frame)
            views = self._reader.read_views(key, [start + view for view in chosen], shard=shard)
            lengths = views.float().square().sum(dim=-1).sqrt()
            side = isqrt(lengths.shape[1])
            rows = side if side * side == lengths.shape[1] else 1
            grids = lengths.view(len(chosen), rows, -1).numpy()
            found[position] = dict(zip(chosen, grids, strict=True))
            start += shape.num_views
        return found

    def _show_medium(
        self, facts: StoredMedium, data: bytes, norms: dict[int, Float32[np.ndarray, "rows columns"]]
    ) -> ShownMedium:
        kind = MediumKind(facts.kind)
        try:
            rendered = self._cutter.render(data, kind)
            photo = self._draw_whole(facts, data) if kind is MediumKind.IMAGE else None
        except SampleError as error:
            return ShownMedium(facts, None, (), 0, make_visible(str(error)))
        chosen = _choose_views(len(rendered.views), rendered.views_per_frame)
        low = min((float(np.nanmin(grid)) for grid in norms.values()), default=0.0)
        high = max((float(np.nanmax(grid)) for grid in norms.values()), default=1.0)
        views = tuple(
            ShownView(
                _label_view(rendered, view),
                draw_photo(rendered.views[view], VIEW_PX, VIEW_PX),
                draw_heat(norms[view], low, high) if view in norms else None,
                _describe_norms(norms[view]) if view in norms else "",
            )
            for view in chosen
        )
        return ShownMedium(facts, photo, views, len(rendered.views) - len(views))

    def _draw_whole(self, facts: StoredMedium, data: bytes) -> str:
        pixels = self._looker.render(data, MediumKind.IMAGE).views[0]
        longest = max(facts.width_px, facts.height_px)
        width_px = round(PHOTO_PX * facts.width_px / longest)
        return draw_photo(pixels, width_px, round(PHOTO_PX * facts.height_px / longest))


def _policy_of(spec: FeatureSpec | None) -> tuple[ViewsConfig, Processor]:
    """How views are cut under a spec; by default where there is none yet."""
    if spec is None:
        return ViewsConfig(), CLIP_PROCESSOR
    values = spec.processor.model_dump()
    if values.keys() != asdict(CLIP_PROCESSOR).keys():
        raise MismatchError(f"the spec knows of {sorted(values)}, this release of others; update it")
    return settings_of(spec, "unknown")[0], Processor(**values)


def _choose_views(num_views: int, views_per_frame: int) -> list[int]:
    """All views of a picture; of a clip's frames some, evenly spread."""
    if num_views <= NUM_FRAMES or views_per_frame == num_views:
        return list(range(num_views))
    return sorted({round(place * (num_views - 1) / (NUM_FRAMES - 1)) for place in range(NUM_FRAMES)})


def _label_view(rendered: RenderedMedium, view: int) -> str:
    if rendered.frame_times_s:
        return f"at {rendered.frame_times_s[view]:.2f} s"
    return _CROPS[view] if len(rendered.views) == len(_CROPS) else _CROPS[-1]


def _describe_norms(grid: Float32[np.ndarray, "rows columns"]) -> str:
    broken = int((~np.isfinite(grid)).sum())
    if broken:
        return f"{broken} of {grid.size} tokens are not finite"
    return f"token norms {grid.min():.3g} to {grid.max():.3g}, median {float(np.median(grid)):.3g}"


def _show_conversation(example: _Example) -> ShownConversation:
    turns: Sequence[_Turn] = example.conversations[:NUM_TURNS]
    shown = tuple((make_visible(turn.role, 40), make_visible(turn.value)) for turn in turns)
    return ShownConversation(example.source, shown, len(example.conversations) - len(shown))
