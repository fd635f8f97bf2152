"""`onetoken report`: one page about a corpus, and its data card."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from infra.storage import Storage, open_storage
from jobs.console import Reporter, print_result
from jobs.options import CorpusOption, JsonOption
from jobs.totals import in_mebibytes
from schemas.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from pipelines.report.page import CorpusReport

PAGE: Final = "report.html"
HELP: Final = "Write one page about a corpus: counts, rejects, sizes, fidelity, items with their views."

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help=f"The page; by default {PAGE} in the corpus.", show_default=False
    ),
]
CardOption = Annotated[
    Path | None,
    typer.Option("--card", metavar="FILE", help="Write a data card for the Hub, too.", show_default=False),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="NAME|DIR",
        help="Count tokens by the tokenizer of this language model.",
        show_default=False,
    ),
]
SweepOption = Annotated[
    list[Path] | None,
    typer.Option("--sweep", metavar="DIR", help="Show the table of a sweep; repeat it for several."),
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("report", help=HELP)(report_command)


def report_command(
    corpus: CorpusOption,
    out: OutOption = None,
    card: CardOption = None,
    tokenizer: TokenizerOption = None,
    sweep: SweepOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from pipelines.commit import load_manifest
    from pipelines.report.page import gather_report, render_page
    from pipelines.sweep.store import read_table

    storage = open_storage(corpus)
    sweeps = [read_table(folder) for folder in sweep or ()]
    if card is not None:
        check_card_is_ours(card)
    with Reporter() as reporter:
        report = gather_report(storage, load_manifest(storage), tokenizer, reporter, sweeps)
    page = render_page(report)
    written = {"page": put_page(storage, out, page)}
    if card is not None:
        from pipelines.report.card import render_card

        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_bytes(render_card(report))
        written["card"] = str(card)
    totals = report.totals
    lines = [
        f"report: {written['page']}, {in_mebibytes(len(page))}, {len(report.items)} items",
        f"read {totals.read:,} = written {totals.written:,} + rejected {totals.rejected:,}"
        + (f" + not taken {totals.not_taken:,}" if totals.not_taken else ""),
    ]
    lines += [f"card: {written['card']}"] if card is not None else []
    print_result(lines, as_json, {**written, "page_bytes": len(page), **_count(report)})


def put_page(storage: Storage, out: Path | None, page: bytes) -> str:
    """Write the page to a file, or into the corpus; where it is."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(page)
        return str(out)
    try:
        before = storage.read_bytes(PAGE)
    except NotFoundError:
        before = None
    storage.replace(PAGE, page, expected=before)
    return f"{storage.url}/{PAGE}"


def check_card_is_ours(card: Path) -> None:
    """Refuse to write over a card that somebody wrote or took over.

    Raises:
        ConfigError: for such a one.
    """
    from pipelines.report.card import MARK

    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{card} was not written by this command, or was taken over; name another file")


def _count(report: "CorpusReport") -> dict[str, object]:
    totals = report.totals
    return {
        "read": totals.read,
        "written": totals.written,
        "rejected": totals.rejected,
        "not_taken": totals.not_taken,
        "rejects": [
            {"source": group.source, "code": group.code, "count": group.count} for group in report.rejects
        ],
        "items": len(report.items),
        "sweeps": len(report.sweeps),
    }
