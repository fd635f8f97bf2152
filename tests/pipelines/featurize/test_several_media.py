"""Records about several media: each encoded in its place, and streamed in the order of their placeholders."""

import json

import pytest
import torch
from encodable_inputs import NUM_CLIP_FRAMES, make_recipe, talk

from infra.storage import LocalStorage
from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN
from operators.collate import collate_training
from operators.prompt import Prompt, measure_prompt
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from pipelines.stream.stream import FeatureStream
from schemas.record import Modality, Turn
from schemas.stream import DataConfig

RECORDS = {
    "two": (["wide.jpg", "clear.png"], [], "<image> or <image>?"),
    "turned": (["clear.png", "wide.jpg"], [], "<image> or <image>?"),
    "same": (["wide.jpg", "wide.jpg", "square.webp"], [], "<image><image><image>"),
    "clip first": (["wide.jpg"], ["v_clip.mp4"], "<video>then<image>"),
    "one": (["wide.jpg"], [], "<image>One?"),
    "other": (["clear.png"], [], "<image>One?"),
    "square": (["square.webp"], [], "<image>One?"),
    "clip": ([], ["v_clip.mp4"], "<video>One?"),
}
SHOWN = {
    "two": ["wide.jpg", "clear.png"],
    "turned": ["clear.png", "wide.jpg"],
    "same": ["wide.jpg", "wide.jpg", "square.webp"],
    "clip first": ["v_clip.mp4", "wide.jpg"],
    "one": ["wide.jpg"],
    "other": ["clear.png"],
    "square": ["square.webp"],
    "clip": ["v_clip.mp4"],
}


@pytest.fixture(scope="module")
def featurized_several(inputs, tmp_path_factory):
    """Storage, digest of the spec and manifest of a corpus of all records."""
    folder = tmp_path_factory.mktemp("several")
    rows = [
        {"id": name, "image": images, "video": videos, "conversations": talk(question, name)}
        for name, (images, videos, question) in RECORDS.items()
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    recipe = make_recipe(inputs)
    source = recipe.sources[0].model_copy(update={"annotations": str(folder / "rows.json")})
    recipe = recipe.model_copy(update={"sources": [source]})
    storage = LocalStorage(folder / "corpus")
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    return storage, *featurize(recipe, storage, SerialEngine())


def read_batches(corpus, views):
    """The micro-batches of an epoch."""
    storage, digest, manifest = corpus
    config = DataConfig(batch=2, micro_batch=2, views=views)
    stream = FeatureStream(storage, manifest, digest, config, seed=1, num_epochs=1)
    return [batch for step in stream for batch in step]


class OneTokenAWord:
    """Media first, then each turn as its length."""

    digest = "one token a word"
    max_tokens = 64
    stop_ids = frozenset({0})

    def write_training(self, turns, num_media):
        ids = [MEDIUM_TOKEN] * num_media + [len(turn.text) for turn in turns]
        labels = [IGNORED_LABEL] * (num_media + 1) + ids[-1:]
        return Prompt(tuple(ids), tuple(labels), (*[False] * num_media, True, False))

    def write_question(self, turns, num_media):
        raise NotImplementedError

    def measure_training(self, turns, num_media):
        return measure_prompt(self.write_training(turns, num_media))


@pytest.mark.parametrize(("views", "num_views"), [("all", 5), ("whole", 1)])
def test_each_medium_stands_in_the_order_of_its_placeholder(featurized_several, views, num_views):
    _, digest, manifest = featurized_several
    assert manifest.features[digest].num_items == len(RECORDS)
    assert {leaf.modality for leaf in manifest.plan} == {Modality.IMAGE, Modality.MULTI, Modality.VIDEO}
    batches = read_batches(featurized_several, views)
    found = {example.turns[1].text: example for batch in batches for example in batch}
    assert found.keys() == RECORDS.keys()
    alone = {SHOWN[name][0]: found[name].media[0].patches for name in ("one", "other", "square", "clip")}
    for name, example in found.items():
        assert example.turns[0] == Turn("human", RECORDS[name][2])
        assert len(example.media) == len(SHOWN[name])
        for medium, shown in zip(example.media, SHOWN[name], strict=True):
            assert torch.equal(medium.patches, alone[shown])
    shapes = [tuple(medium.patches.shape[:2]) for medium in found["clip first"].media]
    assert shapes == [(NUM_CLIP_FRAMES - 2, 1), (1, num_views)]


def test_a_batch_holds_several_media_of_an_example(featurized_several):
    found = read_batches(featurized_several, "whole")
    batches = [collate_training(examples, OneTokenAWord()) for examples in found]
    media = [number for batch in batches for number in batch.media_per_example]
    frames = [number for batch in batches for number in batch.frames_per_example]
    counts = zip(media, frames, strict=True)
    assert sorted(counts) == [(1, 1), (1, 1), (1, 1), (1, 3), (2, 2), (2, 2), (2, 4), (3, 3)]
    assert all(batch.frames.shape[1] == 1 for batch in batches)
