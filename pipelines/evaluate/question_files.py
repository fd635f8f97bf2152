"""A benchmark's question files, wherever they lie on this machine, to questions."""

from collections import Counter
from collections.abc import Callable, Sequence
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
    """The questions of a benchmark, file by file.

    VQAv2 takes two files, POPE one of each part, MME its task files or their folder, others one.

    Raises:
        ConfigError: the files cannot be read, are not in the benchmark's layout, or ask nothing.
    """
    questions = _read_all(benchmark, paths)
    if not questions:
        raise ConfigError(f"no question in {', '.join(map(str, paths))}")
    return questions


def _read_all(benchmark: Benchmark, paths: Sequence[Path]) -> list[Question]:
    match benchmark:
        case Benchmark.VQAV2:
            questions, annotations = _read(paths, 2, benchmark)
            return read_vqa(questions, annotations)
        case Benchmark.POPE:
            return _read_parts(read_pope, paths, benchmark)
        case Benchmark.MME:
            return _read_parts(read_mme, [file for path in paths for file in _list_tasks(path)], benchmark)
        case _:
            readers = {
                Benchmark.GQA: read_gqa,
                Benchmark.TEXTVQA: read_text_vqa,
                Benchmark.SCIENCEQA: read_science_qa,
                Benchmark.MMBENCH: read_mmbench,
            }
            return readers[benchmark](_read(paths, 1, benchmark)[0])


def _read_parts(
    read_part: Callable[[str, bytes], list[Question]], files: Sequence[Path], benchmark: Benchmark
) -> list[Question]:
    """Of files that are each named by a part of the benchmark."""
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise ConfigError(f"{benchmark}: two files are named {twice[0]}; name each part once")
    return [one for file in files for one in read_part(file.stem, _read([file], 1, benchmark)[0])]


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
