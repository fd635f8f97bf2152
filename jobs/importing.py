"""`onetoken import`: published weights as a checkpoint, to be asked, evaluated or started from untrained."""

from pathlib import Path

import typer

from jobs.console import print_result
from jobs.options import ConfigArgument, JsonOption, read_configuration
from jobs.training_data import open_training_data
from schemas.checkpoint import RunIdentity
from schemas.errors import ConfigError
from schemas.training import TrainConfig

HELP = (
    "Write the weights that a training configuration names by `model.init_from` as a checkpoint, without a "
    "step of training."
)


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command("import", help=HELP)(import_command)


def import_command(
    config: ConfigArgument,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    checked = read_configuration(config, TrainConfig)
    folder = import_weights(checked)
    print_result([f"{checked.model.init_from} -> {folder}"], as_json, {"checkpoint": str(folder)})


def import_weights(config: TrainConfig) -> Path:
    """The checkpoint of a run before its first step, below its `out`; what was not published is fresh.

    It reads what the corpus's features are, and nothing else of it: any corpus will do whose encoder, views
    and sizes are those that the weights were trained with.

    Raises:
        ConfigError: the configuration names no weights.
        ConflictError: `out` holds it already.
        MismatchError: the weights do not fit the model.
        NotFoundError: there is no corpus, or there are no weights.
    """
    from pipelines.train.assembly import assemble
    from pipelines.train.checkpoint import Snapshot, unique_tensors, write_checkpoint

    if config.model.init_from is None:
        raise ConfigError(
            "nothing to import: name a folder or file of weights under `model.init_from` in the configuration"
        )
    data = open_training_data(config)
    assembly = assemble(config, data.spec.encoder.width)
    encoder = data.manifest.features[data.digest].encoder
    snapshot = Snapshot(
        weights=unique_tensors(assembly.model),
        moments={},
        llm_config=assembly.model.llm.config,
        tokenizer=assembly.tokenizer,
        config=config,
        identity=RunIdentity(manifest_sha256=data.manifest.digest, spec=data.spec, encoder=encoder),
        step=0,
        stream={},
    )
    return write_checkpoint(Path(config.out), snapshot)
