"""`onetoken plan`: what a build or a training run will take, before anything is read, written or rented."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from jobs.console import Reporter, print_result
from jobs.options import JsonOption, read_configuration
from schemas.cluster import ClusterSpec
from schemas.errors import ConfigError
from schemas.recipe import Recipe
from schemas.training import TrainConfig

HELP = (
    "What a recipe will take: items, views, bytes by codec, hours, requests, and whether caching pays. Of a "
    "training configuration: the memory that its run needs."
)

PASSES = 3
"""One in each stage, and one again."""

FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A recipe or training configuration in YAML.", show_default=False),
]
ClusterOption = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="The machines, in YAML; by default one A100.")
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus", metavar="URL", help="Count an ingested corpus instead of the recipe's `counts`."
    ),
]
EventsOption = Annotated[
    Path | None,
    typer.Option(
        "--events", metavar="FILE", help="What a build's `--events` wrote: its hours, beside the plan's."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Of a training run, that divide the model among them; the plan is of each. By default 1.",
    ),
]
SimulateOption = Annotated[
    bool,
    typer.Option(
        "--simulate", help="Run the build on simulated machines that fail: its time, tail and memory."
    ),
]
ItemsOption = Annotated[
    int | None,
    typer.Option("--items", min=1, metavar="N", help="Of a simulated build; by default the recipe's."),
]
PassesOption = Annotated[
    int | None,
    typer.Option(
        "--passes", min=1, metavar="N", help="Over the data, that features will serve; by default 3."
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        metavar="N",
        min=2,
        help="Text tokens of a training example; by default the configuration's `data.max_tokens`.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("plan", help=HELP)(plan_command)


def plan_command(
    file: FileArgument,
    cluster: ClusterOption = None,
    corpus: CorpusOption = None,
    events: EventsOption = None,
    passes: PassesOption = None,
    tokens: TokensOption = None,
    workers: WorkersOption = None,
    simulate: SimulateOption = False,
    items: ItemsOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    from jobs.planning_recipe import plan_recipe
    from jobs.planning_training import plan_training
    from jobs.simulating import simulate_recipe

    options = {
        "--corpus": corpus,
        "--events": events,
        "--passes": passes,
        "--tokens": tokens,
        "--workers": workers,
        "--items": items,
        "--simulate": simulate or None,
    }
    given = {name for name, value in options.items() if value is not None}
    if not is_recipe(file):
        _refuse_others(given, {"--tokens", "--workers"}, "a training configuration")
        config = read_configuration(file, TrainConfig)
        with Reporter() as reporter:
            reporter.say(f"taking one step of {config.model.llm} with tensors that hold nothing")
            spec = read_configuration(cluster, ClusterSpec) if cluster else None
            lines, values = plan_training(config, tokens, spec, workers or 1)
        print_result(lines, as_json, values)
        return
    recipe = read_configuration(file, Recipe)
    if simulate:
        _refuse_others(given, {"--simulate", "--items"}, "a simulated build")
    else:
        _refuse_others(given, {"--corpus", "--events", "--passes"}, "a recipe that is not simulated")
    if events is not None and corpus is None:
        raise ConfigError("--events goes with --corpus: a log is of the corpus that it made")
    with Reporter() as reporter:
        if simulate:
            lines, values = simulate_recipe(recipe, cluster, items, reporter)
        else:
            lines, values = plan_recipe(recipe, cluster, corpus, events, passes or PASSES, reporter)
    print_result(lines, as_json, values)


def _refuse_others(given: set[str], known: set[str], what: str) -> None:
    if others := sorted(given - known):
        raise ConfigError(f"{', '.join(others)} changes nothing about the plan of {what}; leave it out")


def is_recipe(file: Path) -> bool:
    """Whether a file names sources; one that cannot be read counts as a recipe, whose reader says why."""
    try:
        loaded: object = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError):
        return True
    return isinstance(loaded, dict) and "sources" in loaded
