"""How many tokens examples have: whole prompts, as training counted them, and a sample by any tokenizer.

Training keeps the lengths of all prompts in the corpus; what is there for every file of examples is shown.
For another tokenizer those examples are counted here whose ids are lowest: ids are digests, so that is a
random sample, and the same one each time. Counted are then the words of both sides; a prompt adds a template
and the tokens of the picture to them.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import msgspec
import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.report.distributions import TEXT_EDGES
from pipelines.report.histogram import Histogram
from pipelines.stream.lengths import WRITABLE, read_lengths
from pipelines.train.assembly import load_tokenizer
from pipelines.upkeep.inventory import list_commits, list_lengths, read_commit, unit_in
from schemas.corpus import Manifest, ObjectEntry, lengths_unit

NUM_COUNTED: Final = 5_000
_ID_SPACE: Final = 16**32


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Tokens of the prompts of all examples, for one tokenizer and template."""

    prompter: str
    """The beginning of the digest of both."""
    tokens: Histogram
    """Of examples of which a prompt can be written."""
    left_out: dict[str, int]
    """The other examples, by code."""


def list_prompt_lengths(storage: Storage, manifest: Manifest) -> list[PromptLengths]:
    """What training counted, for each tokenizer that every example was counted for.

    Raises:
        CorruptError: when a table of lengths is not as it was written.
    """
    units = {lengths_unit(entry.path): entry for entry in manifest.examples}
    tables = _find_tables(storage, units)
    return [
        _sum_tables(storage, prompter, [(units[unit], table) for unit, table in sorted(found.items())])
        for prompter, found in sorted(tables.items())
        if len(found) == len(units)
    ]


def measure_token_lengths(
    storage: Storage, manifest: Manifest, tokenizer: str, num_counted: int = NUM_COUNTED
) -> Histogram:
    """Tokens of about so many conversations; of all, where there are fewer.

    Raises:
        NotFoundError: when there is no such tokenizer.
        CorruptError: when a table is not as it was written.
    """
    opened = load_tokenizer(tokenizer)
    found = Histogram(TEXT_EDGES)
    num_examples = sum(entry.num_rows for entry in manifest.examples)
    bound = min(_ID_SPACE - 1, _ID_SPACE * num_counted // max(1, num_examples))
    for entry in manifest.examples:
        frame = pl.read_parquet(
            BytesIO(read_object(storage, entry)), columns=["example_id", "conversation"]
        ).filter(pl.col("example_id") <= f"{bound:032x}")
        for conversation in frame["conversation"]:
            turns = msgspec.json.decode(conversation, type=list[tuple[str, str]])
            found.add([sum(len(opened.encode(text)) for _, text in turns)])
    return found


def _find_tables(storage: Storage, units: dict[str, ObjectEntry]) -> dict[str, dict[str, ObjectEntry]]:
    """By prompter and unit, the tables that are there."""
    tables: dict[str, dict[str, ObjectEntry]] = defaultdict(dict)
    there = {one.path for one in list_lengths(storage)}
    for one in list_commits(storage) if there else ():
        record = read_commit(storage, one.path) if unit_in(one.path) in units else None
        for table in record.objects if record else ():
            if table.path in there:
                tables[table.path.split("/")[1]][unit_in(one.path)] = table
    return tables


def _sum_tables(
    storage: Storage, prompter: str, tables: list[tuple[ObjectEntry, ObjectEntry]]
) -> PromptLengths:
    tokens, left_out = Histogram(TEXT_EDGES), Counter[str]()
    for examples, table in tables:
        columns = read_lengths(storage, table, examples.num_rows)
        is_writable = columns.codes == columns.names.index(WRITABLE)
        tokens.add(columns.num_tokens[is_writable])
        reasons: list[int] = columns.codes[~is_writable].tolist()
        left_out.update(columns.names[code] for code in reasons)
    return PromptLengths(prompter, tokens, dict(sorted(left_out.items())))
