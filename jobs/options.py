"""Arguments and options that several commands share, and what they open."""

import contextlib
from collections.abc import Generator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
import yaml
from pydantic import BaseModel

from infra.event_log import event_log
from pipelines.engine import Engine, Observer, SerialEngine, observe_all, observe_nothing
from schemas.configuration import build, load_yaml
from schemas.errors import ConfigError
from schemas.reducer import ReducerConfig

Model = TypeVar("Model", bound=BaseModel)


class EngineName(StrEnum):
    """Who runs the units of a data stage."""

    SERIAL = "serial"
    PROCESSES = "processes"
    RAY = "ray"


RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe in YAML.", show_default=False)]
ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Training configuration in YAML.", show_default=False)
]
CorpusOption = Annotated[str, typer.Option("--corpus", metavar="URL", help="Where the corpus is or will be.")]
EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="Who does the work; the bytes are the same.")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="ADDRESS", help="Join a running Ray cluster instead of starting one here."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Workers at a time; by default as many as there are CPUs."
    ),
]
RereadOption = Annotated[
    bool, typer.Option("--reread", help="Read all media again, also files that look unchanged.")
]
ReuseOption = Annotated[
    str | None,
    typer.Option(
        "--reuse",
        metavar="URL",
        help="Copy features of the same media and spec from this corpus; encode the rest.",
        show_default=False,
    ),
]
DecodersOption = Annotated[
    int | None,
    typer.Option(
        "--decoders",
        metavar="N",
        min=1,
        help="Processes that decode media for each encoder; by default 1, and 8 on a GPU.",
        show_default=False,
    ),
]
EventsOption = Annotated[
    Path | None,
    typer.Option(
        "--events",
        metavar="FILE",
        help="Append what happens to a log, one JSON object a line.",
        show_default=False,
    ),
]
ReducerOption = Annotated[
    str | None,
    typer.Option(
        "--reducer",
        metavar="NAME",
        help="Reduce tokens without training: prumerge, or '{name: average, tokens: 64}'.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


@contextlib.contextmanager
def open_engine(
    name: EngineName,
    ray_address: str | None = None,
    num_workers: int | None = None,
    observer: Observer = observe_nothing,
) -> Generator[Engine]:
    """The engine that was asked for, for as long as the block runs; none of its workers outlives the block.

    Raises:
        ConfigError: for a Ray address with another engine, or several workers with the serial one.
    """
    if ray_address is not None and name is not EngineName.RAY:
        raise ConfigError("--ray-address goes with --engine ray")
    if name is EngineName.SERIAL:
        if num_workers not in (None, 1):
            raise ConfigError("--workers goes with --engine processes or ray")
        yield SerialEngine(observer)
    elif name is EngineName.PROCESSES:
        from pipelines.process_engine import ProcessesEngine

        with ProcessesEngine(num_workers, observer=observer) as engine:
            yield engine
    else:
        from infra.ray_cluster import ray_cluster
        from infra.ray_metrics import RayMetrics
        from pipelines.ray_engine import RayEngine

        with ray_cluster(ray_address, None if ray_address else num_workers):
            yield RayEngine(num_workers, observer=observe_all(observer, RayMetrics()))


@contextlib.contextmanager
def open_observer(events: Path | None) -> Generator[Observer]:
    """Who is told what happens, for as long as the block runs: a log, or nobody."""
    if events is None:
        yield observe_nothing
        return
    with event_log(events) as log:
        yield log


def read_configuration(path: Path, model: type[Model]) -> Model:
    """A recipe or training configuration from a file.

    Raises:
        ConfigError: when the file is not there, or not what it should be.
    """
    return build(read_plain_values(path), model, str(path))


def read_plain_values(path: Path) -> object:
    """What a YAML file says, before it is checked against a model.

    Raises:
        ConfigError: when the file is not there, or no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    return load_yaml(text, str(path))


def read_reducer(text: str | None) -> ReducerConfig | None:
    """A reducer by its name, or as a map of settings in YAML.

    Raises:
        ConfigError: when it is neither.
    """
    if text is None:
        return None
    try:
        value: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--reducer {text!r} is no YAML: {error}") from error
    return build(value, ReducerConfig, "--reducer")
