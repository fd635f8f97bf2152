"""A whole build on S3: the bytes of a local serial build, whatever the server and other builds do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from build_commands import Race, Run
from encodable_inputs import make_recipe
from faulty_proxy import Fault, Proxy, Request, misbehave_at_random, stand_before
from watched_storage import read_objects

from infra.files import open_files
from infra.s3 import S3Storage
from infra.s3_server import Endpoint
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard

MAX_ATTEMPTS = 4
"""One less than requests are tried."""
OTHERS_WORK = "was changed by somebody else meanwhile; run the command again"


def lose_first_answers(request: Request) -> Fault | None:
    """Whatever is put is put, and nobody hears of it, so it is put again."""
    return Fault.LOST if request.method == "PUT" and not request.attempt else None


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
    with stand_before(s3_endpoint.url, request.param) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.mark.parametrize(
    "proxy", [misbehave_at_random(1, 0.4, MAX_ATTEMPTS)], indirect=True, ids=["at random"]
)
def test_a_misbehaving_server_changes_no_byte(
    recipe: Path,
    undisturbed: dict[str, bytes],
    s3_endpoint: Endpoint,
    proxy: Proxy,
    s3_url: str,
    no_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, storage = make_recipe(recipe.parent), S3Storage(s3_url)
    for flow in (ingest, shard, featurize):
        flow(values, storage, SerialEngine())
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


@pytest.mark.parametrize("proxy", [lose_first_answers], indirect=True)
@pytest.mark.parametrize("verb", ["ingest", pytest.param("build", marks=pytest.mark.slow)])
def test_processes_with_a_misbehaving_server_change_no_byte(
    run: Run,
    s3_endpoint: Endpoint,
    proxy: Proxy,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
) -> None:
    run(s3_url, verb, "processes")
    assert set(proxy.done) == {Fault.LOST}
    assert proxy.done[Fault.LOST] > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint.url)
    run(tmp_path / "corpus", verb)
    assert read_s3_objects(S3Storage(s3_url)) == read_objects(tmp_path / "corpus")


def test_two_builds_that_race_end_with_one_corpus(
    race: Race, run: Run, undisturbed: dict[str, bytes], s3_endpoint: Endpoint, s3_url: str
) -> None:
    racers = race(s3_url, num_runs=2)
    assert 0 in [racer.status for racer in racers], racers
    for racer in racers:
        text = racer.told + racer.said
        assert racer.status == 0 or (OTHERS_WORK in text and "Traceback" not in text), text
        assert s3_endpoint.secret not in text
        assert s3_endpoint.key_id not in text
    assert read_s3_objects(S3Storage(s3_url)) == undisturbed
    run(s3_url)
    assert read_s3_objects(S3Storage(s3_url)) == undisturbed
    assert load_manifest(S3Storage(s3_url)).features


@pytest.mark.usefixtures("real_s3")
def test_wrong_credentials_end_a_build_and_are_not_told(
    race: Race, s3_endpoint: Endpoint, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-not-to-be-told")
    (ending,) = race(s3_url)
    told = ending.told + ending.said
    assert ending.status == 2
    assert "S3 refuses access (SignatureDoesNotMatch); set AWS_ACCESS_KEY_ID" in told
    assert "Traceback" not in told
    for secret in ("wrong-and-not-to-be-told", s3_endpoint.secret, s3_endpoint.key_id):
        assert secret not in told
