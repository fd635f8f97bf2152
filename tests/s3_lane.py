"""What the S3 tests run on: Ceph's gateway where it is installed, else moto's server; the report says which.

`ONETOKEN_S3_SERVER` takes `ceph` or `moto` and no other, or the tests fail.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from typing import Final

import pytest

from infra import ceph, s3_server
from infra.s3_server import Endpoint
from schemas.digest import sha256_hex

BUCKET: Final = "corpora"
KEY_ID: Final = "AKIAONETOKENTEST"
SECRET: Final = "a-secret-that-nothing-shows"
_CHOICE: Final = "ONETOKEN_S3_SERVER"
_CLEARED: Final = ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")
_NOWHERE: Final = "http://127.0.0.1:1"
_SERVED: Final = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def s3_endpoint(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An S3 server of this test run alone."""
    wanted = os.environ.get(_CHOICE) or ("moto" if ceph.missing_programs() else "ceph")
    if wanted == "ceph":
        folder = tmp_path_factory.mktemp("s3-server")
        try:
            endpoint = s3_server.start(folder, is_temporary=True)
            pytestconfig.stash[_SERVED] = f"Ceph radosgw {ceph.version()}"
            yield endpoint
        finally:
            s3_server.stop(folder)
    elif wanted == "moto":
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        pytestconfig.stash[_SERVED] = "moto, a mock: `python -m infra.s3_server install` brings a real one"
        yield Endpoint("http://{}:{}".format(*server.get_host_and_port()), KEY_ID, secrets.token_hex(20))
        server.stop()
    else:
        pytest.fail(f"{_CHOICE} takes ceph or moto, not {wanted!r}")


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are told from all others, and nothing of the machine's own."""
    for name in _CLEARED:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name, value in Endpoint(_NOWHERE, KEY_ID, SECRET).environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def _s3_bucket(s3_endpoint: Endpoint) -> None:
    from infra.s3_client import connect  # most test runs need no S3 library

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_endpoint.environment.items():
            patch.setenv(name, value)
        connect().call_s3("create_bucket", Bucket=BUCKET)


@pytest.fixture
def s3_url(
    s3_endpoint: Endpoint,
    _s3_bucket: None,
    s3_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> str:
    """A prefix that no other test writes to, in a bucket that is there."""
    for name, value in s3_endpoint.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/tests/{sha256_hex(request.node.nodeid.encode())[:16]}"


@pytest.fixture
def real_s3(s3_endpoint: Endpoint) -> None:
    """The mock checks no signature and knows no time and no end of uploads."""
    if s3_endpoint.key_id == KEY_ID:
        pytest.skip("needs a real S3 server: `python -m infra.s3_server install`")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are tried again at once."""
    from botocore.retries.standard import ExponentialBackoff

    from infra import s3_client

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.0)
    monkeypatch.setattr(s3_client, "MAX_PAUSE_S", 0.0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the S3 tests ran on."""
    if served := config.stash.get(_SERVED, None):
        terminalreporter.write_line(f"S3 tests ran on {served}")
