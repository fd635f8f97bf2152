"""`onetoken analyze latency`: the first token of an answer from the cache, live, and with all patches."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.console import Reporter, print_result
from jobs.options import JsonOption, ReducerOption, read_configuration, read_reducer
from jobs.totals import in_table
from schemas.errors import ConfigError
from schemas.training import RunConfig, TrainConfig

if TYPE_CHECKING:
    import torch

    from pipelines.analyze.latency import LatencyRow, RatioRow, Way
    from pipelines.analyze.latency_subject import Subject

HELP = "Time until the first token here: from cached features, with the encoder, and with all patches."

SubjectArgument = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="A checkpoint folder, a training configuration in YAML (its shapes, random weights), or a "
        "shape: eighth (Vicuna-7B and CLIP-L, widths divided by 8), vicuna-7b, vicuna-13b, llama-3.1-8b.",
    ),
]
TextOption = Annotated[int, typer.Option("--text", metavar="N", min=1, help="Text tokens of the prompt.")]
RoundsOption = Annotated[
    int, typer.Option("--rounds", metavar="N", min=1, help="Times that all three take turns.")
]
HdOption = Annotated[bool, typer.Option("--hd", help="Of a shape: five views of the picture, not one.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where; auto: CUDA where it is.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Write both tables there as parquet, too.", show_default=False),
]


def latency_command(
    what: SubjectArgument = "eighth",
    text: TextOption = 43,
    rounds: RoundsOption = 5,
    hd: HdOption = False,
    device: DeviceOption = "auto",
    reducer: ReducerOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.analyze.latency import compare_ways, count_prompt_tokens, measure_latency
    from pipelines.analyze.stopwatch import choose_stopwatch
    from pipelines.train.precision import choose_device

    chosen = choose_device(RunConfig(device=device))
    with Reporter() as reporter:
        reporter.say(f"building {what}")
        subject = find_subject(what, text, chosen, reducer, hd=hd)
        tokens = count_prompt_tokens(subject)
        rows = measure_latency(subject, choose_stopwatch(chosen), rounds, reporter)
    ratios = list(compare_ways(rows))
    facts = subject.list_facts()
    files = write_tables(out, rows, ratios) if out is not None else []
    values: dict[str, object] = {
        "shapes": facts,
        "prompt_tokens": tokens,
        "rounds": list_rounds(rows),
        "ratios": [asdict(row) for row in ratios],
        "files": [str(path) for path in files],
    }
    lines = [*_describe(facts), *_in_words(rows, ratios, tokens)]
    if files:
        lines.append("written: " + ", ".join(map(str, files)))
    print_result(lines, as_json, values)


def find_subject(
    what: str, text_tokens: int, device: "torch.device", reducer: str | None, *, hd: bool
) -> "Subject":
    """What is measured.

    Raises:
        ConfigError: there is nothing of this name, or an option does not go with it.
    """
    from operators.views import VIEWS_PER_PICTURE
    from pipelines.analyze.latency_subject import draw_configured, draw_subject, find_pair, open_subject
    from pipelines.train.checkpoint import open_checkpoint
    from pipelines.train.untrained import with_reducer

    path = Path(what)
    is_shape = not path.exists()
    if hd and not is_shape:
        raise ConfigError("--hd goes with a shape; a configuration says `data: {views: all}`")
    if path.is_dir():
        opened = with_reducer(open_checkpoint(path), read_reducer(reducer))
        return open_subject(opened, text_tokens, device)
    if reducer is not None:
        raise ConfigError("--reducer goes with a checkpoint; a configuration says `model: {reducer: ...}`")
    if is_shape:
        views = VIEWS_PER_PICTURE["hd4" if hd else "global"]
        return draw_subject(find_pair(what), text_tokens, views, device)
    return draw_configured(read_configuration(path, TrainConfig), text_tokens, device)


def write_tables(folder: Path, rows: "Sequence[LatencyRow]", ratios: "Sequence[RatioRow]") -> list[Path]:
    """Every round, and the ratios; the paths of both."""
    from pipelines.analyze.parquet_rows import write_rows

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "latency.parquet", folder / "latency_ratios.parquet"]
    write_rows(paths[0], list_rounds(rows))
    write_rows(paths[1], [asdict(row) for row in ratios])
    return paths


def list_rounds(rows: "Sequence[LatencyRow]") -> list[dict[str, Any]]:
    """Every round as plain values, with the sum of its parts."""
    return [asdict(row) | {"total_s": row.total_s} for row in rows]


def _describe(facts: dict[str, int | str]) -> list[str]:
    return [
        f"language model of {facts['llm_layers']} layers x {facts['llm_width']}, vocabulary "
        f"{facts['vocabulary']:,}; encoder of {facts['encoder_layers']} layers x {facts['encoder_width']}; "
        f"{facts['views']} views of {facts['patches']} patches, {facts['text_tokens']} text tokens",
        f"reducer {facts['reducer']}, {facts['prefusion_layers']} layers of pre-fusion; cached as "
        f"{facts['codec']}; {facts['dtype']} on {facts['device']}; one picture, one question",
    ]


def _in_words(
    rows: "Sequence[LatencyRow]", ratios: "Sequence[RatioRow]", tokens: "Mapping[Way, int]"
) -> list[str]:
    from pipelines.analyze.latency import take_medians

    cells = [
        (way, f"{tokens[way]:,}", *(f"{1000 * value:,.1f}" for value in values))
        for way, values in take_medians(rows)
    ]
    titles = ("median ms", "prompt", "see", "fuse", "prefill", "first token", "in all")
    said = [
        f"{row.slower} takes {row.median:.2f} times {row.faster} ({row.least:.2f} to {row.most:.2f})"
        for row in ratios
    ]
    num_rounds = len(rows) // len(cells)
    return [*in_table(titles, cells), f"medians of {num_rounds} rounds in turns:", *said]
