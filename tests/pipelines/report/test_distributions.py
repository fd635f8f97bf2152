"""Counts and shares are those that reading row by row gives."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from infra.storage import open_storage
from infra.tar import Member, pack_index
from operators.prompt import PromptSize
from pipelines.commit import put_object
from pipelines.engine import SerialEngine
from pipelines.ingest.tables import (
    EXAMPLES,
    MEDIA,
    read_examples,
    read_media,
)
from pipelines.report.distributions import measure_distributions, measure_shares
from pipelines.report.token_lengths import list_prompt_lengths, measure_token_lengths
from pipelines.stream.lengths import count_lengths
from schemas.corpus import FeatureSet, Manifest, ObjectEntry, ShardEntry, SourceTotals
from schemas.errors import RejectCode, SampleError
from schemas.plan import ShardPlan

SOURCES = ("one", "other", "silent")
NOTHING = ObjectEntry(path="nothing", sha256="0" * 64, num_bytes=0, num_rows=0)


def total(name: str) -> SourceTotals:
    return SourceTotals(name=name, files={}, read=0, taken=0, rejects={}, reject_budget=0)


@pytest.fixture
def corpus(tmp_path: Path):
    """Two files of each table, a picture that two sources talk about, one that has no features."""
    storage = open_storage(tmp_path)
    said = json.dumps([["human", "Which color is it?"], ["gpt", "red"]]).encode()
    both = json.dumps([["human", "<image> or <image>"], ["gpt", "red"]]).encode()
    examples = [
        (
            "0" * 31 + str(number),
            source,
            "f",
            number,
            "",
            key,
            "image",
            10 * number,
            said if number % 3 else both,
        )
        for number, (source, key) in enumerate(
            [("one", "0a"), ("one", "0a"), ("other", "0a"), ("other", "0b"), ("one", "8a"), ("one", "8b")]
        )
    ]
    media = [
        ("0a", 0, "s", "image", "jpg", 2048, 640, 480, 0.0, 3, "one", "a"),
        ("0b", 0, "s", "image", "jpg", 100, 100, 400, 0.0, 1, "other", "b"),
        ("8a", 0, "s", "video", "mp4", 10**6, 320, 240, 12.5, 1, "one", "c"),
        ("8b", 0, "s", "image", "png", 10, 5000, 10, 0.0, 1, "one", "d"),
    ]

    def put(folder, schema, rows, half):
        kept = [row for row in rows if row[5 if schema is EXAMPLES else 0].startswith(half)]
        return put_object(storage, folder, half, "parquet", schema.write(kept), len(kept))

    def put_index(name, *members):
        data = pack_index([Member(name, 0, size, "0" * 16) for name, size in members])
        return ShardEntry(
            name=name, tar=NOTHING, index=put_object(storage, "features/s", name, "idx", data, 1)
        )

    features = FeatureSet(
        ordinal=0,
        spec=NOTHING,
        encoder="e",
        attention=NOTHING,
        shards=[
            put_index("image-0", ("0a.feat.bin", 100), ("0a.json", 5), ("0b.feat.bin", 20)),
            put_index("video-all", ("8a.feat.bin", 3)),
        ],
        num_items=3,
        num_views=3,
        num_fp16_bytes=1,
        rejects=[],
    )
    manifest = Manifest(
        name="n",
        ingest_digest="d",
        sources=[total(name) for name in SOURCES],
        num_media=4,
        num_media_bytes=0,
        num_media_uses=6,
        media_digest="m",
        examples=[put("examples", EXAMPLES, examples, half) for half in "08"],
        media=[put("media", MEDIA, media, half) for half in "08"],
        quarantine=[],
        plan=ShardPlan(),
        features={"s": features},
    )
    return storage, manifest


def counts(histogram):
    return {bar.label: bar.count for bar in histogram.list_bars() if bar.count}


def test_every_row_is_counted(corpus):
    storage, manifest = corpus
    found = measure_distributions(storage, manifest)
    examples = [row for entry in manifest.examples for row in read_examples(storage, entry)]
    media = [row for entry in manifest.media for row in read_media(storage, entry)]
    assert found.characters.num_values == len(examples) == 6
    assert found.characters.mean == pytest.approx(sum(row.num_chars for row in examples) / 6)
    assert found.medium_kib.num_values == len(media) == 4
    assert counts(found.characters) == {"0 to 16": 2, "16 to 32": 2, "32 to 64": 2}
    assert counts(found.long_side_px) == {
        "224 to 336": 1,
        "336 to 448": 1,
        "640 to 768": 1,
        "4,096 and more": 1,
    }
    assert counts(found.width_by_height) == {"0 to 0.33": 1, "1.25 to 1.50": 2, "3 and more": 1}
    assert counts(found.medium_kib) == {"0 to 4": 3, "256 to 1,024": 1}
    assert counts(found.clip_duration_s) == {"10 to 30": 1}


def test_an_item_counts_for_each_of_its_sources(corpus):
    storage, manifest = corpus
    sizes = {"0a": 100, "0b": 20, "8a": 3}
    sources_of = defaultdict(set)
    for entry in manifest.examples:
        for row in read_examples(storage, entry):
            sources_of[row.item_key].add(row.source)
    expected = []
    for source in SOURCES:
        own = [key for key in sizes if source in sources_of[key]]
        shared = sum(sizes[key] for key in own if len(sources_of[key]) > 1)
        expected.append((source, len(own), sum(sizes[key] for key in own), shared))
    shares = measure_shares(storage, manifest, manifest.features["s"])
    found = [(share.source, share.num_items, share.num_bytes, share.num_shared_bytes) for share in shares]
    assert found == expected
    assert found == [("one", 2, 103, 100), ("other", 2, 120, 100), ("silent", 0, 0, 0)]


class CharacterTokenizer:
    def encode(self, text):
        return list(text)


@pytest.mark.parametrize(("num_counted", "expected"), [(100, 6), (0, 0)])
def test_tokens_of_a_sample_are_counted(corpus, monkeypatch, num_counted, expected):
    storage, manifest = corpus
    monkeypatch.setattr("pipelines.report.token_lengths.load_tokenizer", lambda name: CharacterTokenizer())
    found = measure_token_lengths(storage, manifest, "any", num_counted)
    if expected:
        assert counts(found) == {"16 to 32": expected}
        assert found.mean == len("Which color is it?") + len("red")
    else:
        assert found.num_values <= 1


class CharacterPrompter:
    """A token a character; nobody can write a prompt about two media."""

    max_tokens = 1000
    stop_ids = frozenset()

    def __init__(self, digest):
        self.digest = digest

    def write_training(self, turns, num_media):
        raise NotImplementedError

    def write_question(self, turns, num_media):
        raise NotImplementedError

    def measure_training(self, turns, num_media):
        if num_media > 1:
            raise SampleError(RejectCode.PLACEHOLDER_MISMATCH, "two media")
        return PromptSize(sum(len(turn.text) for turn in turns), 1)


def test_prompts_are_shown_as_training_counted_them(corpus):
    storage, manifest = corpus
    whole, begun = CharacterPrompter("a" * 64), CharacterPrompter("b" * 64)
    assert list_prompt_lengths(storage, manifest) == []
    count_lengths(storage, manifest.examples, whole, SerialEngine())
    count_lengths(storage, manifest.examples[:1], begun, SerialEngine())
    (found,) = list_prompt_lengths(storage, manifest)
    assert found.prompter == "a" * 16
    assert counts(found.tokens) == {"16 to 32": 4}
    assert found.tokens.mean == len("Which color is it?") + len("red")
    assert found.left_out == {"placeholder_mismatch": 2}


def test_prompts_of_other_examples_are_not_shown(corpus):
    storage, manifest = corpus
    count_lengths(storage, manifest.examples[:1], CharacterPrompter("a" * 64), SerialEngine())
    first = manifest.model_copy(update={"examples": manifest.examples[:1]})
    assert len(list_prompt_lengths(storage, first)) == 1
    other = manifest.model_copy(update={"examples": manifest.examples[1:]})
    assert list_prompt_lengths(storage, other) == []
