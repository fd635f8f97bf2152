"""YAML into checked models: safe loading, and errors that name the nearest known key.

Aliases, tags and duplicate keys are refused: the first make small files huge, the second make values that
are none of plain text, numbers, lists and maps, the third hide a value. Deep nesting is refused, too: the
parser's time grows with its square.
"""

import difflib
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import ConfigError


class StrictModel(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)

MAX_DEPTH = 32


class _StrictLoader(yaml.SafeLoader):
    """Plain values only, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no plain text", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key_node.value!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def _refuse_what_is_not_plain(text: str) -> None:
    depth = 0
    scan: Any = yaml.scan  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    for token in scan(text, Loader=_StrictLoader):
        if isinstance(token, yaml.AliasToken):
            raise yaml.MarkedYAMLError(
                problem=f"aliases (*{token.value}) are refused", problem_mark=token.start_mark
            )
        if isinstance(token, yaml.TagToken):
            raise yaml.MarkedYAMLError(problem="tags (!) are refused", problem_mark=token.start_mark)
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=token.start_mark
            )


def parse_yaml(text: str, model: type[Model], where: str) -> Model:
    """Read YAML text into a model.

    Raises:
        ConfigError: for bad YAML, unknown keys (with the nearest known one) and bad values; `where` is named.
    """
    return build(load_yaml(text, where), model, where)


def load_yaml(text: str, where: str) -> object:
    """Read YAML text into plain values.

    Raises:
        ConfigError: for bad YAML; `where` is named.
    """
    try:
        _refuse_what_is_not_plain(text)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not readable as YAML: {error}") from error


def build(value: object, model: type[Model], where: str) -> Model:
    """Check a plain value against a model.

    Raises:
        ConfigError: naming every bad key and value, one line each.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [_explain(detail, model) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def _explain(detail: Any, model: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        close = _find_nearest_key(model, detail["loc"])
        return f"unknown key {path!r}" + (f", did you mean {close!r}?" if close else "")
    if detail["type"] == "missing":
        return f"{path!r} is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{path or 'document'}: {message[:1].lower()}{message[1:]} (got {detail['input']!r:.80})"


def _find_nearest_key(model: type[BaseModel], place: Sequence[str | int]) -> str | None:
    """The key that an unknown one may be meant for: its neighbour, or the path of one elsewhere."""
    key = str(place[-1])
    beside = {name for one in _models_at(model, place[:-1]) for name in one.model_fields} - {key}
    near = difflib.get_close_matches(key, sorted(beside), n=1, cutoff=0.5)
    if near:
        return near[0]
    paths: dict[str, str] = {}
    for path in _list_key_paths(model):
        paths.setdefault(path.rpartition(".")[2], path)
    near = difflib.get_close_matches(key, sorted(paths), n=1, cutoff=0.5)
    return paths[near[0]] if near else None


def _models_at(model: type[BaseModel], place: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a place; indices of lists and branches of unions are passed over."""
    models = [model]
    for part in place:
        fields = [one.model_fields[str(part)] for one in models if part in one.model_fields]
        if fields:
            models = [inner for field in fields for inner in _models_in(field.annotation)]
    return models


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names, itself or in lists, maps and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _list_key_paths(model: type[BaseModel]) -> Iterator[str]:
    """Dotted paths of all keys of a model and of the models inside it, level by level."""
    waiting = deque([("", model)])
    seen: set[type[BaseModel]] = set()
    while waiting:
        path, current = waiting.popleft()
        if current in seen:
            continue
        seen.add(current)
        for name, field in current.model_fields.items():
            yield f"{path}{name}"
            waiting.extend((f"{path}{name}.", inner) for inner in _models_in(field.annotation))
