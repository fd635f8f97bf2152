"""The demo from rendering to answers: writes what a user would write, then runs what a user would run.

Under DIR: `data/` (the rendered sets), `encoder/` and `llm/` (small, seeded, random), `recipe.yaml`,
`stage1.yaml`, `stage2.yaml`, `corpus/` with its page `report.html`, `runs/`. Data and models are rendered
once; a second run goes on where the first one stopped, as every command does. At the end the outcome is held
against what the demo promises, so that a demo that learned nothing fails.
"""

from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import yaml

from infra.storage import open_storage
from jobs.console import Reporter
from jobs.data import STAGES, run_stages
from jobs.demo.corpus import DemoCorpus, render_demo_corpus
from jobs.demo.heldout_answers import ask_heldout
from jobs.demo.models import write_models
from jobs.demo.promises import check_promises
from jobs.demo.settings import demo_recipe, stage1_config, stage2_config
from jobs.options import EngineName, open_engine, read_configuration
from jobs.reporting import PAGE, put_page
from jobs.training import TrainingResult, run_training
from pipelines.commit import load_manifest
from schemas.digest import SHORT
from schemas.errors import RejectCode
from schemas.recipe import Recipe
from schemas.training import TrainConfig

SEED = 0


def run_demo(out: Path, engine_name: EngineName) -> tuple[list[str], dict[str, object]]:
    """Run all of it below `out`; return the totals in words and as plain values.

    Raises:
        WorkError: when the outcome is not what the demo promises.
    """
    with Reporter() as reporter:
        reporter.say(f"rendering the demo's data, encoder and language model below {out}")
        planted = write_inputs(out)
        recipe = read_configuration(out / "recipe.yaml", Recipe)
        with open_engine(engine_name) as engine:
            lines, values, _ = run_stages(STAGES, recipe, open_storage(out / "corpus"), engine, reporter)
        write_page(out, reporter)
        trained: list[TrainingResult] = []
        for stage in (1, 2):
            config = read_configuration(out / f"stage{stage}.yaml", TrainConfig)
            result = run_training(config, reporter, resume=True)
            trained.append(result)
            lines += result.lines(stage)
            values[f"stage{stage}"] = result.values()
        answers = ask_heldout(out / "runs/stage2", out / "data/heldout", reporter)
        lines += answers.lines()
        values["heldout"] = answers.values()
    sources = load_manifest(open_storage(out / "corpus")).sources
    check_promises(planted, sources, trained, answers)
    return [*lines, *_suggest_next(out)], values


def _suggest_next(out: Path) -> list[str]:
    picture = min((out / "data/heldout/images").iterdir())
    question = "What color is the background? Answer the question using a single word or phrase."
    return [
        "next:",
        f"  look at {out / 'corpus' / PAGE} in a browser",
        f"  onetoken inspect {out / 'corpus'}",
        f'  onetoken generate {out / "runs/stage2"} --image {picture} "{question}"',
    ]


def write_page(out: Path, reporter: Reporter) -> None:
    """The corpus on one page, as `onetoken report` writes it; a page about this very manifest stays."""
    from pipelines.report.page import gather_report, render_page

    storage, page = open_storage(out / "corpus"), out / "corpus" / PAGE
    manifest = load_manifest(storage)
    if page.exists() and manifest.digest[:SHORT] in page.read_text(encoding="utf-8"):
        return
    reporter.say(f"writing a page about the corpus, {page}")
    put_page(storage, None, render_page(gather_report(storage, manifest, str(out / "llm"), reporter)))


def write_inputs(out: Path) -> dict[str, dict[str, int]]:
    """Render data and models, and write recipe and configurations; what is there already stays.

    Returns:
        How many records have to be rejected, by source and code.
    """
    planted = out / "data/planted.json"
    if not planted.exists():
        corpus = render_demo_corpus(out / "data", SEED)
        write_models(out / "encoder", out / "llm", corpus, SEED)
        planted.write_bytes(msgspec.json.encode(count_planted_rejects(corpus)))
    for name, content in (
        ("recipe", demo_recipe(out)),
        ("stage1", stage1_config(out)),
        ("stage2", stage2_config(out)),
    ):
        path = out / f"{name}.yaml"
        if not path.exists():
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return msgspec.json.decode(planted.read_bytes(), type=dict[str, dict[str, int]])


def count_planted_rejects(corpus: DemoCorpus) -> dict[str, dict[str, int]]:
    """How many records ingest has to reject, by source and code."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for fault in corpus.faults:
        if isinstance(fault.outcome, RejectCode):
            counts[fault.source][fault.outcome.value] += 1
    return {source: dict(codes) for source, codes in counts.items()}
