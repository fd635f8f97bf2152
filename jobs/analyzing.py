"""`onetoken analyze`: the papers' tables on efficiency, for their models and for yours."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.storage import open_storage
from jobs import comparing, latency
from jobs.console import Reporter, print_result
from jobs.options import JsonOption
from jobs.totals import in_table
from jobs.training_data import find_trained_spec

if TYPE_CHECKING:
    from pipelines.analyze.efficiency import Figure

LlmOption = Annotated[
    str,
    typer.Option(
        "--llm",
        metavar="NAME|DIR",
        help="vicuna-7b, vicuna-13b, llama-3.1-8b, or a folder with a config.json.",
    ),
]
TextOption = Annotated[int, typer.Option("--text", metavar="N", min=1, help="Text tokens of a prompt.")]

HELP = {
    "flops": "FLOPs of a prefill: LLaVA-1.5, LLaVA-Mini and its ablations, beside the published ones.",
    "attention": "Who looks at whom by layer, and the loss without vision in ranges of layers.",
    "memory": "Key-value bytes of a picture, and frames that fit into 24 GB.",
    "roofline": "PruMerge's table: FLOPs, time and traffic of a prefill on a V100.",
}


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    group = typer.Typer(no_args_is_help=True, help="The papers' tables, on their models and on yours.")
    group.command("flops", help=HELP["flops"])(flops_command)
    group.command("attention", help=HELP["attention"])(attention_command)
    group.command("live", help=comparing.HELP)(comparing.live_command)
    group.command("latency", help=latency.HELP)(latency.latency_command)
    group.command("memory", help=HELP["memory"])(memory_command)
    group.command("roofline", help=HELP["roofline"])(roofline_command)
    app.add_typer(group, name="analyze")


def flops_command(llm: LlmOption = "vicuna-7b", text: TextOption = 43, as_json: JsonOption = False) -> None:
    """See the help in the registration."""
    from pipelines.analyze.efficiency import tabulate_flops
    from pipelines.analyze.llm_shape import find_language_shape

    print_figures(tabulate_flops(find_language_shape(llm), text), as_json)


def memory_command(llm: LlmOption = "vicuna-7b", as_json: JsonOption = False) -> None:
    """See the help in the registration."""
    from pipelines.analyze.efficiency import tabulate_memory
    from pipelines.analyze.llm_shape import find_language_shape

    print_figures(tabulate_memory(find_language_shape(llm)), as_json)


def roofline_command(as_json: JsonOption = False) -> None:
    """See the help in the registration."""
    from operators.costs.published import ROOFLINE_SETUP
    from pipelines.analyze.efficiency import tabulate_roofline

    print_figures(tabulate_roofline(), as_json, ROOFLINE_SETUP)


def attention_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where tables and pictures go.")],
    examples: Annotated[int, typer.Option("--examples", metavar="N", min=1)] = 64,
    layers: Annotated[
        int, typer.Option("--layers", metavar="N", min=1, help="Layers that lose vision at once.")
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.analyze.attention_tables import analyze_attention, write_tables
    from pipelines.commit import load_pinned_manifest
    from pipelines.train.checkpoint import open_checkpoint

    opened = open_checkpoint(checkpoint)
    identity, storage = opened.state.identity, open_storage(opened.config.corpus)
    manifest = load_pinned_manifest(storage, identity.manifest_sha256)
    spec = find_trained_spec(storage, manifest, identity.spec)
    with Reporter() as reporter:
        by_layer, dropped = analyze_attention(storage, manifest, spec, opened, examples, layers, reporter)
    paths = write_tables(out, by_layer, dropped)
    cells = [
        (
            f"{row.layer} {row.looking}",
            *(f"{value:.3f}" for value in (row.instruction, row.vision, row.response)),
            f"{row.vision_entropy_bits:.2f}",
        )
        for row in by_layer
    ]
    titles = ("layer, looking", "at instruction", "at vision", "at response", "bits over vision")
    lines = in_table(titles, cells)
    lines += [f"loss without vision in layers {row.layers}: {row.loss:.4f}" for row in dropped]
    lines.append("written: " + ", ".join(map(str, paths)))
    values = {"layers": [asdict(row) for row in by_layer], "dropped": [asdict(row) for row in dropped]}
    print_result(lines, as_json, values | {"files": [str(path) for path in paths]})


def print_figures(figures: "Sequence[Figure]", as_json: bool, setup: Sequence[str] = ()) -> None:
    """A line a figure, notes and what holds for all of them below; or everything as JSON."""
    cells = [
        (
            figure.row,
            figure.quantity,
            _show(figure.derived),
            "" if figure.published is None else _show(figure.published),
            "" if figure.deviation is None else f"{100 * figure.deviation:+.1f} %",
        )
        for figure in figures
    ]
    notes = [f"  {figure.row}, {figure.quantity}: {figure.note}" for figure in figures if figure.note]
    table = in_table(("row", "quantity", "derived", "published", "deviation"), cells)
    values = [asdict(figure) | {"deviation": figure.deviation} for figure in figures]
    remarks = [f"  {remark}" for remark in setup]
    print_result([*table, *notes, *remarks], as_json, {"figures": values, "setup": list(setup)})


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
