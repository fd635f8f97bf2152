"""The demo corpus: four published layouts, their faults and the held-out questions, rendered from one seed.

The same seed gives the same bytes, file by file, with the same versions of Pillow, PyAV and pyarrow.
Rendering takes about ten seconds on one slow core and 20 MB on disk. Nothing is read from anywhere: all is
drawn and worded here.
"""

from dataclasses import dataclass
from pathlib import Path

from jobs.demo.faults import PlantedFault
from jobs.demo.heldout import HeldoutSet, render_heldout
from jobs.demo.sets import (
    RenderedSet,
    render_captions,
    render_instructions,
    render_onevision,
    render_videos,
)


@dataclass(frozen=True, slots=True)
class DemoCorpus:
    """What was rendered and where it lies."""

    folder: Path
    sets: tuple[RenderedSet, ...]
    heldout: HeldoutSet

    @property
    def num_records(self) -> int:
        """Annotation rows of the four sets, faulty ones included."""
        return sum(rendered.num_records for rendered in self.sets)

    @property
    def num_media(self) -> int:
        """Good media of the four sets with different contents."""
        return sum(rendered.num_media for rendered in self.sets)

    @property
    def faults(self) -> tuple[PlantedFault, ...]:
        """All planted faults, set by set."""
        return tuple(fault for rendered in self.sets for fault in rendered.faults)


def render_demo_corpus(folder: Path, seed: int = 0) -> DemoCorpus:
    """Render all of it under `folder`; files that are there already are written over."""
    sets = (
        render_captions(folder / "llava_pretrain", seed),
        render_instructions(folder / "llava_instruct", seed),
        render_videos(folder / "video_chatgpt", seed),
        render_onevision(folder / "onevision", seed),
    )
    return DemoCorpus(folder, sets, render_heldout(folder / "heldout", seed))
