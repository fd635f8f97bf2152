"""An S3 server that knows conditional writes, in this process."""

import logging
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
from s3_settings import BUCKET, CLEARED, VARIABLES

from infra.s3_client import connect
from schemas.digest import sha256_hex


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are told from all others, and nothing of the machine's own."""
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_url(
    moto_url: str, s3_environment: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A prefix that no other test writes to, in a bucket that is there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_url)
    connect().call_s3("create_bucket", Bucket=BUCKET)
    return f"s3://{BUCKET}/tests/{sha256_hex(request.node.nodeid.encode())[:16]}"
