"""Checkpoints written beside the training: a step waits for a copy of the tensors, not for the disk.

The copy takes as much of the host's memory as a checkpoint does of the disk. One checkpoint is written at
a time: the next one waits for it, and so does the end of the run. What goes wrong while writing is raised at
the next save or at the end, and the run stops.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from torch import Tensor

from pipelines.train.checkpoint import Snapshot, free_folder, remove_old_checkpoints, write_checkpoint
from pipelines.train.sharding import whole


class CheckpointWriter:
    """Writes the snapshots that it is given below one folder, in a thread."""

    def __init__(self, out: Path, keep_last: int | None) -> None:
        self._out, self._keep_last = out, keep_last
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Come back when nothing is being written any more; an error on its way tells of one in writing."""
        self._pool.shutdown(wait=True)
        failure = self._writing.exception() if self._writing and error else None
        if error and failure and failure is not error:
            error.add_note(f"and the last checkpoint was not written: {failure}")

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write; its tensors must not change any more.

        Raises:
            ConflictError: the step has a checkpoint already.
        """
        self.wait()
        free_folder(self._out, snapshot.step)
        self._writing = self._pool.submit(self._write, snapshot)

    def wait(self) -> Path | None:
        """The checkpoint that was written last, once it is whole; raises what writing it raised."""
        return None if self._writing is None else self._writing.result()

    def _write(self, snapshot: Snapshot) -> Path:
        folder = write_checkpoint(self._out, snapshot)
        remove_old_checkpoints(self._out, self._keep_last)
        return folder


def copy_tensors(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU, all processes taking part; those that do not `keep` them get none."""
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            copies[name] = full.to("cpu", copy=True)
    return copies
