"""A benchmark's question files, wherever they lie on this machine, to questions."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from operators.scoring import Question
from operators.scoring.layouts import (
    read_gqa,
    read_mmbench,
    read_mme,
    read_pope,
    read_science_qa,
    read_text_vqa,
    read_vqa,
)
from schemas.errors import ConfigError


class Benchmark(StrEnum):
    """The public benchmarks whose files and rules are known."""

    VQAV2 = "vqav2"
    GQA = "gqa"
    TEXTVQA = "textvqa"
    POPE = "pope"
    MME = "mme"
    SCIENCEQA = "scienceqa"
    MMBENCH = "mmbench"


def read_questions(benchmark: Benchmark, paths: Sequence[Path]) -> list[Question]:
    """The questions of a benchmark; VQAv2 takes two files, MME its task files or their folder, others one.

    Raises:
        ConfigError: the files cannot be read, or are not in the benchmark's layout.
    """
    match benchmark:
        case Benchmark.VQAV2:
            questions, annotations = _read(paths, 2, benchmark)
            return read_vqa(questions, annotations)
        case Benchmark.MME:
            files = [file for path in paths for file in _list_tasks(path)]
            return [one for file in files for one in read_mme(file.stem, _read([file], 1, benchmark)[0])]
        case _:
            readers = {
                Benchmark.GQA: read_gqa,
                Benchmark.TEXTVQA: read_text_vqa,
                Benchmark.POPE: read_pope,
                Benchmark.SCIENCEQA: read_science_qa,
                Benchmark.MMBENCH: read_mmbench,
            }
            return readers[benchmark](_read(paths, 1, benchmark)[0])


def _read(paths: Sequence[Path], count: int, benchmark: Benchmark) -> list[bytes]:
    if len(paths) != count:
        raise ConfigError(f"{benchmark} needs {count} question files, {len(paths)} are named")
    try:
        return [path.read_bytes() for path in paths]
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error


def _list_tasks(path: Path) -> list[Path]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"no task files (*.txt) in {path}")
    return files
