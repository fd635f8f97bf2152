"""An HTTP server that answers what a test tells it to: for replies that no sound S3 server gives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; `num_promised` bytes are announced where the body is to break off before."""

    status: int
    body: bytes = b""
    num_promised: int | None = None
    delay_s: float = 0.0


def refusal(status: int, code: str, facts: str = "") -> Reply:
    """An answer as S3 writes it, with more facts as XML."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{facts}</Error>"
    return Reply(status, body.encode())


@dataclass(slots=True)
class Script:
    """The replies to come, the last one for ever, and what was asked."""

    replies: list[Reply]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def take(self, method: str) -> Reply:
        """The reply to one request."""
        self.asked.append(method)
        return self.replies[min(len(self.asked), len(self.replies)) - 1]


@contextmanager
def serve(*replies: Reply) -> Iterator[Script]:
    """Answer with these, in order."""
    script = Script(list(replies))
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # answers `Expect: 100-continue`

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = script.take(self.command)
            stopping.wait(reply.delay_s)
            self.send_response(reply.status)
            promised = len(reply.body) if reply.num_promised is None else reply.num_promised
            self.send_header("Content-Length", str(promised))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                with suppress(ConnectionError):
                    self.wfile.write(reply.body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
