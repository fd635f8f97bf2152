"""A long clip sampled and rendered at one frame a second, in a process whose memory is watched from outside.

It does what a decoding process does (`pipelines.decode.child`): the clip is read from a file, views are
dropped when they are made. Run as a program with the clip's path; writes one JSON object.
"""

import sys
import time
from pathlib import Path

import msgspec

from operators.frames import FramePolicy
from operators.image import DEFAULT_IMAGE_POLICY
from operators.preprocess import CLIP_PROCESSOR
from operators.render import RenderPolicy, stream_clip


class LongClip(msgspec.Struct, frozen=True):
    """What reading the clip took."""

    num_views: int
    duration_s: float
    cpu_s: float


def main() -> None:
    """Read the clip that is named and tell what it took."""
    policy = RenderPolicy(
        layout="hd4",
        aspect="pad",
        processor=CLIP_PROCESSOR,
        image=DEFAULT_IMAGE_POLICY,
        frames=FramePolicy(max_frames=100_000),
        backend="pyav",
    )
    started_s = time.process_time()
    with Path(sys.argv[1]).open("rb", buffering=0) as file:
        report, groups = stream_clip(file, policy)
        num_views = sum(len(group.views) for group in groups)
    done = LongClip(num_views, report.duration_s, time.process_time() - started_s)
    sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main()
