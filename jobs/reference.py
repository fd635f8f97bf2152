"""Pages of the documentation that are made from the code: `python -m jobs.reference docs`.

Recipes and training configurations are described by the models that check them, formats by the modules that
write them; a test holds the pages against this module, so they cannot fall behind.
"""

import ast
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from schemas.recipe import Recipe
from schemas.sweep import SweepConfig
from schemas.training import TrainConfig

RECIPES_HEAD: Final = """# Recipes

Made from the models that check what is written; unknown keys are errors that name the nearest known one.
Sizes are written as `64MiB`. A recipe says what a corpus is made of, a training configuration how to train,
a sweep which trainings to compare.
"""
_DESCRIBED: Final[tuple[tuple[str, type[BaseModel]], ...]] = (
    ("Recipe", Recipe),
    ("Training configuration", TrainConfig),
    ("Sweep", SweepConfig),
)
_FORMATS: Final = {"{feature_file}": "operators.feature_file", "{int8}": "operators.codec.int8"}


def describe_settings() -> str:
    """Every setting of what a user writes: key, type, default, what it does."""
    parts = [RECIPES_HEAD]
    for title, model in _DESCRIBED:
        parts += [f"\n## {title}\n", *_describe_model(model, "", set())]
    return "\n".join(parts) + "\n"


def draw_formats(template: str) -> str:
    """A page with the byte drawings of the modules put in."""
    for mark, name in _FORMATS.items():
        template = template.replace(mark, _find_drawing(name))
    return template


def _describe_model(model: type[BaseModel], prefix: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    if model in seen:
        return
    seen.add(model)
    words = _read_field_docs(model)
    yield f"\n{(inspect.getdoc(model) or '').splitlines()[0]}\n" if not prefix else f"\n### `{prefix}`\n"
    yield "| key | is | default | |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{_show_default(field.default)}`"
        kind = _show_type(field.annotation)
        yield f"| `{name}` | {kind} | {default} | {words.get(name, '')} |"
    for name, field in model.model_fields.items():
        for inner in _find_models(field.annotation):
            yield from _describe_model(inner, f"{prefix}.{name}".strip("."), seen)


def _read_field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The sentence below each field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for field, after in pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
            found[field.target.id] = text.replace("|", "\\|")
    return found


def _find_models(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - any annotation there is
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in _parts_of(annotation) for model in _find_models(part)]


def _parts_of(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    return getattr(annotation, "__args__", ())


def _show_type(annotation: Any) -> str:  # noqa: ANN401 - as above
    origin: Any = getattr(annotation, "__origin__", None)
    parts = _parts_of(annotation)
    if annotation is type(None):
        return "null"
    if hasattr(annotation, "__metadata__"):
        return _show_type(parts[0])
    if isinstance(annotation, type) and not parts:
        return "settings" if issubclass(annotation, BaseModel) else annotation.__name__
    if "Literal" in str(origin):
        return ", ".join(f"`{part}`" for part in parts)
    shown = [_show_type(part) for part in parts if part is not Ellipsis]
    if origin in (list, tuple):
        return "list of " + ", ".join(dict.fromkeys(shown))
    if origin is dict:
        return f"map of {shown[0]} to {shown[1]}"
    return " or ".join(shown)


def _show_default(value: object) -> str:
    if isinstance(value, BaseModel):
        return "its own"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _find_drawing(module: str) -> str:
    """The indented part of a module's docstring."""
    lines = (importlib.import_module(module).__doc__ or "").splitlines()
    drawn = [
        line[4:] if line.strip() else "" for line in lines[1:] if line.startswith("    ") or not line.strip()
    ]
    return "\n".join(drawn).strip()


def write_pages(folder: Path) -> None:
    """Write what is made from the code."""
    (folder / "recipes.md").write_text(describe_settings(), encoding="utf-8")
    template = (folder / "formats.md.in").read_text(encoding="utf-8")
    (folder / "formats.md").write_text(draw_formats(template), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
