"""What ingest has to know of a published layout: how its rows are read, and which fields name media."""

from collections.abc import Callable
from dataclasses import dataclass

from operators.annotations.turns import Spelling
from schemas.record import MediumReference, Record


@dataclass(frozen=True, slots=True)
class Layout:
    """One published layout of annotation rows."""

    parse: Callable[[object], Record]
    """A row, as a JSON or parquet reader gives it, to a record; raises `SampleError`, and the first check
    that fails names the code."""
    media_fields: tuple[str, ...]
    """The top-level fields that name media; none where pictures are embedded."""
    name_media: Callable[..., tuple[MediumReference, ...]]
    """The values of `media_fields`, in that order and None where absent, to references; raises `SampleError`.
    `parse` reads the fields with it, too, so a scan of these fields alone finds what the records name."""
    is_embedded: bool = False
    """The pictures stand in the rows."""
    usual: Spelling | None = None
    """How turns are written in rows that `read_usual_rows` may read; None: in none."""
