"""What the documentation tells people to type runs, what it lists is complete, its figures were measured."""

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer.main
import yaml
from small_job import run_onetoken

import schemas.errors
from jobs.cli import build_app
from jobs.reference import describe_settings, draw_formats
from schemas.errors import PipelineError, RejectCode

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
NEEDS = ("cluster", "GPU", "real data", "fresh clone", "S3")
OTHERS = {"make", "docker", "kubectl"}


def read_fences(path, language):
    return [(title, text) for kind, title, text in FENCE.findall(path.read_text()) if kind == language]


def read_commands(is_run):
    """Each line with a prompt, of the fences that run anywhere, or of those that say what they need."""
    return [
        pytest.param(
            words,
            id=f"{path.name}: {' '.join(words)}",
            marks=[pytest.mark.ray] if is_run and "ray" in words else [],
        )
        for path in PAGES
        for title, text in read_fences(path, "console")
        if bool(title) != is_run
        for words in [
            shlex.split(line.removeprefix("$ ")) for line in text.splitlines() if line.startswith("$ ")
        ]
        if not (is_run and words[0] == "make")
    ]


@pytest.fixture(scope="module")
def demo(small_job, outcomes, tmp_path_factory):
    """A folder in which `onetoken-demo` is a small job that has been through all of it."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(small_job.folder, folder / "onetoken-demo")
    shutil.copytree(REPOSITORY / "jobs/recipes", folder / "jobs/recipes")
    return folder


@pytest.mark.parametrize("words", read_commands(is_run=True))
def test_a_command_runs(demo, monkeypatch, words):
    monkeypatch.chdir(demo)
    program, *arguments = words
    assert Path(program).name == "onetoken"
    outcome = run_onetoken(*arguments)
    assert outcome.status == 0 or (arguments == ["doctor"] and "\nfix " in outcome.out), outcome.err
    assert outcome.out


def test_commands_on_s3_run(demo, monkeypatch, s3_url, real_s3):
    fences = [text for path in PAGES for title, text in read_fences(path, "console") if "S3" in title]
    commands = [line for text in fences for line in text.splitlines() if line.startswith("$ onetoken ")]
    monkeypatch.chdir(demo)
    for command in commands:
        verb, *arguments = shlex.split(command.removeprefix("$ onetoken "))
        outcome = run_onetoken(
            verb, *[s3_url if word == "s3://corpora/first" else word for word in arguments]
        )
        assert outcome.status == 0 or (verb == "doctor" and "\nfix " in outcome.out), outcome.err
        assert outcome.out
    assert len(commands) >= 3


@pytest.mark.parametrize("words", read_commands(is_run=False))
def test_a_command_that_needs_more_is_understood(words):
    program, *arguments = words
    if program in OTHERS:
        return
    assert program == "onetoken"
    verb, *rest = arguments
    typer.main.get_group(build_app()).commands[verb].make_context(verb, list(rest))


def test_fences_say_what_they_need():
    titles = [title for path in PAGES for title, _ in read_fences(path, "console") if title]
    assert len(titles) >= 5
    assert [title for title in titles if not any(need in title for need in NEEDS)] == []
    assert len(read_commands(is_run=True)) >= 15


def test_code_runs(demo, monkeypatch):
    blocks = [text for path in PAGES for _, text in read_fences(path, "python")]
    assert blocks
    monkeypatch.chdir(demo)
    for block in blocks:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block, "docs", "exec"), {})
        assert said.getvalue()


def test_pages_made_from_code_are_as_the_code_makes_them():
    assert (DOCS / "recipes.md").read_text() == describe_settings(), "run `make docs`"
    assert (DOCS / "formats.md").read_text() == draw_formats((DOCS / "formats.md.in").read_text())


def read_rows(heading):
    text = (DOCS / "troubleshooting.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text, re.MULTILINE)


def test_every_reject_code_is_explained_once():
    rows = read_rows("Reject codes")
    assert [code for code, _, _ in rows] == [code.value for code in RejectCode]
    assert all(means.strip() and way_out.strip() for _, means, way_out in rows)


def test_every_error_is_explained_once():
    errors = [
        name
        for name, value in vars(schemas.errors).items()
        if isinstance(value, type) and issubclass(value, PipelineError)
    ]
    assert sorted(name for name, _, _ in read_rows("Errors")) == sorted(errors)


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    assert site["strict"] is True
    assert sorted(name for entry in site["nav"] for name in entry.values()) == [
        path.name for path in sorted(DOCS.glob("*.md"))
    ]


def test_pages_name_no_figure_that_was_not_measured():
    measured = (REPOSITORY / "BENCHMARKS.md").read_text()
    figure = re.compile(r"\d[\d.,]*\s?(?:%|ms|GiB|MiB|TB|hours|minutes|views/s|times)(?![\w`])")
    written = [path for path in sorted(DOCS.glob("*.md")) if path.name not in ("recipes.md", "formats.md")]
    told = [(path.name, found) for path in written for found in figure.findall(path.read_text())]
    assert [(name, found) for name, found in told if found not in measured] == []


def test_files_that_are_named_exist():
    named = {
        name
        for path in PAGES
        for name in re.findall(r"`((?:schemas|operators|infra|pipelines|jobs)/[\w/.]+)`", path.read_text())
    }
    assert len(named) >= 8
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []
