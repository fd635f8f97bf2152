"""A tiny corpus with everything in it; tests work on copies."""

import json
import os
import shutil
import time

import pytest
from encodable_inputs import make_recipe, write_inputs

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """The folder of inputs, one of them a record without its picture; nobody changes it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    rows = json.loads((folder / "llava.json").read_text())
    (folder / "llava.json").write_text(json.dumps([*rows, rows[0] | {"image": "gone.jpg"}]))
    return folder


@pytest.fixture(scope="session")
def recipe(inputs):
    """The recipe over the inputs."""
    return make_recipe(inputs)


@pytest.fixture(scope="session")
def _built(recipe, tmp_path_factory):
    storage = LocalStorage(tmp_path_factory.mktemp("built") / "corpus")
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    featurize(recipe, storage, SerialEngine())
    return storage


@pytest.fixture
def copy_corpus(_built, tmp_path):
    """Makes copies of the built corpus."""

    def copy(name="corpus"):
        shutil.copytree(_built.url, tmp_path / name)
        return LocalStorage(tmp_path / name)

    return copy


@pytest.fixture
def corpus(copy_corpus):
    """A copy of the built corpus."""
    return copy_corpus()


@pytest.fixture
def grow_old():
    """Makes objects, or all of a corpus, so many days old."""

    def age(storage, days, *paths):
        moment = time.time() - 86_400 * days
        for path in paths or [path for folder in LISTED for path in storage.list(folder)]:
            os.utime(storage.local_path(path), (moment, moment))

    return age


LISTED = (
    "examples",
    "media",
    "quarantine",
    "lengths",
    "shards",
    "features",
    "commits",
    "manifests",
    "scratch",
)
