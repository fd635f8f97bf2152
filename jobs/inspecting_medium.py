"""`onetoken inspect FILE`: what the pipeline makes of a picture or clip.

The views are those that would be encoded, decoded in a process of their own like any other medium's. They are
shown on a terminal, two pixels a character, and written as PNG where a folder is named.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.console import print_result
from schemas.errors import SampleError
from schemas.record import MediumKind

if TYPE_CHECKING:
    from operators.render import RenderedMedium
    from schemas.recipe import ViewsConfig

Described = tuple[list[str], dict[str, object]]

NUM_TIMES_SHOWN = 12
NUM_VIEWS_SHOWN = 10


def inspect_medium(path: Path, recipe: Path | None, out: Path | None, as_json: bool) -> None:
    """Print what the file is, when and where its views are taken; show or write the views.

    Raises:
        SampleError: when it would be rejected, with the code.
    """
    from jobs.thumbnails import print_thumbnails

    try:
        rendered, lines, values = describe_medium(path, load_views(recipe))
    except SampleError as error:
        raise SampleError(error.code, f"{path}: {error.message}") from error
    if out is not None:
        files = write_views(rendered, out, path.stem)
        lines += [f"  {file}" for file in files]
        values["files"] = [str(file) for file in files]
    print_result(lines, as_json, values)
    if not as_json and sys.stdout.isatty():
        print_thumbnails(rendered.views[:NUM_VIEWS_SHOWN])


def load_views(recipe: Path | None) -> "ViewsConfig":
    """What a recipe says of views, or what one would say by default."""
    from jobs.options import read_configuration
    from schemas.recipe import Recipe, ViewsConfig

    return read_configuration(recipe, Recipe).views if recipe else ViewsConfig()


def describe_medium(
    path: Path, views: "ViewsConfig"
) -> tuple["RenderedMedium", list[str], dict[str, object]]:
    """The views of a medium, and what is to be said of it.

    Raises:
        SampleError: when it would be rejected.
    """
    from operators.preprocess import CLIP_PROCESSOR
    from operators.sniff import HEAD_BYTES, sniff_format
    from pipelines.decode.isolated import IsolatedDecoder
    from pipelines.decode.policy import rendering_of

    data = path.read_bytes()
    found = sniff_format(data[:HEAD_BYTES])
    kind = found.kind if found else MediumKind.IMAGE
    with IsolatedDecoder(rendering_of(views, CLIP_PROCESSOR)) as decoder:
        rendered = decoder.render(data, kind)
        if kind is MediumKind.IMAGE:
            return rendered, *_describe_picture(data, path, views)
        facts = decoder.read_video_facts(data)
    size = (facts.width_px, facts.height_px, facts.duration_s)
    return rendered, *_describe_clip(rendered, path, facts.format.extension, size)


def write_views(rendered: "RenderedMedium", folder: Path, stem: str) -> list[Path]:
    """One PNG a view, named by its number and, of a clip, by the time of its frame."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for number, view in enumerate(rendered.views):
        time = f"-{rendered.frame_times_s[number]:.3f}s" if rendered.report else ""
        files.append(folder / f"{stem}-{number:03d}{time}.png")
        Image.fromarray(view).save(files[-1])
    return files


def _describe_picture(data: bytes, path: Path, views: "ViewsConfig") -> Described:
    from operators.image import read_image_facts
    from operators.views import plan_views

    facts = read_image_facts(data)
    boxes = [view.box for view in plan_views(facts.width_px, facts.height_px, views.image, views.aspect)]
    lines = [
        f"{path}: {facts.format.extension} picture, {facts.width_px} x {facts.height_px} pixels on display",
        f"  views of {views.image}, {views.aspect} (left, top, width, height; outside the picture is fill):",
        *(f"    {box.left}, {box.top}, {box.width}, {box.height}" for box in boxes),
    ]
    values: dict[str, object] = {
        "kind": "image",
        "extension": facts.format.extension,
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "views": [[box.left, box.top, box.width, box.height] for box in boxes],
    }
    return lines, values


def _describe_clip(
    rendered: "RenderedMedium", path: Path, extension: str, size: tuple[int, int, float]
) -> Described:
    width_px, height_px, duration_s = size
    report = rendered.report
    if report is None:
        raise AssertionError("a clip was rendered as a picture")
    lines = [
        f"{path}: {extension} clip, {width_px} x {height_px} pixels on display, {duration_s:.3f} s, "
        f"{report.num_packets} packets, {report.num_damaged} damaged",
        f"  {len(rendered.views)} views, by {report.backend}, of the frames at "
        f"{_list_times(rendered.frame_times_s)} s",
    ]
    if report.num_left_out:
        lines.append(f"  spread over the clip: {report.num_left_out} views more are over max_frames")
    if report.num_concealed:
        lines.append(f"  in {report.num_concealed} views the decoder covered damage up")
    values: dict[str, object] = {
        "kind": "video",
        "extension": extension,
        "width_px": width_px,
        "height_px": height_px,
        "duration_s": duration_s,
        "times_s": list(rendered.frame_times_s),
        "backend": report.backend,
        "num_packets": report.num_packets,
        "num_damaged_packets": report.num_damaged,
        "num_concealed_views": report.num_concealed,
        "num_frames_left_out": report.num_left_out,
    }
    return lines, values


def _list_times(times_s: Sequence[float]) -> str:
    shown = [f"{time_s:.3f}".rstrip("0").rstrip(".") for time_s in times_s[:NUM_TIMES_SHOWN]]
    if len(times_s) > NUM_TIMES_SHOWN:
        shown += ["...", f"{times_s[-1]:.3f}"]
    return ", ".join(shown)
