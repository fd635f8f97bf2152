"""`onetoken evaluate`: how good a checkpoint is, on held-out examples or on public benchmarks."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from infra.storage import open_storage
from jobs.console import Reporter, print_result
from jobs.options import JsonOption, ReducerOption, read_reducer
from jobs.totals import in_table
from jobs.training_data import find_trained_spec
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from operators.scoring import Question, Score
    from pipelines.evaluate.by_source import SourceResult
    from pipelines.train.checkpoint import Checkpoint

HELP = (
    "Loss and accuracy of a checkpoint: by source on held-out shards, or on a public benchmark's questions."
)

CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.", show_default=False)
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="URL",
        help="Another corpus, all of it; by default what training left out of its own (`data.exclude`).",
    ),
]
BenchmarkOption = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        metavar="NAME",
        help="vqav2, gqa, textvqa, pope, mme, scienceqa or mmbench; with --questions.",
    ),
]
QuestionsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        help="The benchmark's question file as published; repeat it for several (annotations, parts, tasks).",
    ),
]
PicturesOption = Annotated[
    Path | None, typer.Option("--pictures", metavar="DIR", help="Where the benchmark's pictures are.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="The first N questions.")
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", metavar="FILE", help="Write the answers down, one JSON object a line."),
]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", metavar="DIR", help="Where the encoder lies, if it has moved.")
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("evaluate", help=HELP)(evaluate_command)


def evaluate_command(
    checkpoint: CheckpointArgument,
    corpus: CorpusOption = None,
    benchmark: BenchmarkOption = None,
    questions: QuestionsOption = None,
    pictures: PicturesOption = None,
    limit: LimitOption = None,
    answers: AnswersOption = None,
    encoder: EncoderOption = None,
    reducer: ReducerOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.train.checkpoint import open_checkpoint
    from pipelines.train.untrained import with_reducer

    of_questions = {"--pictures": pictures, "--limit": limit, "--answers": answers, "--encoder": encoder}
    _check_options(benchmark, questions, corpus, [name for name, value in of_questions.items() if value])
    if answers is not None and not answers.parent.is_dir():
        raise ConfigError(f"--answers: there is no folder {answers.parent}; make it, or name another file")
    opened = with_reducer(open_checkpoint(checkpoint), read_reducer(reducer))
    with Reporter() as reporter:
        if benchmark is None:
            results = run_by_source(opened, corpus, reporter)
            print_result(source_lines(results), as_json, {"sources": source_values(results)})
            return
        asked = _read_benchmark(benchmark, questions or [], limit)
        score, texts = _run_benchmark(opened, benchmark, asked, pictures, encoder, reporter)
    if answers is not None:
        _write_answers(answers, asked, texts)
    print_result(_score_lines(benchmark, score), as_json, {"benchmark": benchmark} | asdict(score))


def run_by_source(
    checkpoint: "Checkpoint", corpus: str | None, reporter: Reporter
) -> "dict[str, SourceResult]":
    """Loss and accuracy by source, on what training left out, or on another corpus.

    Raises:
        ConfigError: nothing was left out.
        MismatchError: the corpus has other features than those of the checkpoint, naming every field.
    """
    from pipelines.commit import load_manifest, load_pinned_manifest
    from pipelines.evaluate.by_source import evaluate_sources, list_held_out

    identity, own = checkpoint.state.identity, checkpoint.config.corpus
    storage = open_storage(corpus or own)
    is_another = corpus is not None and corpus != own
    manifest = (
        load_manifest(storage) if is_another else load_pinned_manifest(storage, identity.manifest_sha256)
    )
    digest = find_trained_spec(storage, manifest, identity.spec)
    shards = list_held_out(checkpoint, manifest, is_another=is_another)
    reporter.say(f"{len(shards)} of {len(manifest.plan)} shards of {storage.url}")
    return evaluate_sources(storage, manifest, digest, checkpoint, shards, reporter)


def source_lines(results: "Mapping[str, SourceResult]") -> list[str]:
    """A line a source."""
    titles = ("source", "examples", "loss", "short answers", "right", "no prompt")
    rows = [
        (
            name,
            f"{one.num_examples:,}",
            "" if one.loss is None else f"{one.loss:.4f}",
            f"{one.num_asked:,}",
            "" if one.accuracy is None else f"{100 * one.accuracy:.1f} %",
            f"{one.num_unwritable:,}",
        )
        for name, one in results.items()
    ]
    return in_table(titles, rows)


def source_values(results: "Mapping[str, SourceResult]") -> dict[str, object]:
    """The same as plain values."""
    return {
        name: {
            "examples": one.num_examples,
            "labels": one.num_labels,
            "loss": one.loss,
            "asked": one.num_asked,
            "right": one.num_right,
            "accuracy": one.accuracy,
            "no_prompt": one.num_unwritable,
        }
        for name, one in results.items()
    }


def _check_options(
    benchmark: str | None, questions: list[Path] | None, corpus: str | None, of_questions: list[str]
) -> None:
    """Refuse what does not go together, and options that nothing would come of."""
    if (benchmark is None) != (not questions):
        raise ConfigError("--benchmark and --questions go together")
    if benchmark is not None and corpus is not None:
        raise ConfigError("give either --corpus or --benchmark")
    if benchmark is None and of_questions:
        raise ConfigError(
            f"{', '.join(of_questions)}: of no use to stored features; name a benchmark with --benchmark and "
            "--questions, or leave it out"
        )


def _read_benchmark(benchmark: str, paths: list[Path], limit: int | None) -> "list[Question]":
    from pipelines.evaluate.question_files import Benchmark, read_questions

    if benchmark not in {one.value for one in Benchmark}:
        known = ", ".join(Benchmark)
        raise ConfigError(f"no benchmark {benchmark!r}; name one of {known}")
    return read_questions(Benchmark(benchmark), paths)[:limit]


def _run_benchmark(
    checkpoint: "Checkpoint",
    benchmark: str,
    questions: "list[Question]",
    pictures: Path | None,
    encoder: str | None,
    reporter: Reporter,
) -> "tuple[Score, list[str]]":
    from operators.scoring.rules import RULES
    from pipelines.evaluate.answering import answer_questions

    texts = answer_questions(checkpoint, questions, pictures, encoder=encoder, progress=reporter)
    return RULES[benchmark](questions, texts), texts


def _write_answers(path: Path, questions: "list[Question]", texts: list[str]) -> None:
    rows = [
        {"question_id": question.question_id, "answer": text, "expected": question.answers}
        for question, text in zip(questions, texts, strict=True)
    ]
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def _score_lines(benchmark: str, score: "Score") -> list[str]:
    lines = [f"  {name}: {value:.1f}" for name, value in score.parts.items()]
    unread = f", {score.num_unread} answers that say nothing" if score.num_unread else ""
    return [f"{benchmark}: {score.overall:.1f} on {score.num_questions} questions{unread}", *lines]
