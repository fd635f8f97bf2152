"""The item that a record is about, from its text or from what the probe found out about its media.

One per range of rows: items are looked up by the references of a record, so that what a thousand records
share is put together once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from infra.storage import Storage
from pipelines.ingest.findings import (
    Finding,
    FoundMedium,
    RejectedMedium,
    unpack_findings,
    unpack_references,
    unpack_row_findings,
)
from pipelines.scatter import Scattered, read_blob
from schemas.digest import sha256_hex
from schemas.errors import RejectCode, SampleError
from schemas.medium import KEY_DIGITS, item_key_of_media, item_key_of_text, modality_of
from schemas.record import MediumKind, MediumReference, Modality, Repair, begin_example_id

MODALITIES: Final = tuple(Modality)
"""By the number that stands for them in parts."""
REPAIR_BITS: Final = {repair: 1 << place for place, repair in enumerate(Repair)}

_TEXT: Final = MODALITIES.index(Modality.TEXT)
_MULTI: Final = MODALITIES.index(Modality.MULTI)
_SINGLE: Final = {kind.value: MODALITIES.index(modality_of((kind,))) for kind in MediumKind}
_BY_STEM: Final = REPAIR_BITS[Repair.FOUND_BY_STEM]


class KnownItem(msgspec.Struct, eq=False, gc=False):
    """An item, as the examples of a range need it; told from others by its identity."""

    key: bytes
    id_beginning: bytes
    """Of the ids of its examples."""
    modality: int
    """Its place in `MODALITIES`."""
    media: tuple[FoundMedium, ...] = ()
    repairs: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """Where the findings are that a range asked for."""

    references: Scattered | None = None
    findings: tuple[Scattered, ...] = ()
    """One object for each bucket of the references."""
    place: int = 0
    """Of the range among those that asked."""
    row_findings: Scattered | None = None
    """Of media that stand in the rows that are used."""
    unwanted: frozenset[str] = frozenset()
    """Digests of media that count as rejected, whatever was found."""

    def load(self, storage: Storage) -> dict[MediumReference, Finding]:
        """What was found, by reference."""
        found: dict[MediumReference, Finding] = {}
        if self.references is None:
            return found
        for bucket, scattered in enumerate(self.findings):
            asked = unpack_references(read_blob(storage, self.references, bucket))
            answered = unpack_findings(read_blob(storage, scattered, self.place)) if asked else []
            found.update(zip(asked, map(self._refuse_unwanted, answered), strict=True))
        return found

    def load_rows(self, storage: Storage) -> list[list[Finding]]:
        """What was found in the rows that are used, in order."""
        rows = unpack_row_findings(read_blob(storage, self.row_findings, 0)) if self.row_findings else []
        return [[self._refuse_unwanted(finding) for finding in row] for row in rows]

    def _refuse_unwanted(self, finding: Finding) -> Finding:
        if not self.unwanted or isinstance(finding, RejectedMedium) or finding.sha256 not in self.unwanted:
            return finding
        message = f"{finding.location!r} is {finding.sha256}, which the recipe lists under reject_media"
        return RejectedMedium(RejectCode.UNWANTED_MEDIUM, message)


class ItemFinder:
    """Finds the items of one range."""

    def __init__(self, source: str, findings: Mapping[MediumReference, Finding]) -> None:
        self._source = source
        self._findings = findings
        self._items: dict[tuple[MediumReference, ...], KnownItem | SampleError] = {}
        self._by_path = _make_singles(source, findings)

    def find(self, references: tuple[MediumReference, ...]) -> KnownItem:
        """The item over the media that a record names.

        Raises:
            SampleError: with the code of the first medium that cannot be used.
        """
        known = self._items.get(references)
        if known is None:
            known = self._items[references] = self._put_together(references)
        if isinstance(known, SampleError):
            raise known
        return known

    def by_path(self, kind: MediumKind) -> Mapping[str, KnownItem]:
        """Items over one medium, by its path; of a medium that cannot be used, `find` tells why."""
        return self._by_path[kind]

    def find_embedded(self, findings: Sequence[Finding], num_media: int, conversation: bytes) -> KnownItem:
        """The item over the media that stand in the row itself, or of its conversation where there are none.

        Raises:
            SampleError: EMPTY_FILE or BAD_TYPE when the row holds fewer or more media than it names; else
                with the code of the first that cannot be used.
        """
        if len(findings) != num_media:
            code = RejectCode.EMPTY_FILE if len(findings) < num_media else RejectCode.BAD_TYPE
            held = f"its columns of pictures hold {len(findings)}"
            raise SampleError(code, f"the row names {num_media} pictures in 'image', {held}")
        return make_item(self._source, findings) if findings else self.find_text(conversation)

    def find_text(self, conversation: bytes) -> KnownItem:
        """The item of a conversation without media."""
        key = item_key_of_text(sha256_hex(conversation))
        return KnownItem(bytes.fromhex(key), begin_example_id(self._source, key), _TEXT)

    def _put_together(self, references: tuple[MediumReference, ...]) -> KnownItem | SampleError:
        try:
            return make_item(self._source, [self._findings[reference] for reference in references])
        except SampleError as error:
            return error


def make_item(source: str, findings: Sequence[Finding]) -> KnownItem:
    """The item over media that were found.

    Raises:
        SampleError: with the code of the first medium that cannot be used.
    """
    repairs = 0
    for finding in findings:
        if isinstance(finding, RejectedMedium):
            raise SampleError(finding.code, finding.message)
        if finding.is_by_stem:
            repairs = _BY_STEM
    media = cast("tuple[FoundMedium, ...]", tuple(findings))
    if len(media) == 1:
        return _make_single(source, media[0])
    key = item_key_of_media(tuple([medium.sha256 for medium in media]))
    return KnownItem(bytes.fromhex(key), begin_example_id(source, key), _MULTI, media, repairs)


def _make_single(source: str, medium: FoundMedium) -> KnownItem:
    key = medium.sha256[:KEY_DIGITS]  # as `item_key_of_media` has it for one
    repairs = _BY_STEM if medium.is_by_stem else 0
    beginning = begin_example_id(source, key)
    return KnownItem(bytes.fromhex(key), beginning, _SINGLE[medium.kind], (medium,), repairs)


def _make_singles(
    source: str, findings: Mapping[MediumReference, Finding]
) -> dict[MediumKind, dict[str, KnownItem]]:
    """Items over each medium that was found under its whole path, of either kind.

    All at once, before any row is read: made one by one between the objects of rows, which come and go, they
    would scatter these over ever more memory.
    """
    by_path: dict[MediumKind, dict[str, KnownItem]] = {kind: {} for kind in MediumKind}
    for (kind, path, by_stem), finding in findings.items():
        if path is not None and not by_stem and isinstance(finding, FoundMedium):
            by_path[kind][path] = _make_single(source, finding)
    return by_path


def combine_repairs(bits: int, repairs: Iterable[Repair]) -> int:
    """The bits of some repairs, added to others."""
    for repair in repairs:
        bits |= REPAIR_BITS[repair]
    return bits
