"""The house stands: packages resolve here, errors sort by policy, files and functions stay readable."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import schemas.errors
from schemas.errors import ConfigError, FatalError, PipelineError, RejectCode, SampleError, TransientError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "operators", "infra", "pipelines", "jobs")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 30


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_resolves_inside_this_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == ROOT / package


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_FILE_LINES
    assert ast.get_docstring(tree), "a module docstring says what, why this way, what it costs"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


def test_every_error_has_one_policy() -> None:
    errors = [
        value
        for value in vars(schemas.errors).values()
        if isinstance(value, type) and issubclass(value, PipelineError) and value is not PipelineError
    ]
    assert len(errors) > 8
    for error in errors:
        policies = [
            policy for policy in (SampleError, TransientError, FatalError) if issubclass(error, policy)
        ]
        assert len(policies) == 1, error
        assert error.__doc__
        assert error.__name__ in (schemas.errors.__doc__ or ""), (
            f"{error.__name__} is missing in the drawn tree"
        )


def test_exit_statuses() -> None:
    assert PipelineError.exit_status == 1
    assert ConfigError.exit_status == 2


def test_reject_codes_are_their_names_in_small_letters() -> None:
    assert all(code.value == code.name.lower() for code in RejectCode)


@pytest.mark.parametrize("module", ["jobs.cli", "jobs.options", "jobs.console"])
def test_the_command_line_starts_without_heavy_libraries(module: str) -> None:
    heavy = ["torch", "ray", "transformers", "polars", "pyarrow", "av"]
    code = f"import sys, {module}; print(*(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
