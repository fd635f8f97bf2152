"""A sweep on disk: the table, written anew after every run, and what each run came to, in its folder.

    OUT/table.json  table.parquet     all runs as they stand
    OUT/DIGEST/                       checkpoints and metrics of a run, and its `log.txt`
    OUT/DIGEST/error.txt              where it failed, of errors that nobody foresaw
    OUT/DIGEST/outcome.json           written last: with it, the run is finished

A file is replaced as a whole, so a kill leaves the one before.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]
from pydantic import BaseModel, ValidationError

from schemas.errors import ConflictError, CorruptError, MismatchError, NotFoundError
from schemas.sweep import TABLE_NAME, Outcome, SweepTable

Model = TypeVar("Model", bound=BaseModel)

PARQUET_NAME: Final = "table.parquet"
OUTCOME_NAME: Final = "outcome.json"
_LOCK_NAME: Final = ".lock"
_pa: Any = pa
_parquet: Any = pq
_COLUMNS: Final[tuple[tuple[str, Any], ...]] = (
    ("variant", _pa.string()),
    ("state", _pa.string()),
    ("loss", _pa.float64()),
    ("accuracy", _pa.float64()),
    ("train_loss", _pa.float64()),
    ("vision_tokens", _pa.int64()),
    ("flops", _pa.float64()),
    ("predicted_bytes", _pa.int64()),
    ("measured_bytes", _pa.int64()),
    ("hours", _pa.float64()),
    ("steps", _pa.int64()),
    ("digest", _pa.string()),
    ("changes", _pa.string()),
    ("checkpoint", _pa.string()),
    ("sources", _pa.string()),
    ("error", _pa.string()),
    ("message", _pa.string()),
)
"""Of the parquet; `changes` and `sources` are JSON."""


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keep other sweeps of this machine out of a folder, which is made where it is not there.

    Raises:
        ConflictError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another sweep is at work in {folder}; wait for it, or choose another `out`"
            ) from error
        yield


def read_table(folder: Path) -> SweepTable:
    """The table of a sweep.

    Raises:
        NotFoundError: there is none.
        CorruptError: it is not as it was written.
    """
    path = folder / TABLE_NAME
    if not path.is_file():
        raise NotFoundError(f"no sweep at {folder}: there is no {TABLE_NAME}; name the `out` of one")
    return _read(path, SweepTable)


def check_same_corpus(folder: Path, table: SweepTable) -> None:
    """Refuse to put runs of two corpora, or of two states of one, into one table.

    Raises:
        MismatchError: the folder's table is of another manifest.
        CorruptError: it is not as it was written.
    """
    if not (folder / TABLE_NAME).is_file():
        return
    before = read_table(folder)
    if before.manifest_sha256 != table.manifest_sha256:
        raise MismatchError(
            f"{folder} holds runs over manifest {before.manifest_sha256[:16]} of {before.corpus}, and that "
            f"of {table.corpus} is {table.manifest_sha256[:16]}; choose another `out`"
        )


def write_table(folder: Path, table: SweepTable) -> None:
    """Write the table, for programs and as parquet."""
    _replace(folder / TABLE_NAME, table.model_dump_json(indent=1).encode())
    rows = list_rows(table)
    columns = {name: _pa.array([row[name] for row in rows], kind) for name, kind in _COLUMNS}
    partial = folder / f".{PARQUET_NAME}.partial"
    _parquet.write_table(_pa.table(columns), partial)
    partial.replace(folder / PARQUET_NAME)


def list_rows(table: SweepTable) -> list[dict[str, Any]]:
    """A plain row for each run, in the order of the table; what it does not have is None."""
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        outcome = row.outcome.model_dump(mode="json") if row.outcome else {}
        flat = {name: outcome.get(name) for name, _ in _COLUMNS}
        rows.append(
            flat
            | {
                "variant": row.name,
                "state": row.state,
                "digest": row.digest,
                "changes": json.dumps(row.changes),
                "sources": json.dumps(outcome["sources"]) if outcome else None,
                "error": row.error.kind if row.error else None,
                "message": row.error.message if row.error else None,
            }
        )
    return rows


def read_outcome(folder: Path) -> Outcome | None:
    """What a run came to; None: it is not finished.

    Raises:
        CorruptError: the file is not as it was written.
    """
    path = folder / OUTCOME_NAME
    return _read(path, Outcome) if path.is_file() else None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """With this a run is finished."""
    _replace(folder / OUTCOME_NAME, outcome.model_dump_json(indent=1).encode())


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CorruptError(f"{path} is not as it was written: {error}; remove it to make it anew") from error


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
