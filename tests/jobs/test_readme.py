"""What the README tells people to type, and the shipped files, are understood by the program."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main

from jobs.cli import build_app
from operators.costs.flops import PrefillSetup, add_up, count_prefill
from operators.costs.shapes import CLIP_L_336, VICUNA_7B
from schemas.configuration import parse_yaml
from schemas.recipe import Recipe
from schemas.training import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SHIPPED = sorted((REPOSITORY / "jobs/recipes").glob("*.yaml"))
GROUP = typer.main.get_group(build_app())
VERBS = {
    *("demo", "doctor", "plan", "ingest", "shard", "featurize", "build", "retry"),
    *("verify", "audit", "diff", "report", "gc", "lengths", "train", "sweep", "generate"),
    *("evaluate", "inspect", "import", "export", "analyze", "bench"),
}


def read_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def read_typed_lines() -> list[list[str]]:
    """The words of every line with a prompt."""
    lines = [line for block in read_blocks("console") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]


def read_typed_commands() -> list[list[str]]:
    return [words[1:] for words in read_typed_lines() if Path(words[0]).name == "onetoken"]


def read_listed_commands() -> list[list[str]]:
    """The commands of the table, one for each verb, without the brackets around what may be left out."""
    rows: list[str] = re.findall(r"^\| `onetoken ([^`]+)` \|", README, re.MULTILINE)
    words = [shlex.split(re.sub(r"[\[\]]", "", row.replace("\\|", "|"))) for row in rows]
    return [[verb, *rest] for verbs, *rest in words for verb in verbs.split("|")]


def understand(words: list[str]) -> None:
    """Parse a command line without running it; an unknown verb or flag is an error."""
    verb, *arguments = words
    GROUP.commands[verb].make_context(verb, arguments)


@pytest.mark.parametrize("words", read_typed_commands(), ids=" ".join)
def test_typed_commands_are_understood(words):
    understand(words)


@pytest.mark.parametrize("words", read_listed_commands(), ids=" ".join)
def test_listed_commands_are_understood(words):
    understand([{"E": "ray"}.get(word, word) for word in words])


def test_the_table_lists_every_verb():
    assert {words[0] for words in read_listed_commands()} == set(GROUP.commands) == VERBS


def test_typed_commands_are_found():
    verbs = {words[0] for words in read_typed_commands()}
    assert verbs >= {"inspect", "build", "train", "generate"}


def test_what_else_is_typed_is_a_make_target():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    others = [words for words in read_typed_lines() if Path(words[0]).name != "onetoken"]
    assert ["make", "demo"] in others
    assert ["make", "test"] in others
    assert all(words[0] == "make" and set(words[1:]) <= targets for words in others)


def test_files_of_the_project_that_are_typed_are_shipped():
    shipped = {path.relative_to(REPOSITORY).as_posix() for path in SHIPPED}
    typed = {word for words in read_typed_commands() for word in words if word.startswith("jobs/")}
    assert typed
    assert typed <= shipped


def test_the_recipe_is_the_one_that_is_shipped():
    (block,) = read_blocks("yaml")
    written = parse_yaml(block, Recipe, "README.md")
    shipped = parse_yaml((REPOSITORY / "jobs/recipes/llava_mini_665k.yaml").read_text(), Recipe, "shipped")
    assert written.name == shipped.name
    common = {source.name: source for source in shipped.sources}
    assert common.keys() <= {source.name for source in written.sources}
    assert all(source == common.get(source.name, source) for source in written.sources)
    assert (written.views, written.codec, written.shards) == (shipped.views, shipped.codec, shipped.shards)
    assert written.encoder.model == shipped.encoder.model


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_understood(path):
    model = TrainConfig if path.name.startswith("stage") else Recipe
    assert parse_yaml(path.read_text(encoding="utf-8"), model, path.name)


def test_shipped_stages_fit_the_shipped_recipe():
    recipe = parse_yaml((REPOSITORY / "jobs/recipes/llava_mini_665k.yaml").read_text(), Recipe, "recipe")
    names = {source.name for source in recipe.sources}
    stages = [path for path in SHIPPED if path.name.startswith("stage")]
    assert len(stages) >= 3
    for path in stages:
        config = parse_yaml(path.read_text(encoding="utf-8"), TrainConfig, path.name)
        assert set(config.data.sources or ()) <= names


def test_files_and_folders_that_are_named_exist():
    named = set(re.findall(r"`((?:schemas|operators|infra|pipelines|jobs)/[\w/.]+)`", README))
    assert len(named) >= 5
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


ONE_PICTURE = PrefillSetup(text_tokens=60, vision_tokens=1, compressor_queries=1, prefusion_layers=4)
STEPS = [
    # what is read, and how often a pass takes what its forward takes: stage 1 has no gradient of weights
    (PrefillSetup(text_tokens=43, vision_tokens=CLIP_L_336.patches), 2),
    (ONE_PICTURE, 3),
    (replace(ONE_PICTURE, text_tokens=250), 3),
    (replace(ONE_PICTURE, views=5, vision_tokens=64, compressor_queries=64), 3),
    (replace(ONE_PICTURE, text_tokens=100, frames=8, vision_tokens=8), 3),
]


def test_what_caching_buys_is_what_is_counted():
    """Of a 7B model: pictures with short and long text, in high resolution, and clips of eight frames."""
    shares = []
    for setup, passes in STEPS:
        parts = count_prefill(VICUNA_7B, setup)
        encoder = parts.pop("encoder").total
        shares.append(encoder / (encoder + passes * add_up(parts).total))
    assert f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of a step" in README
    weights = CLIP_L_336.layers * CLIP_L_336.layer_weights + CLIP_L_336.patch_values * CLIP_L_336.width
    assert f"{2 * weights / 1e9:.1f} GB of weights" in README


def test_what_adamw_takes_is_what_is_counted():
    trained = 7_573_132_288 - 131_072_000  # see test_parameter_counts: all but the table of embeddings
    assert f"16 bytes a trained parameter, {16 * trained / 1e9:.0f} GB for stage 2 of a 7B model" in README
