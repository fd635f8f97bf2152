"""The owner of a decoding process: gives it one medium after the other, and outlives what that does to it.

A decoder that hangs is killed at the deadline (30 s, and half of what a clip lasts); one that crashes or asks
for more memory than it may is replaced. Each costs its file alone: a crash counts against a file only in a
process that has decoded nothing before, so that no file pays for what another did to the heap.

A plain child started by `subprocess` and not by `multiprocessing`: it works inside Ray workers and inside
daemonic processes, inherits no open reader and no lock, and loads neither torch nor the cluster. Starting one
costs about half a second, once in 500 files; handing a picture over and five views back costs half a
millisecond. Memory limits need Linux; elsewhere only deadlines and crashes are covered.

One decoder serves one thread. It may be handed to a forked process: that gets a child of its own.
"""

import time
import weakref
from types import TracebackType
from typing import Final

from operators.render import RenderedMedium, RenderedViews, RenderPolicy, collect_views
from operators.video import VideoFacts
from pipelines.decode.process import DYING_S, DecodeProcess
from pipelines.decode.wire import (
    Answer,
    DecodeLimits,
    Facts,
    OutOfMemory,
    ReadFacts,
    Rejected,
    Render,
    Rendered,
    Request,
    Setup,
)
from schemas.errors import RejectCode, SampleError, WorkError
from schemas.record import MediumKind

DEFAULT_LIMITS: Final = DecodeLimits()
CHILD_MODULE: Final = "pipelines.decode.child"


class IsolatedDecoder:
    """Decodes media in a process of its own, which is started when the first medium comes."""

    def __init__(
        self,
        policy: RenderPolicy | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
        module: str = CHILD_MODULE,
    ) -> None:
        """`policy` is what `render` follows; facts need none. Tests give another module that misbehaves."""
        self._setup = Setup(limits, policy)
        self._module = module
        self._holder = _Holder()
        self._is_aborted = False
        self._finalizer = weakref.finalize(self, self._holder.stop)

    def render(self, data: bytes, kind: MediumKind) -> RenderedMedium:
        """Decode one medium and cut its views.

        Raises:
            SampleError: when it does not decode; DECODER_TIMEOUT, DECODER_CRASH, DECODER_OUT_OF_MEMORY for
                what it did to the process.
        """
        answer, groups = self._ask(Render(kind), data)
        if not isinstance(answer, Rendered):
            raise WorkError(f"a decoding process answered a request for views with {answer}")
        return collect_views(groups, answer.report)

    def read_video_facts(self, data: bytes) -> VideoFacts:
        """Format, size and duration of a clip; see `operators.video.read_video_facts`.

        Raises:
            SampleError: as `render`.
        """
        answer, _ = self._ask(ReadFacts(), data)
        if not isinstance(answer, Facts):
            raise WorkError(f"a decoding process answered a request for facts with {answer}")
        return answer.facts

    def close(self) -> None:
        """End the process; the next medium would start another."""
        self._holder.stop()

    def abort(self) -> None:
        """Kill the process from another thread; the medium at work, and every other, is a `WorkError`."""
        self._is_aborted = True
        self._holder.kill()

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Request, data: bytes) -> tuple[Answer, list[RenderedViews]]:
        while True:
            child = self._holder.provide(self._setup, self._module)
            if self._is_aborted:
                raise WorkError("the decoder was stopped in the middle of its work")
            is_fresh = child.num_files == 0
            started_s = time.monotonic()
            try:
                answer, groups = child.ask(request, data, started_s, self._setup.limits.deadline_s)
            except TimeoutError as error:
                self._holder.stop()
                message = f"the decoder was still at work after {time.monotonic() - started_s:.0f} s"
                raise SampleError(RejectCode.DECODER_TIMEOUT, message) from error
            except (EOFError, ConnectionError) as error:
                message = self._holder.stop(DYING_S)
                if is_fresh and not self._is_aborted:
                    raise SampleError(RejectCode.DECODER_CRASH, f"the decoder {message}") from error
                continue
            if isinstance(answer, Rejected):
                raise SampleError(answer.code, answer.message)
            if not isinstance(answer, OutOfMemory):
                return answer, groups
            self._holder.stop()
            if is_fresh:
                message = f"{answer.message}; it may have {self._setup.limits.memory_bytes >> 20} MiB"
                raise SampleError(RejectCode.DECODER_OUT_OF_MEMORY, message)


class _Holder:
    """Holds the process in force, apart from the decoder, so that it can be ended when that is collected."""

    def __init__(self) -> None:
        self._child: DecodeProcess | None = None

    def provide(self, setup: Setup, module: str) -> DecodeProcess:
        child = self._child
        if child and (child.is_foreign or child.num_files >= setup.limits.files_per_process):
            self.stop()
        if self._child is None:
            self._child = DecodeProcess(setup, module)
        return self._child

    def kill(self) -> None:
        child = self._child
        if child:
            child.kill()

    def stop(self, grace_s: float = 0.0) -> str:
        child, self._child = self._child, None
        return child.stop(grace_s) if child else "was not running"
