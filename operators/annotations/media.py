"""The media that a row names: paths in `image`, `video`, `images` and `videos`.

Each field may be text, a list of texts, or null; null and the empty list mean no medium, as does a field
that is not there. The singular and the plural of one field may not both name media: nothing says in which
order they go.
"""

from typing import Any, Final, cast

from operators.annotations.fields import check_name, describe
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference

MAX_MEDIA: Final = 64
"""Of one record; published multi-image sets stay far below."""

References = tuple[MediumReference, ...]

_IMAGE: Final = MediumKind.IMAGE
_VIDEO: Final = MediumKind.VIDEO


def name_media(
    image: object, video: object = None, images: object = None, videos: object = None
) -> References:
    """References to what four fields name: images first, then videos.

    Raises:
        SampleError: BAD_TYPE or TOO_MANY_MEDIA.
    """
    if video is None and images is None and videos is None:
        if image is None:
            return ()
        if type(image) is str and image and image.isascii():
            return (MediumReference(_IMAGE, image, False),)
    return check_number(
        (
            *_name_either(_IMAGE, image, "image", images, "images"),
            *_name_either(_VIDEO, video, "video", videos, "videos"),
        )
    )


def name_listed_media(images: object, videos: object) -> References:
    """References to what the fields `images` and `videos` name.

    Raises:
        SampleError: BAD_TYPE or TOO_MANY_MEDIA.
    """
    return check_number((*_name_paths(images, _IMAGE, "images"), *_name_paths(videos, _VIDEO, "videos")))


def check_number(media: References) -> References:
    """The media, if there are not too many for one record.

    Raises:
        SampleError: TOO_MANY_MEDIA.
    """
    if len(media) > MAX_MEDIA:
        raise SampleError(
            RejectCode.TOO_MANY_MEDIA, f"{len(media)} media; at most {MAX_MEDIA} a record are supported"
        )
    return media


def _name_either(kind: MediumKind, one: object, field: str, many: object, plural: str) -> References:
    named, listed = _name_paths(one, kind, field), _name_paths(many, kind, plural)
    if named and listed:
        raise SampleError(
            RejectCode.BAD_TYPE, f"{field!r} and {plural!r} both name media; keep one of these fields"
        )
    return named or listed


def _name_paths(value: object, kind: MediumKind, field: str) -> References:
    if value is None:
        return ()
    paths = cast("list[Any]", value if isinstance(value, list) else [value])
    try:
        is_sound = all(paths) and "".join(paths).isascii()
    except TypeError:
        is_sound = False
    if not is_sound:
        for path in paths:
            _check_path(path, f"{field!r}")
    return tuple([MediumReference(kind, path, False) for path in paths])


def _check_path(path: object, what: str) -> None:
    if isinstance(path, list | dict):
        found = describe(cast(object, path))
        raise SampleError(RejectCode.BAD_TYPE, f"an entry of {what} is {found}: write one path a medium")
    if not check_name(path, what):
        raise SampleError(RejectCode.BAD_TYPE, f"{what} is empty; a text-only record has no such key")
