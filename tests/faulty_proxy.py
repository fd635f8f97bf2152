"""A proxy on loopback that stands between a program and its S3 server, and misbehaves as told.

Requests go on as they came (the signature covers the proxy's own name), so the server behind is the real one.
"""

import http.client
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from schemas.digest import sha256_hex

SERVER_LIMIT_S: Final = 60.0
SLOW_PAUSE_S: Final = 0.05
NUM_SLOW_PIECES: Final = 4
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "expect"})


class Fault(StrEnum):
    """What happens to a request."""

    BROKEN = "500, and nothing was done"
    BUSY = "503, and nothing was done"
    BROKEN_AFTER = "500, though the work was done"
    LOST = "the work is done, and the connection is reset without a reply"
    CUT = "the connection is reset in the middle of the reply's body"
    SLOW = "the reply comes late and in pieces"


@dataclass(frozen=True, slots=True)
class Request:
    """What a plan decides on: the same request again is another attempt."""

    method: str
    target: str
    attempt: int


Plan = Callable[[Request], Fault | None]


def misbehave(*faults: Fault, num_times: int = 1) -> Plan:
    """Each request meets these faults, one an attempt, so many times; then all is well."""
    return lambda request: (
        faults[request.attempt % len(faults)] if request.attempt < num_times * len(faults) else None
    )


def misbehave_at_random(seed: int, share: float, max_attempts: int) -> Plan:
    """A share of the attempts meets some fault, the same whenever the same is asked; the last is well."""

    def choose(request: Request) -> Fault | None:
        name = f"{seed} {request.method} {request.target} {request.attempt}"
        number = int(sha256_hex(name.encode())[:12], 16)
        is_spared = request.attempt + 1 >= max_attempts or number / 16**12 >= share
        return None if is_spared else list(Fault)[number % len(Fault)]

    return choose


@dataclass(slots=True)
class Proxy:
    """Where it is, what it does, and what it did."""

    server_place: str
    plan: Plan
    url: str = ""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: Counter[Fault] = field(default_factory=Counter)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, method: str, target: str) -> Fault | None:
        """What happens to this request."""
        with self.lock:
            fault = self.plan(Request(method, target, self.asked[method, target]))
            self.asked[method, target] += 1
            if fault:
                self.done[fault] += 1
        return fault


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, or the proxy in its place."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def refuse(status: int, code: str) -> Answer:
    """What S3 says when it cannot."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return Answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)


@contextmanager
def stand_before(server_url: str, plan: Plan) -> Iterator[Proxy]:
    """A proxy before the server at this URL, for as long as the block runs."""
    proxy = Proxy(server_url.removeprefix("http://"), plan)

    def make_handler(*arguments: Any) -> _Handler:
        return _Handler(proxy, *arguments)

    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: Proxy, *arguments: Any) -> None:
        self.proxy = proxy
        super().__init__(*arguments)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.choose(self.command, self.path)
        if fault is Fault.SLOW:
            self.proxy.stopping.wait(SLOW_PAUSE_S)
        answer = None if fault in (Fault.BROKEN, Fault.BUSY) else self.ask(body)
        if fault is Fault.LOST:
            self.reset()
        elif answer is None or fault is Fault.BROKEN_AFTER:
            self.reply(refuse(503, "SlowDown") if fault is Fault.BUSY else refuse(500, "InternalError"), None)
        else:
            self.reply(answer, fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def ask(self, body: bytes) -> Answer:
        """The server's answer to the same request."""
        connection = http.client.HTTPConnection(self.proxy.server_place, timeout=SERVER_LIMIT_S)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            connection.request(self.command, self.path, body, kept)
            reply = connection.getresponse()
            headers = [pair for pair in reply.getheaders() if pair[0].lower() not in _HOP_BY_HOP]
            found = reply.read()
        finally:
            connection.close()
        if reply.getheader("Content-Length") is None and reply.status != http.HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(found))))
        return Answer(reply.status, headers, found)

    def reply(self, answer: Answer, fault: Fault | None) -> None:
        """Pass an answer on."""
        with suppress(ConnectionError):
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault is Fault.CUT:
                self.wfile.write(answer.body[: len(answer.body) // 2])
                self.reset()
            elif fault is Fault.SLOW:
                for piece in batched_bytes(answer.body, NUM_SLOW_PIECES):
                    self.proxy.stopping.wait(SLOW_PAUSE_S)
                    self.wfile.write(piece)
            else:
                self.wfile.write(answer.body)

    def reset(self) -> None:
        """Close so that the other side is told of an error and not of an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def batched_bytes(data: bytes, num_pieces: int) -> list[bytes]:
    """The same bytes in so many pieces, or fewer."""
    size = max(1, -(-len(data) // num_pieces))
    return [data[start : start + size] for start in range(0, len(data), size)]
