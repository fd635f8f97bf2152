"""The demo from rendering to answers: writes what a user would write, then runs what a user would run.

Under DIR: `data/` (the rendered sets), `encoder/` and `llm/` (small, seeded, random), `recipe.yaml`,
`stage1.yaml`, `stage2.yaml`, `corpus/`, `runs/`. Data and models are rendered once; a second run goes on
where the first one stopped, as every command does.
"""

from pathlib import Path

import yaml

from infra.storage import open_storage
from jobs.console import Reporter
from jobs.data import STAGES, run_stages
from jobs.demo.corpus import render_demo_corpus
from jobs.demo.heldout_answers import ask_heldout
from jobs.demo.models import write_models
from jobs.demo.settings import demo_recipe, stage1_config, stage2_config
from jobs.options import EngineName, open_engine, read_configuration
from jobs.training import run_training
from schemas.recipe import Recipe
from schemas.training import TrainConfig

SEED = 0


def run_demo(out: Path, engine_name: EngineName) -> tuple[list[str], dict[str, object]]:
    """Run all of it below `out`; return the totals in words and as plain values."""
    with Reporter() as reporter:
        reporter.say(f"rendering the demo's data, encoder and language model below {out}")
        write_inputs(out)
        recipe = read_configuration(out / "recipe.yaml", Recipe)
        with open_engine(engine_name, None) as engine:
            lines, values, _ = run_stages(STAGES, recipe, open_storage(out / "corpus"), engine, reporter)
        for stage in (1, 2):
            config = read_configuration(out / f"stage{stage}.yaml", TrainConfig)
            result = run_training(config, reporter, resume=True)
            lines += result.lines(stage)
            values[f"stage{stage}"] = result.values()
        answers = ask_heldout(out / "runs/stage2", out / "data/heldout", reporter)
        lines += answers.lines()
        values["heldout"] = answers.values()
    return lines, values


def write_inputs(out: Path) -> None:
    """Render data and models, once, and write recipe and configurations."""
    done = out / "data" / ".rendered"
    if not done.exists():
        corpus = render_demo_corpus(out / "data", SEED)
        write_models(out / "encoder", out / "llm", corpus, SEED)
        done.touch()
    for name, content in (
        ("recipe", demo_recipe(out)),
        ("stage1", stage1_config(out)),
        ("stage2", stage2_config(out)),
    ):
        (out / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
