"""A connection to S3, and what its failures mean.

Everything is set by the environment, as for every other S3 program (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`,
`AWS_REGION` or `AWS_DEFAULT_REGION`), so no credential is in a URL, an object or a message here.

One policy of retries: botocore's own standard mode, `TRIES` tries of each request with exponential pauses
and jitter (on lost connections, time-outs, 500, 502, 503, 504 and throttling). s3fs' second loop around it is
off. Only a reply that breaks off in its body is outside that policy; `read_object` asks again, as often and
with pauses as long. Connecting, and waiting for the next bytes of a reply, have time-outs.

Messages name the place, the server's code and the way out, never the server's own text.
"""

import contextlib
import os
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import aiohttp
from botocore import exceptions as botocore_errors  # pyright: ignore[reportMissingTypeStubs]
from botocore.parsers import ResponseParserError  # pyright: ignore[reportMissingTypeStubs]
from s3fs import S3FileSystem  # pyright: ignore[reportMissingTypeStubs]

from schemas.errors import ConfigError, FatalError, NotFoundError, PipelineError, StorageUnavailableError

TRIES = 5
CONNECT_TIMEOUT_S: Final = 10
READ_TIMEOUT_S: Final = 60
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 20.0

BROKEN_BODY: Final = (
    aiohttp.ClientPayloadError,
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
)
_FAILURES: Final = (
    OSError,
    aiohttp.ClientError,
    botocore_errors.BotoCoreError,
    botocore_errors.ClientError,
    ResponseParserError,
)
_OUTSIDE: Final = (
    *BROKEN_BODY,
    OSError,
    aiohttp.ClientError,
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    ResponseParserError,
)
_BUSY: Final = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "OperationAborted"}
)
_REFUSED: Final = frozenset({"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken"})
_ELSEWHERE: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "TemporaryRedirect",
        "IllegalLocationConstraintException",
    }
)
_CREDENTIALS: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, or AWS_PROFILE) of somebody who "
    "may list, read and write there, on every machine that works on the corpus"
)


class Client(Protocol):
    """What is used of s3fs; safe for threads, not across a fork."""

    retries: int

    def connect(self) -> object:
        """Read the environment and open the session."""
        ...

    def call_s3(self, method: str, **arguments: object) -> dict[str, Any]:
        """One request of the S3 protocol."""
        ...

    def cat_file(
        self,
        path: str,
        *,
        start: int | None = None,
        end: int | None = None,
        max_concurrency: int | None = None,
    ) -> bytes:
        """An object, or a range of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer of the server that is no success."""

    code: str
    status: int
    num_retries: int


def connect() -> Client:
    """A connection as the environment describes it; nothing is sent yet.

    Raises:
        ConfigError: when the environment describes none.
    """
    region = os.environ.get("AWS_REGION")  # botocore itself reads only AWS_DEFAULT_REGION
    made = S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "total_max_attempts": TRIES},
            # objects have digests of their own, and not every server knows the newer checksum headers
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )
    client = cast(Client, made)
    client.retries = 1
    try:
        with named_failures("S3"):
            client.connect()
    except ValueError as error:
        raise ConfigError(
            "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is no address; write it as https://HOST:PORT"
        ) from error
    return client


def read_object(client: Client, name: str, start: int | None = None, end: int | None = None) -> bytes:
    """An object, or a range of it; failures are those of `named_failures`."""
    with named_failures(f"s3://{name}"):
        for attempt in range(TRIES - 1):
            with contextlib.suppress(*BROKEN_BODY):
                return client.cat_file(name, start=start, end=end, max_concurrency=1)
            pause(attempt)
        return client.cat_file(name, start=start, end=end, max_concurrency=1)


def pause(attempt: int) -> None:
    """Wait before another attempt; many processes that failed at once do not come back at once."""
    time.sleep(random.uniform(0, min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**attempt)))  # noqa: S311


@contextlib.contextmanager
def named_failures(where: str) -> Generator[None]:
    """Turn what s3fs raises inside into errors of this project.

    Raises:
        NotFoundError: when the object is not there.
        StorageUnavailableError: when the server cannot be reached, or was busy or broken at every try.
        ConfigError: for credentials, a bucket, a region or an endpoint that are not right.
        FatalError: for any other refusal.
    """
    try:
        yield
    except _FAILURES as error:
        raise _error_of(error, where) from error


def refusal_of(error: BaseException) -> Refusal | None:
    """The server's answer behind an error; None when there was no answer."""
    cause = error if isinstance(error, botocore_errors.ClientError) else error.__cause__
    if not isinstance(cause, botocore_errors.ClientError):
        return None
    response: dict[str, Any] = cast(Any, cause).response
    facts = response.get("ResponseMetadata", {})
    return Refusal(
        code=str(response.get("Error", {}).get("Code", "")),
        status=int(facts.get("HTTPStatusCode", 0)),
        num_retries=int(facts.get("RetryAttempts", 0)),
    )


def _error_of(error: BaseException, where: str) -> PipelineError:
    refusal = refusal_of(error)
    if refusal is not None:
        return _error_of_refusal(refusal, where)
    reason = type(error).__name__
    if isinstance(error, _OUTSIDE):
        return StorageUnavailableError(
            f"{where}: no whole answer in {TRIES} tries ({reason}); check the network, the server and "
            "AWS_ENDPOINT_URL_S3, then run the command again"
        )
    return ConfigError(
        f"{where}: the environment describes no way to S3 ({reason}); {_CREDENTIALS}; "
        "set AWS_ENDPOINT_URL_S3 for a server other than AWS"
    )


def _error_of_refusal(refusal: Refusal, where: str) -> PipelineError:
    code, status = refusal.code, refusal.status
    if code == "NoSuchBucket":
        return ConfigError(f"{where}: there is no such bucket; create it, or check AWS_ENDPOINT_URL_S3")
    if status == 404:
        return NotFoundError(f"{where} is not there")
    if status == 416:
        return NotFoundError(f"{where} ends before the range that was asked for")
    if code in _BUSY or status == 429 or (status >= 500 and status != 501):
        return StorageUnavailableError(
            f"{where}: the server was busy or broken in {refusal.num_retries + 1} tries ({code}, {status}); "
            "run the command again later"
        )
    if code in _ELSEWHERE or 300 <= status < 400:
        return ConfigError(f"{where}: the bucket is in another region ({code}); set AWS_REGION to it")
    if code in _REFUSED or status in {401, 403}:
        return ConfigError(f"{where}: S3 refuses access ({code}); {_CREDENTIALS}")
    return FatalError(
        f"{where}: S3 refuses the request ({code}, {status}); the server must know conditional writes "
        "(If-None-Match, If-Match) and multipart uploads"
    )
