"""The decord backend, behind the guards that it needs.

Known of decord 0.6 and guarded against here: it crashes on cut AVI files and reports timestamps of -3e17 s
for AVI and MPEG-PS (only MP4, MOV, Matroska and WebM are handed to it); it starts late in MPEG-TS, ignores
edit lists and cannot open AV1 (its timestamps must equal the packets', else it is not used); it gives later
frames than it was asked for where groups of pictures are open (then it is not used either); it holds whole
batches (they are small); after a batch its threads read on until memory is full (it is rewound each time); a
reader does not survive a fork (none outlives a call).

Not guarded against: it conceals damage by repeating frames. Above 5 % repeated frames it gives up; below, it
neither counts nor says which, so prefer `pyav` where files may be damaged.
"""

import importlib
import io
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from operators.completeness import ByteFile
from operators.frames import pick_displayed
from operators.packets import Timeline
from operators.sniff import MKV, MOV, MP4, WEBM, MediumFormat
from schemas.errors import ConfigError, RejectCode, SampleError

_TRUSTED_FORMATS: Final = (MP4, MOV, MKV, WEBM)
_BATCH_FRAMES: Final = 16
_TIME_TOLERANCE_S: Final = 2e-3
_MAX_REPEATED_SHARE: Final = 0.05


@runtime_checkable
class _Batch(Protocol):
    def asnumpy(self) -> UInt8[np.ndarray, "frames height width 3"]: ...


@runtime_checkable
class _Reader(Protocol):
    def __len__(self) -> int: ...
    def get_frame_timestamp(self, idx: Sequence[int]) -> Float[np.ndarray, "frames 2"]: ...
    def get_batch(self, indices: Sequence[int]) -> _Batch: ...
    def seek(self, pos: int) -> None: ...


@runtime_checkable
class _Logging(Protocol):
    QUIET: int

    def set_level(self, lvl: int) -> None: ...


@runtime_checkable
class _Decord(Protocol):
    logging: _Logging
    DECORDError: type[Exception]
    VideoReader: type[_Reader]


def read_by_timestamps(
    file: ByteFile, medium_format: MediumFormat, timeline: Timeline, times_s: Sequence[float]
) -> Iterator[tuple[int, float, UInt8[np.ndarray, "height width 3"]]] | None:
    """The frames on display at `times_s`, or None where decord cannot be trusted with this clip.

    Raises:
        ConfigError: decord is not installed.
        SampleError: DAMAGED_VIDEO, while iterating.
    """
    if medium_format not in _TRUSTED_FORMATS or timeline.has_open_groups:
        return None
    decord = _load_decord()
    try:
        reader = _open_reader(decord, file)
        stamps = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)[:, 0]
    except (decord.DECORDError, RuntimeError, AssertionError, IndexError):
        return None
    own_s = np.asarray(timeline.times_s) + timeline.first_s
    if len(stamps) != len(own_s) or not np.allclose(stamps, own_s, 0, _TIME_TOLERANCE_S):
        return None
    chosen = list(pick_displayed(((time_s, index) for index, time_s in enumerate(timeline.times_s)), times_s))
    return _fetch_frames(decord, reader, chosen)


def _load_decord() -> _Decord:
    try:
        decord = cast("_Decord", importlib.import_module("decord"))
    except ImportError as error:
        raise ConfigError("the decord backend needs decord (x86_64 only); use backend: pyav") from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _open_reader(decord: _Decord, file: ByteFile) -> _Reader:
    open_reader = cast("_OpenReader", decord.VideoReader)
    file.seek(0)
    return open_reader(io.BytesIO(file.read() or b""), num_threads=1, fault_tol=_MAX_REPEATED_SHARE)


@runtime_checkable
class _OpenReader(Protocol):
    def __call__(self, uri: io.BytesIO, *, num_threads: int, fault_tol: float) -> _Reader: ...


def _fetch_frames(
    decord: _Decord, reader: _Reader, chosen: list[tuple[int, float, int]]
) -> Iterator[tuple[int, float, UInt8[np.ndarray, "height width 3"]]]:
    for start in range(0, len(chosen), _BATCH_FRAMES):
        batch = chosen[start : start + _BATCH_FRAMES]
        try:
            pixels = reader.get_batch([frame_index for _, _, frame_index in batch]).asnumpy()
            reader.seek(0)
        except (decord.DECORDError, RuntimeError) as error:
            message = f"decord gave up at frame {batch[0][2]}: {error}"
            raise SampleError(RejectCode.DAMAGED_VIDEO, message) from error
        for (view_index, time_s, _), frame in zip(batch, pixels, strict=True):
            yield view_index, time_s, frame
