"""How many tokens a conversation has, by the tokenizer of the language model, over a sample of the examples.

Examples are taken whose ids are lowest: ids are digests, so that is a random sample, and the same one each
time. Counted are the words of both sides; a prompt adds a template and the tokens of the picture to them.
"""

from io import BytesIO
from typing import Final

import msgspec
import polars as pl

from infra.storage import Storage
from pipelines.commit import read_object
from pipelines.report.distributions import TEXT_EDGES
from pipelines.report.histogram import Histogram
from pipelines.train.assembly import load_tokenizer
from schemas.corpus import Manifest

NUM_COUNTED: Final = 5_000
_ID_SPACE: Final = 16**32


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
