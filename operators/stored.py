"""Features as their codec wrote them: checked, small, and not decoded before they are where they are used.

Int8 features take half of fp16 on their way from disk to a GPU, and are dequantized there. Decoding is left
to `decode`; `patches` decodes on the CPU for those who only look.

Views that were reduced before they were stored have any number of tokens. Those of a frame then stand one
behind the other as one view, zeros behind them up to the longest frame, and `counts` says where they end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float16
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from operators.codec import CPU, Buffer, Codec, RaggedCodec, count_tokens, decode_views
from schemas.errors import CorruptError, MismatchError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredFeatures:
    """Encoded views of one or several media, frame by frame."""

    payloads: tuple[Buffer, ...]
    """One for each view."""
    num_frames: int
    views_per_frame: int
    num_patches: int
    width: int
    codec: Codec

    def __post_init__(self) -> None:
        if len(self.payloads) != self.num_frames * self.views_per_frame:
            raise MismatchError(
                f"{self.num_frames} frames of {self.views_per_frame} views come with {len(self.payloads)} "
                "encoded views"
            )

    def __reduce__(self) -> tuple[Callable[..., "StoredFeatures"], tuple[object, ...]]:
        """Views of other memory become bytes; whoever sends many uses `pipelines.stream.transport`."""
        shape = (self.num_frames, self.views_per_frame, self.num_patches, self.width)
        return _rebuild, (tuple(map(bytes, self.payloads)), shape, self.codec)

    @property
    def patches(self) -> Float16[Tensor, "frames views patches width"]:
        """Decoded on the CPU."""
        return self.decode(CPU)

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Tokens of each frame, where views were reduced; None: all patches of all views.

        Raises:
            CorruptError: when a view is no reduced one.
        """
        if not isinstance(self.codec, RaggedCodec):
            return None
        return tuple(sum(frame) for frame in self._counts_by_view())

    def decode(self, device: torch.device) -> Float16[Tensor, "frames views patches width"]:
        """Decoded on a device.

        Raises:
            CorruptError: when the bytes of a view are no view of this shape.
        """
        if isinstance(self.codec, RaggedCodec):
            return self._decode_reduced(device)
        views = decode_views(self.codec, self.payloads, self.num_patches, self.width, device)
        return views.view(self.num_frames, self.views_per_frame, self.num_patches, self.width)

    def _counts_by_view(self) -> list[list[int]]:
        counts = [count_tokens(payload) for payload in self.payloads]
        starts = range(0, len(counts), self.views_per_frame)
        return [counts[start : start + self.views_per_frame] for start in starts]

    def _decode_reduced(self, device: torch.device) -> Float16[Tensor, "frames 1 longest width"]:
        by_view = self._counts_by_view()
        most = max(count for frame in by_view for count in frame)
        if most > self.num_patches:
            raise CorruptError(f"a reduced view says that it has {most} tokens of {self.num_patches} patches")
        views = iter(decode_views(self.codec, self.payloads, most, self.width, device))
        frames = [torch.cat([next(views)[:count] for count in frame]) for frame in by_view]
        return pad_sequence(frames, batch_first=True)[:, None]


def _rebuild(payloads: tuple[bytes, ...], shape: tuple[int, int, int, int], codec: Codec) -> StoredFeatures:
    num_frames, views_per_frame, num_patches, width = shape
    return StoredFeatures(
        payloads=payloads,
        num_frames=num_frames,
        views_per_frame=views_per_frame,
        num_patches=num_patches,
        width=width,
        codec=codec,
    )


def join_stored(media: Sequence[StoredFeatures]) -> StoredFeatures:
    """The views of several media, one after the other.

    Raises:
        MismatchError: they differ in views, patches or width.
    """
    first = media[0]
    shapes = {(medium.views_per_frame, medium.num_patches, medium.width) for medium in media}
    if len(shapes) != 1:
        raise MismatchError(
            f"media of one batch have features of {sorted(shapes)} (views, patches, width); "
            "batch each kind by itself"
        )
    return replace(
        first,
        payloads=tuple(payload for medium in media for payload in medium.payloads),
        num_frames=sum(medium.num_frames for medium in media),
    )
