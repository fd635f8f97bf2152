"""Records and what the probe found become examples of items; a medium is one item, whoever names it.

Identical records of one source (same item, same text) are kept, told apart by an ordinal, or rejected
where the recipe says `deduplicate`. Records are taken in the order of files and rows, which the probe's
order of completion does not touch, so any engine gives the same examples.

All records of the corpus are held in memory here, with their raw rows: some 3 KB each.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.ingest.probe import Finding, FoundMedium, MediumRequest, RejectedMedium, request_medium
from pipelines.ingest.tables import ExampleRow, MediumRow
from schemas.digest import canonical_json, sha256_hex
from schemas.errors import RejectCode, SampleError
from schemas.medium import item_key_of_media, item_key_of_text, modality_of
from schemas.record import Record, Reject, Repair, example_id_of


@dataclass(frozen=True, slots=True)
class ParsedRecord:
    """A record with the row that it was read from."""

    record: Record
    raw: bytes


@dataclass(slots=True)
class Groups:
    """What the records of all sources came to."""

    examples: list[ExampleRow] = field(default_factory=list[ExampleRow])
    media: dict[str, MediumRow] = field(default_factory=dict[str, MediumRow])
    """By sha256."""
    rejects: list[Reject] = field(default_factory=list[Reject])
    repairs: dict[str, Counter[Repair]] = field(default_factory=dict[str, Counter[Repair]])
    """Of the examples, by source."""


def group_records(
    parsed: Iterable[ParsedRecord],
    findings: Mapping[MediumRequest, Finding],
    deduplicated_sources: frozenset[str],
) -> Groups:
    """Examples, media and rejects of records that come in the order of their sources, files and rows."""
    groups = Groups()
    seen: Counter[tuple[str, str, str]] = Counter()
    for one in parsed:
        record = one.record
        try:
            found = _find_medium(record, findings)
            example = _build_example(record, found, seen, record.source in deduplicated_sources)
        except SampleError as error:
            groups.rejects.append(Reject(record.source, record.locator, error.code, error.message, one.raw))
            continue
        groups.examples.append(example)
        repairs = groups.repairs.setdefault(record.source, Counter())
        repairs.update(record.repairs)
        if found:
            repairs.update([Repair.FOUND_BY_STEM] if found.is_by_stem else ())
            row = MediumRow(found.facts, 1, record.source, found.location)
            known = groups.media.get(found.facts.sha256)
            groups.media[found.facts.sha256] = known.merged_with(row) if known else row
    return groups


def _find_medium(record: Record, findings: Mapping[MediumRequest, Finding]) -> FoundMedium | None:
    request = request_medium(record)
    if request is None:
        return None
    finding = findings[request]
    if isinstance(finding, RejectedMedium):
        raise SampleError(finding.code, finding.message)
    return finding


def _build_example(
    record: Record, found: FoundMedium | None, seen: Counter[tuple[str, str, str]], deduplicate: bool
) -> ExampleRow:
    conversation = canonical_json([[turn.role, turn.text] for turn in record.turns])
    digest = sha256_hex(conversation)
    item_key = item_key_of_media((found.facts.sha256,)) if found else item_key_of_text(digest)
    identity = (record.source, item_key, digest)
    occurrence = seen[identity]
    if occurrence and deduplicate:
        raise SampleError(RejectCode.DUPLICATE_RECORD, "an earlier record of the source is identical")
    seen[identity] += 1
    return ExampleRow(
        example_id=example_id_of(record.source, item_key, record.turns, occurrence),
        source=record.source,
        record_file=record.locator.file,
        record_row=record.locator.row,
        record_id=record.record_id,
        item_key=item_key,
        modality=modality_of((found.facts.kind,) if found else ()),
        num_chars=sum(len(turn.text) for turn in record.turns),
        conversation=conversation,
    )
