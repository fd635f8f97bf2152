"""`onetoken analyze`: the papers' tables on efficiency, for their models and for yours."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.console import print_result
from jobs.options import JsonOption
from jobs.totals import in_table

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
    "memory": "Key-value bytes of a picture, and frames that fit into 24 GB.",
    "roofline": "PruMerge's table: FLOPs, time and traffic of a prefill on a V100.",
}


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    group = typer.Typer(no_args_is_help=True, help="The papers' tables, on their models and on yours.")
    group.command("flops", help=HELP["flops"])(flops_command)
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
    from pipelines.analyze.efficiency import tabulate_roofline

    print_figures(tabulate_roofline(), as_json)


def print_figures(figures: "Sequence[Figure]", as_json: bool) -> None:
    """A line a figure, notes below; or all of them as JSON."""
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
    print_result([*table, *notes], as_json, {"figures": values})


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
