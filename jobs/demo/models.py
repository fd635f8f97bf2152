"""The demo's models, small, seeded and random: a vision tower, a language model and its tokenizer."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from jobs.demo.corpus import DemoCorpus
from jobs.demo.encoder import write_demo_encoder
from jobs.demo.language_model import save_language_model
from jobs.demo.tokenizer import BEGIN, END, PAD, train_tokenizer


def write_models(encoder: Path, language_model: Path, corpus: DemoCorpus, seed: int) -> None:
    """Save both models as `from_pretrained` reads them; the tokenizer learns from what the corpus says."""
    write_demo_encoder(encoder, seed=seed)
    tokenizer = train_tokenizer(read_texts(corpus), language_model)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    save_language_model(
        language_model,
        vocabulary_size=len(vocabulary),
        bos_id=vocabulary[BEGIN],
        eos_id=vocabulary[END],
        pad_id=vocabulary[PAD],
        seed=seed,
    )


def read_texts(corpus: DemoCorpus) -> Iterator[str]:
    """What is said in the JSON annotation files, turn by turn."""
    paths = [path for rendered in corpus.sets for path in rendered.annotations if path.suffix == ".json"]
    for path in paths:
        for raw in msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw]):
            yield from _texts_of(raw)


class _Turn(msgspec.Struct):
    value: str


class _Row(msgspec.Struct):
    """What says something in any of the layouts."""

    q: str = ""
    a: str = ""
    conversations: list[_Turn] = []


def _texts_of(raw: msgspec.Raw) -> Iterator[str]:
    try:
        row = msgspec.json.decode(raw, type=_Row)
    except msgspec.ValidationError:
        return  # a planted fault says nothing
    yield from (row.q, row.a, *(turn.value for turn in row.conversations))
