"""Which examples no prompt can be written of: too long, or not what a stage learns from.

They are found before the first step, by writing every prompt once, counted by code and left out of the order,
so that no run ends hours later at one long conversation. Costs some 0.2 ms an example and holds one file of
the table of examples.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from infra.storage import Storage
from operators.prompt import Prompter, count_placeholders
from pipelines.commit import read_object
from pipelines.stream.columns import ExampleFile, ExampleText
from pipelines.stream.conversations import parse_turns
from schemas.corpus import Manifest
from schemas.errors import SampleError
from schemas.record import Modality


@dataclass(frozen=True, slots=True)
class Unwritable:
    """Examples to be left out, and why."""

    ids: tuple[int, ...]
    """The leading 64 bits of their ids, ascending."""
    counts: dict[str, int]
    """By code."""


def find_unwritable(
    storage: Storage, manifest: Manifest, sources: frozenset[str], prompter: Prompter
) -> Unwritable:
    """Write the prompt of every example of these sources, and name those that cannot be.

    Raises:
        CorruptError: when the table of examples is not as it was written.
    """
    ids: list[int] = []
    counts: Counter[str] = Counter()
    for text in _read_texts(storage, manifest):
        if text.source not in sources:
            continue
        try:
            turns = parse_turns(text)
            prompter.write_training(turns, 0 if text.modality == Modality.TEXT else count_placeholders(turns))
        except SampleError as error:
            ids.append(int(text.example_id[:16], 16))
            counts[error.code.value] += 1
    return Unwritable(tuple(sorted(ids)), dict(counts))


def _read_texts(storage: Storage, manifest: Manifest) -> Iterator[ExampleText]:
    for entry in manifest.examples:
        file = ExampleFile(read_object(storage, entry), entry.path)
        yield from file.read_texts(np.arange(entry.num_rows, dtype=np.int64))
