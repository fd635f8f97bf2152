"""Storage on S3 behind a proxy that misbehaves: the same outcome, in a bounded number of requests."""

import io
import os
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest
from faulty_proxy import Fault, Plan, Proxy, Request, misbehave, misbehave_at_random, stand_before

from infra import s3, s3_client
from infra.files import open_files
from infra.s3 import S3Storage
from infra.s3_server import Endpoint
from schemas.errors import ConflictError, StorageUnavailableError

PART_BYTES = 5 << 20
NUM_CREATORS = 6

Disturb = Callable[[Plan], Proxy]


@pytest.fixture
def disturb(
    s3_endpoint: Endpoint, s3_url: str, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Disturb]:
    """Puts a proxy with this plan before the server."""
    opened = []

    def stand(plan: Plan) -> Proxy:
        block = stand_before(s3_endpoint.url, plan)
        proxy = block.__enter__()
        opened.append(block)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        return proxy

    yield stand
    for block in opened:
        block.__exit__(None, None, None)


@pytest.mark.parametrize("fault", list(Fault))
def test_every_request_may_fail_before_it_succeeds(
    disturb: Disturb, s3_url: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    proxy = disturb(misbehave(fault))
    use_everything(S3Storage(s3_url))
    files = open_files(s3_url)
    assert files.glob("shards/*") == ["shards/a", "shards/large"]
    with files.open("shards/a") as file:
        assert file.read() == b"0123"
    assert proxy.done[fault] >= 20
    assert set(proxy.done) == {fault}


def use_everything(storage: S3Storage) -> None:
    """Every operation once, with what it must come to."""
    large = os.urandom(1 << 16) * 100
    storage.put("shards/a", io.BytesIO(b"0123"))
    storage.put("shards/large", io.BytesIO(large))
    assert storage.read_bytes("shards/a") == b"0123"
    assert storage.read_bytes("shards/large") == large
    assert storage.read_range("shards/large", 70_000, 1000) == large[70_000:71_000]
    assert storage.create("commits/a", b"mine") is True
    assert storage.create("commits/a", b"mine") is False
    assert S3Storage(storage.url).create("commits/a", b"else") is False
    storage.replace("corpus.json", b"1", expected=None)
    storage.replace("corpus.json", b"2", expected=b"1")
    with pytest.raises(ConflictError):
        storage.replace("corpus.json", b"3", expected=b"1")
    assert storage.read_bytes("corpus.json") == b"2"
    storage.write_scratch("notes/a", [b"x", b"y"])
    assert storage.list("notes") == ["notes/a"]
    storage.remove("notes/a")
    assert storage.list("notes") == []
    assert storage.list("shards") == ["shards/a", "shards/large"]
    storage.sweep_unfinished(0.0)
    assert storage.sweep_unfinished(0.0) == []


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.BROKEN_AFTER])
def test_of_many_creators_whose_replies_are_lost_one_wins(
    disturb: Disturb, s3_url: str, fault: Fault
) -> None:
    disturb(misbehave(fault))
    won: list[int] = []
    barrier = threading.Barrier(NUM_CREATORS)

    def create(number: int) -> None:
        storage = S3Storage(s3_url)
        storage.exists("commits/a")
        barrier.wait()
        if storage.create("commits/a", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(NUM_CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert S3Storage(s3_url).read_bytes("commits/a") == str(won[0]).encode()


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SLOW])
def test_a_server_that_never_recovers_is_given_up(
    disturb: Disturb, s3_url: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3Storage(s3_url).write_scratch("a", [b"0123"])
    proxy = disturb(misbehave(fault, num_times=1000))
    storage = S3Storage(s3_url)
    for use in (lambda: storage.read_bytes("a"), lambda: storage.list(".a")):
        with pytest.raises(
            StorageUnavailableError, match=r"s3://corpora/.*a/?: (the server was busy|no whole)"
        ):
            use()
    assert s3_client.TRIES <= max(proxy.asked.values()) <= 2 * s3_client.TRIES


def test_no_error_tells_a_credential(
    disturb: Disturb, s3_url: str, s3_endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="infra")
    for fault in (Fault.BROKEN, Fault.BUSY, Fault.LOST, Fault.CUT):
        disturb(misbehave(fault, num_times=1000))
        with pytest.raises(StorageUnavailableError) as caught:
            S3Storage(s3_url).read_bytes("a")
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__) + caplog.text
        assert s3_endpoint.secret not in told
        assert s3_endpoint.key_id not in told


def test_a_plan_is_kept_to_and_ends() -> None:
    plan = misbehave_at_random(seed=1, share=0.5, max_attempts=3)
    chosen = [plan(Request("GET", f"/a{number}", attempt)) for number in range(200) for attempt in range(3)]
    assert chosen == [
        plan(Request("GET", f"/a{number}", attempt)) for number in range(200) for attempt in range(3)
    ]
    assert set(chosen[2::3]) == {None}
    faulty = [fault for fault in chosen if fault]
    assert set(faulty) == set(Fault)
    assert 150 < len(faulty) < 250
