"""S3 alone: what travels, what is told of failures, lost replies, uploads in parts, and a corpus on it."""

import io
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator

import pytest
from s3_lane import BUCKET, KEY_ID, SECRET
from scripted_server import Reply, Script, refusal, serve

from infra import s3, s3_client
from infra.s3 import S3Storage
from infra.storage import open_storage
from pipelines.commit import commit, find_commit, load_manifest, publish_manifest, put_object, read_object
from schemas.corpus import CommitRecord, Manifest
from schemas.errors import (
    ConfigError,
    ConflictError,
    FatalError,
    NotFoundError,
    PipelineError,
    StorageUnavailableError,
)

FINGERPRINT = "f" * 64


@pytest.fixture
def storage(s3_url: str) -> S3Storage:
    return S3Storage(s3_url)


@pytest.fixture
def scripted(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Script]:
    """A server whose replies are the parameter, and little patience."""
    with serve(*request.param) as script:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", script.url)
        monkeypatch.setattr(s3_client, "TRIES", 2)
        monkeypatch.setattr(s3, "TRIES", 2)
        monkeypatch.setattr(s3_client, "MAX_PAUSE_S", 0.0)
        yield script


def manifest(name: str) -> Manifest:
    return Manifest(
        name=name,
        ingest_digest="0" * 64,
        media_digest="0" * 64,
        sources=[],
        num_media=0,
        num_media_bytes=0,
        num_media_uses=0,
        examples=[],
        media=[],
        quarantine=[],
        plan=[],
    )


def test_a_corpus_is_committed_and_published(storage: S3Storage) -> None:
    with pytest.raises(NotFoundError, match="holds no corpus"):
        load_manifest(storage)
    entry = put_object(storage, "shards", "image-all", "tar", b"bytes", num_rows=1)
    other = put_object(storage, "shards", "image-all", "tar", b"other", num_rows=1)
    done = CommitRecord(unit="shard-image-all", fingerprint=FINGERPRINT, objects=[entry])
    assert find_commit(storage, done.unit, FINGERPRINT) is None
    assert commit(storage, done) == done
    with pytest.raises(ConflictError, match="different bytes"):
        commit(storage, done.model_copy(update={"objects": [other]}))
    assert find_commit(storage, done.unit, FINGERPRINT) == done
    assert read_object(storage, entry) == b"bytes"
    publish_manifest(storage, manifest("one"), None)
    publish_manifest(storage, manifest("two"), manifest("one"))
    with pytest.raises(ConflictError, match="somebody else"):
        publish_manifest(storage, manifest("three"), manifest("one"))
    assert load_manifest(storage) == manifest("two")


def page(keys: list[str], more: str) -> Reply:
    facts = "<Size>1</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    entries = "".join(f"<Contents><Key>{key}</Key>{facts}</Contents>" for key in keys)
    truncated = "true" if more else "false"
    body = (
        f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>"
        f"<NextContinuationToken>{more}</NextContinuationToken>{entries}</ListBucketResult>"
    )
    return Reply(200, body.encode())


@pytest.mark.parametrize(
    "scripted",
    [[page(["tests/b/2"], more="next"), page(["tests/b/1", "tests/b/c/"], more="")]],
    indirect=True,
)
def test_listings_of_many_pages_are_whole(scripted: Script) -> None:
    assert S3Storage("s3://corpora/tests").list("b") == ["b/1", "b/2"]
    assert scripted.asked == ["GET", "GET"]


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("s3://corpora", "s3://corpora"),
        ("s3://corpora/", "s3://corpora"),
        ("s3://corpora/a//b/", "s3://corpora/a/b"),
    ],
)
def test_a_url_is_a_bucket_and_a_prefix(url: str, root: str) -> None:
    assert open_storage(url).url == root


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "s3://a", "s3://bad bucket/a"])
def test_a_url_without_bucket_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="can be no bucket"):
        open_storage(url)


def test_a_url_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(ConfigError, match="come from the environment") as caught:
        open_storage(f"s3://{KEY_ID}:{SECRET}@corpora/a")
    assert told_secrets(caught.value) == []


def test_a_whole_bucket_is_a_root(storage: S3Storage) -> None:
    whole = open_storage(f"s3://{BUCKET}")
    whole.put("at-the-root/a", io.BytesIO(b"x"))
    assert whole.list("at-the-root") == ["at-the-root/a"]


def test_nothing_secret_is_in_what_travels_or_is_shown(storage: S3Storage) -> None:
    storage.put("a", io.BytesIO(b"x"))
    shown = pickle.dumps(storage) + repr(storage).encode() + storage.url.encode()
    assert b"corpora" in shown
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name].encode() not in shown


def test_a_forked_process_connects_by_itself(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put("a", io.BytesIO(b"x"))
    made: list[int] = []
    connect = s3.connect
    monkeypatch.setattr(s3, "connect", lambda: (made.append(1), connect())[1])
    assert storage.read_bytes("a") == b"x"
    assert made == []
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert storage.read_bytes("a") == b"x"
    assert made == [1]


def test_an_unknown_bucket_is_named(storage: S3Storage) -> None:
    nowhere = S3Storage("s3://no-such-bucket/a")
    uses = (
        lambda: nowhere.read_bytes("x"),
        lambda: nowhere.create("x", b""),
        lambda: nowhere.put("x", io.BytesIO(b"")),
        lambda: nowhere.replace("x", b"", None),
        lambda: nowhere.list("x"),
    )
    for use in uses:
        with pytest.raises(ConfigError, match=r"s3://no-such-bucket/a/x.*no such bucket; create it"):
            use()


def test_no_credentials_at_all_is_told(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match=r"NoCredentialsError.*set AWS_ACCESS_KEY_ID"):
        storage.read_bytes("a")


@pytest.mark.parametrize(
    ("scripted", "error", "message"),
    [
        (
            [refusal(403, "SignatureDoesNotMatch")],
            ConfigError,
            "refuses access .*set AWS_ACCESS_KEY_ID",
        ),
        ([refusal(403, "InvalidAccessKeyId")], ConfigError, "refuses access .*set AWS_ACCESS_KEY_ID"),
        ([refusal(400, "AuthorizationHeaderMalformed")], ConfigError, "another region .*set AWS_REGION"),
        ([refusal(501, "NotImplemented")], FatalError, "must know conditional writes"),
        ([refusal(503, "SlowDown")], StorageUnavailableError, "busy or broken in 2 tries"),
        ([refusal(500, "InternalError")], StorageUnavailableError, "busy or broken in 2 tries"),
        ([refusal(409, "ConditionalRequestConflict")], StorageUnavailableError, "in the way 2 times"),
    ],
    indirect=["scripted"],
)
def test_refusals_say_what_to_do(scripted: Script, error: type[PipelineError], message: str) -> None:
    with pytest.raises(error, match=f"s3://corpora/a/x: .*{message}") as caught:
        S3Storage("s3://corpora/a").create("x", b"1")
    assert type(caught.value) is error
    assert len(scripted.asked) == (2 if error is StorageUnavailableError else 1)


@pytest.mark.parametrize(
    "scripted",
    [[refusal(403, "SignatureDoesNotMatch", f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>")]],
    indirect=True,
)
def test_wrong_credentials_are_not_shown_even_in_a_traceback(scripted: Script) -> None:
    with pytest.raises(ConfigError) as caught:
        S3Storage("s3://corpora/a").read_bytes("x")
    assert scripted.asked == ["GET"]
    assert told_secrets(caught.value) == []


@pytest.mark.parametrize("scripted", [[Reply(200, b"0123", delay_s=20.0)]], indirect=True)
def test_a_server_that_hangs_is_unavailable(scripted: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.3)
    with pytest.raises(StorageUnavailableError, match="ReadTimeoutError"):
        S3Storage("s3://corpora/a").read_bytes("x")
    assert scripted.asked == ["GET", "GET"]


def test_a_server_that_is_not_there_is_unavailable(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Reply(200)) as script:
        pass
    monkeypatch.setattr(s3_client, "TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", script.url)
    with pytest.raises(
        StorageUnavailableError, match=r"s3://corpora/a/x: no whole answer.*check the network"
    ):
        S3Storage("s3://corpora/a").read_bytes("x")


def test_an_endpoint_that_is_no_address_is_told(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "storage.example")
    with pytest.raises(ConfigError, match="write it as https://HOST:PORT"):
        S3Storage("s3://corpora/a").read_bytes("x")


@pytest.mark.parametrize(
    "scripted", [[Reply(200, b"01", num_promised=4), Reply(200, b"0123")]], indirect=True
)
def test_a_body_that_breaks_off_is_asked_for_again(scripted: Script) -> None:
    assert S3Storage("s3://corpora/a").read_bytes("x") == b"0123"
    assert scripted.asked == ["GET", "GET"]


@pytest.mark.parametrize("scripted", [[Reply(200, b"01", num_promised=4)]], indirect=True)
def test_a_body_that_always_breaks_off_is_never_short(scripted: Script) -> None:
    with pytest.raises(StorageUnavailableError, match="no whole answer in 2 tries"):
        S3Storage("s3://corpora/a").read_bytes("x")
    assert scripted.asked == ["GET", "GET"]


def test_local_storage_loads_no_s3_library() -> None:
    code = (
        "import sys, infra.storage; infra.storage.open_storage('/tmp/x');"
        "print(sorted({'s3fs', 'botocore', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_process_ends_without_complaint_of_open_sessions(storage: S3Storage) -> None:
    storage.put("a", io.BytesIO(b"x"))
    code = f"from infra.s3 import S3Storage; print(S3Storage({storage.url!r}).read_bytes('a'))"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "b'x'"
    assert "Unclosed" not in done.stderr
    assert "ResourceWarning" not in done.stderr


def told_secrets(error: BaseException) -> list[str]:
    text = "".join(traceback.format_exception(error))
    return [secret for secret in (SECRET, KEY_ID) if secret in text]
