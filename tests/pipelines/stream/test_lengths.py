"""Lengths are counted once for a tokenizer, on any engine, and decide who is left out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import TinyCorpus, build_corpus
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from watched_storage import read_objects

from infra.ray_cluster import ray_cluster
from operators.chat_prompt import ChatPrompter
from operators.prompt import PromptSize, count_placeholders
from operators.tokenizer import Tokenizer
from pipelines.engine import SerialEngine
from pipelines.ray_engine import RayEngine
from pipelines.stream.lengths import count_lengths, read_lengths
from pipelines.stream.stream import FeatureStream
from schemas.errors import CorruptError
from schemas.record import Modality, Turn
from schemas.stream import DataConfig

CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(template: str = CHATML) -> Tokenizer:
    """One token a byte."""
    specials = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    words = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Backend(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=specials[2:],
    )
    tokenizer.chat_template = template
    return Tokenizer(tokenizer)


DATA = DataConfig(batch=4, micro_batch=2, threads=0, shards_per_block=3)


@pytest.fixture(scope="module")
def prompter() -> ChatPrompter:
    return ChatPrompter(tiny_tokenizer(), max_tokens=120)


@pytest.fixture
def corpus(tmp_path: Path) -> TinyCorpus:
    """Its texts name no media, so only examples without any can be written."""
    return build_corpus(tmp_path)


def test_rows_are_those_of_the_prompts(corpus: TinyCorpus, prompter: ChatPrompter) -> None:
    lengths = count_lengths(corpus.storage, corpus.manifest.examples, prompter, SerialEngine())
    found: list[int] = []
    for entry, examples in zip(lengths.files, corpus.manifest.examples, strict=True):
        found += read_lengths(corpus.storage, entry, examples.num_rows).num_tokens.tolist()
    unlimited = ChatPrompter(tiny_tokenizer(), max_tokens=10_000)
    wanted = [
        len(unlimited.write_training((Turn("human", example.text), Turn("gpt", "Yes.")), 0).token_ids)
        for example in corpus.examples
    ]
    assert found == wanted
    assert unlimited.digest == prompter.digest
    assert all(count_placeholders([Turn("human", example.text)]) == 0 for example in corpus.examples)


def test_nothing_is_counted_twice_and_engines_agree(
    corpus: TinyCorpus, prompter: ChatPrompter, far_engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = count_lengths(corpus.storage, corpus.manifest.examples, prompter, far_engine)

    def refuse(*_: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr("pipelines.stream.lengths.measure_example", refuse)
    assert count_lengths(corpus.storage, corpus.manifest.examples, prompter, SerialEngine()) == first
    other = ChatPrompter(tiny_tokenizer(), 120, OTHER_TEMPLATE)
    assert other.digest != prompter.digest
    with pytest.raises(AssertionError, match="counted again"):
        count_lengths(corpus.storage, corpus.manifest.examples, other, SerialEngine())


@pytest.mark.ray
def test_ray_writes_what_the_serial_engine_writes(tmp_path: Path, prompter: ChatPrompter) -> None:
    found: list[dict[str, bytes]] = []
    with ray_cluster(num_cpus=2):
        for name, engine in (("serial", SerialEngine()), ("ray", RayEngine())):
            corpus = build_corpus(tmp_path / name, num_files=4)
            count_lengths(corpus.storage, corpus.manifest.examples, prompter, engine)
            found.append(read_objects(tmp_path / name))
    assert sum(path.startswith("lengths/") for path in found[0]) == 4
    assert found[1] == found[0]


OTHER_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_long_examples_are_left_out_and_counted(corpus: TinyCorpus, prompter: ChatPrompter) -> None:
    lengths = count_lengths(corpus.storage, corpus.manifest.examples, prompter, SerialEngine())
    unlimited = ChatPrompter(tiny_tokenizer(), max_tokens=10_000)
    data = DATA.model_copy(update={"max_tokens": 100})
    stream = FeatureStream(
        corpus.storage, corpus.manifest, corpus.spec, data, seed=0, num_epochs=1, lengths=lengths
    )
    wanted = {
        example.id: len(
            unlimited.write_training((Turn("human", example.text), Turn("gpt", "Yes.")), 0).token_ids
        )
        for example in corpus.examples
    }
    kept = {name for name, length in wanted.items() if length <= 100}
    seen = [example.example_id for step in stream for batch in step for example in batch]
    assert sorted(seen) == sorted(kept)
    assert stream.catalog.left_out == {"too_many_tokens": len(corpus.examples) - len(kept)}
    assert 0 < len(kept) < len(corpus.examples)
    assert int(np.max(stream.catalog.table.lengths)) <= 100
    assert {example.item.modality for example in corpus.examples if example.id in kept} >= {Modality.TEXT}


class SilentPrompter(ChatPrompter):
    """Masks every label of examples of odd length."""

    def measure_training(self, turns: Sequence[Turn], num_media: int) -> PromptSize:
        size = super().measure_training(turns, num_media)
        return replace(size, num_labels=0) if size.num_tokens % 2 else size


def test_examples_that_teach_nothing_are_left_out_and_counted(corpus: TinyCorpus) -> None:
    prompter = SilentPrompter(tiny_tokenizer(), max_tokens=10_000)
    lengths = count_lengths(corpus.storage, corpus.manifest.examples, prompter, SerialEngine())
    stream = FeatureStream(
        corpus.storage, corpus.manifest, corpus.spec, DATA, seed=0, num_epochs=1, lengths=lengths
    )
    kept = [
        example.id
        for example in corpus.examples
        if prompter.measure_training((Turn("human", example.text), Turn("gpt", "Yes.")), 0).num_labels
    ]
    seen = [example.example_id for step in stream for batch in step for example in batch]
    assert sorted(seen) == sorted(kept)
    assert stream.catalog.left_out == {"nothing_learned": len(corpus.examples) - len(kept)}
    assert 0 < len(kept) < len(corpus.examples)


def test_damaged_lengths_are_found(corpus: TinyCorpus, prompter: ChatPrompter) -> None:
    lengths = count_lengths(corpus.storage, corpus.manifest.examples, prompter, SerialEngine())
    path = corpus.storage.local_path(lengths.files[0].path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match="does not hold the bytes"):
        FeatureStream(corpus.storage, corpus.manifest, corpus.spec, DATA, seed=0, lengths=lengths)
