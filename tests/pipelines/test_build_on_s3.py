"""A whole build on S3: the bytes of a local serial build, whatever the server and other builds do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from encodable_inputs import make_recipe, recipe_values, write_inputs
from faulty_proxy import Fault, Proxy, misbehave_at_random, stand_before
from test_build_killed import DEADLINE_S, finish, kill, start_build
from watched_storage import read_objects

from infra.files import open_files
from infra.s3 import S3Storage
from infra.s3_server import Endpoint
from infra.storage import LocalStorage, Storage
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from schemas.recipe import Recipe

OFTEN = 0.4
SELDOM = 0.1
"""For builds that do pause before they try again."""
MAX_ATTEMPTS = 4
"""One less than requests are tried."""
OTHERS_WORK = "was changed by somebody else meanwhile; run the command again"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Media, annotations, an encoder, and the recipe over them."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(folder)))
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every object of a serial build on a local disk that nobody disturbed."""
    root = tmp_path_factory.mktemp("undisturbed") / "corpus"
    build_all(make_recipe(inputs), LocalStorage(root))
    return read_objects(root)


def build_all(recipe: Recipe, storage: Storage) -> None:
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    featurize(recipe, storage, SerialEngine())


def read_s3_objects(storage: S3Storage) -> dict[str, bytes]:
    return {path: storage.read_bytes(path) for path in open_files(storage.url).glob("**")}


def shards_of(objects: dict[str, bytes]) -> dict[str, bytes]:
    """The sample and feature shards; their names hold their digests."""
    return {path: data for path, data in objects.items() if path.endswith((".tar", ".idx"))}


@pytest.fixture
def proxy(
    s3_endpoint: Endpoint, s3_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Proxy]:
    """The server misbehaves for everybody who looks it up in the environment."""
    with stand_before(s3_endpoint.url, misbehave_at_random(1, request.param, MAX_ATTEMPTS)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.mark.parametrize("proxy", [OFTEN], indirect=True)
def test_a_misbehaving_server_changes_no_byte(
    inputs: Path,
    undisturbed: dict[str, bytes],
    s3_endpoint: Endpoint,
    proxy: Proxy,
    s3_url: str,
    no_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build_all(make_recipe(inputs), S3Storage(s3_url))
    assert set(proxy.done) == set(Fault)
    assert proxy.done.total() > 20
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint.url)
    built = read_s3_objects(S3Storage(s3_url))
    assert len(shards_of(undisturbed)) > 4
    assert shards_of(built) == shards_of(undisturbed)
    assert built == undisturbed
    told = b"".join(built.values()) + repr(sorted(built)).encode()
    for secret in (s3_endpoint.secret, s3_endpoint.key_id, s3_endpoint.url, proxy.url):
        assert secret.encode() not in told


@pytest.mark.parametrize("proxy", [SELDOM], indirect=True)
def test_processes_with_a_misbehaving_server_change_no_byte(
    inputs: Path,
    undisturbed: dict[str, bytes],
    s3_endpoint: Endpoint,
    proxy: Proxy,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish(start_build(inputs / "recipe.yaml", s3_url, "processes"))
    assert proxy.done.total() > 2
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint.url)
    assert read_s3_objects(S3Storage(s3_url)) == undisturbed


@pytest.fixture
def racers(inputs: Path, s3_url: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two builds of one corpus, started together."""
    started = [start_build(inputs / "recipe.yaml", s3_url) for _ in range(2)]
    yield started
    for process in started:
        if process.poll() is None:
            kill(process)


def test_two_builds_that_race_end_with_one_corpus(
    racers: list[subprocess.Popen[bytes]],
    inputs: Path,
    undisturbed: dict[str, bytes],
    s3_endpoint: Endpoint,
    s3_url: str,
) -> None:
    told = [b"".join(process.communicate(timeout=DEADLINE_S)).decode() for process in racers]
    statuses = [process.returncode for process in racers]
    assert 0 in statuses, told
    for status, text in zip(statuses, told, strict=True):
        assert status == 0 or (OTHERS_WORK in text and "Traceback" not in text), text
        assert s3_endpoint.secret not in text
        assert s3_endpoint.key_id not in text
    assert read_s3_objects(S3Storage(s3_url)) == undisturbed
    finish(start_build(inputs / "recipe.yaml", s3_url))
    assert read_s3_objects(S3Storage(s3_url)) == undisturbed
    assert load_manifest(S3Storage(s3_url)).features


@pytest.mark.usefixtures("real_s3")
def test_wrong_credentials_end_a_build_and_are_not_told(
    inputs: Path, s3_endpoint: Endpoint, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-not-to-be-told")
    process = start_build(inputs / "recipe.yaml", s3_url)
    told = b"".join(process.communicate(timeout=DEADLINE_S)).decode()
    assert process.returncode == 2
    assert "S3 refuses access (SignatureDoesNotMatch); set AWS_ACCESS_KEY_ID" in told
    assert "Traceback" not in told
    for secret in ("wrong-and-not-to-be-told", s3_endpoint.secret, s3_endpoint.key_id):
        assert secret not in told
