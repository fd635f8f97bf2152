"""The most that one example holds, against a loop over all of them."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from test_lengths import tiny_tokenizer
from tiny_corpus import SPEC, Example, TinyCorpus, build_corpus

from operators.chat_prompt import ChatPrompter
from pipelines.commit import put_object
from pipelines.engine import SerialEngine
from pipelines.stream.extremes import find_extremes
from pipelines.stream.lengths import count_lengths, read_lengths
from schemas.errors import ConfigError
from schemas.record import Modality
from schemas.stream import DataConfig


@pytest.fixture
def corpus(tmp_path: Path) -> TinyCorpus:
    """With its table of media; a clip is as many seconds long as it has frames, but for half of one."""
    corpus = build_corpus(tmp_path, rejected=(0, 3))
    rows = [
        (item.key, "video" if item.modality is Modality.VIDEO else "image", medium.num_frames - 0.5)
        for item in corpus.items
        for medium in item.media
    ]
    keys, kinds, seconds = zip(*rows, strict=True)
    file = io.BytesIO()
    table = pyarrow.table({"item_key": keys, "kind": kinds, "duration_s": seconds})
    pyarrow.parquet.write_table(table, file)
    entry = put_object(corpus.storage, "media", "media", "parquet", file.getvalue(), len(rows))
    manifest = corpus.manifest.model_copy(update={"media": [entry]})
    return TinyCorpus(corpus.storage, manifest, corpus.items, corpus.examples)


def most(corpus: TinyCorpus, count: Callable[[Example], int], *sources: str) -> int:
    """Of the examples that have features and are of these sources."""
    rejected = {reject.key for reject in corpus.features.rejects}
    kept = [
        example
        for example in corpus.examples
        if example.item.key not in rejected and (not sources or example.source in sources)
    ]
    return max((count(example) for example in kept), default=0)


def count_pictures(example: Example) -> int:
    return 0 if example.item.modality is Modality.VIDEO else len(example.item.media)


def count_frames(example: Example) -> int:
    return example.item.media[0].num_frames if example.item.modality is Modality.VIDEO else 0


@pytest.mark.parametrize("frames", [{}, {"max": 5}, {"uniform": 8}])
def test_pictures_and_frames(corpus: TinyCorpus, frames: dict[str, int]) -> None:
    found = find_extremes(
        corpus.storage, corpus.manifest, SPEC, DataConfig.model_validate({"frames": frames})
    )
    bound = min(frames.values(), default=1000)
    assert found.pictures == most(corpus, count_pictures) == 2
    assert found.frames == min(bound, most(corpus, count_frames))
    assert found.text is None


def test_sources_that_are_not_read_do_not_count(corpus: TinyCorpus) -> None:
    for source in ("captions", "videos"):
        data = DataConfig(sources={source: 1.0})
        found = find_extremes(corpus.storage, corpus.manifest, SPEC, data)
        assert found.pictures == most(corpus, count_pictures, source)
        assert found.frames == most(corpus, count_frames, source)
    assert found.pictures == 0
    with pytest.raises(ConfigError, match="no source 'vidoes'"):
        find_extremes(corpus.storage, corpus.manifest, SPEC, DataConfig(sources={"vidoes": 1.0}))


def test_texts_are_told_by_their_counts(corpus: TinyCorpus) -> None:
    """Those that are too long, or have no prompt, are left out as in training."""
    prompter = ChatPrompter(tiny_tokenizer(), max_tokens=10_000)
    lengths = count_lengths(corpus.storage, corpus.manifest.examples, prompter, SerialEngine())
    for max_tokens in (10_000, 150):
        rows: list[tuple[int, int, int]] = []
        for file, entry in zip(lengths.files, corpus.manifest.examples, strict=True):
            table = read_lengths(corpus.storage, file, entry.num_rows)
            for tokens, labels, media, code in zip(
                table.num_tokens.tolist(),
                table.num_labels.tolist(),
                table.num_media.tolist(),
                table.codes.tolist(),
                strict=True,
            ):
                if code == 0 and tokens <= max_tokens:
                    rows.append((tokens - media, tokens - media - labels, labels))
        data = DataConfig(max_tokens=max_tokens)
        text = find_extremes(corpus.storage, corpus.manifest, SPEC, data, lengths).text
        assert text is not None
        longest, instruction, answer = (max(column) for column in zip(*rows, strict=True))
        assert (text.longest, text.instruction, text.answer) == (longest, instruction, answer)
        assert text.shortest == min(row[0] for row in rows)
        assert text.longest <= max_tokens
