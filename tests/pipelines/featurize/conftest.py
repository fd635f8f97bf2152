"""A tiny corpus, sharded once and featurized once; tests work on copies."""

import shutil

import pytest
from encodable_inputs import make_recipe, write_inputs

from infra.storage import LocalStorage
from operators.clip import VisionEncoder
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """The folder of inputs; nobody changes it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(inputs):
    """The recipe over the inputs."""
    return make_recipe(inputs)


@pytest.fixture(scope="session")
def _sharded_template(recipe, tmp_path_factory):
    storage = LocalStorage(tmp_path_factory.mktemp("sharded"))
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    return storage


@pytest.fixture
def new_corpus(_sharded_template, tmp_path):
    """Makes further corpora that are sharded and not featurized."""

    def make(name):
        root = tmp_path / name
        shutil.copytree(_sharded_template.url, root)
        return LocalStorage(root)

    return make


@pytest.fixture(scope="session")
def featurized(recipe, _sharded_template, tmp_path_factory):
    """A featurized corpus that nobody changes: storage, short digest, manifest."""
    root = tmp_path_factory.mktemp("featurized") / "corpus"
    shutil.copytree(_sharded_template.url, root)
    storage = LocalStorage(root)
    return storage, *featurize(recipe, storage, SerialEngine())


@pytest.fixture
def encoded_counts(monkeypatch):
    """How many views each call of an encoder was given."""
    counts = []
    encode_fixed = VisionEncoder.encode_fixed

    def count(self, pixels, batch_size):
        counts.append(len(pixels))
        return encode_fixed(self, pixels, batch_size)

    monkeypatch.setattr(VisionEncoder, "encode_fixed", count)
    return counts
