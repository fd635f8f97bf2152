"""Checkpoints: one folder per step, whole or not there, checked before they are used.

    step-000100/
      model.safetensors       every weight, the language model's too: nothing else is needed to load it
      optimizer.safetensors   AdamW's moments by parameter name
      llm/  tokenizer/        configuration of the language model, files of the tokenizer
      config.yaml             the training configuration
      state.json              step, stream position, digests of corpus and spec, sha256 of all files above

A folder is written under another name, synced and renamed, and gets another name before it is removed: a kill
leaves either no checkpoint or a whole one. Cost: weights and moments once per save, and once more to hash
them; a checkpoint is hashed when it is opened.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import transformers
import yaml
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import PretrainedConfig

from operators.tokenizer import Tokenizer
from pipelines.train.optimizer import Optimizer
from pipelines.train.tensor_file import read_tensors, write_tensors
from schemas.checkpoint import CheckpointState, RunIdentity
from schemas.configuration import parse_yaml
from schemas.errors import ConflictError, CorruptError, MismatchError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.training import TrainConfig

_MODEL: Final = "model.safetensors"
_OPTIMIZER: Final = "optimizer.safetensors"
_CONFIG: Final = "config.yaml"
_STATE: Final = "state.json"
_REMOVED: Final = ".removed"
_FOLDER_NAME: Final = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run between two steps: what a checkpoint holds."""

    weights: dict[str, Tensor]
    """As `unique_tensors` names them."""
    moments: dict[str, Tensor]
    """The optimizer's state."""
    llm_config: PretrainedConfig
    tokenizer: Tokenizer
    config: TrainConfig
    identity: RunIdentity
    step: int
    stream: dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint whose files were checked."""

    folder: Path
    state: CheckpointState
    config: TrainConfig


def free_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of a step below `out` will be.

    Raises:
        ConflictError: the step has one already.
    """
    folder = out / f"step-{step:06d}"
    if folder.exists():
        raise ConflictError(f"{folder} exists; pass --resume to go on from it, or choose another `out`")
    return folder


def write_checkpoint(out: Path, snapshot: Snapshot) -> Path:
    """Write the folder of a step below `out`.

    Raises:
        ConflictError: the step has one already.
    """
    folder = free_folder(out, snapshot.step)
    partial = out / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_contents(partial, snapshot)
    _write_state(partial, snapshot)
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    partial.rename(folder)
    _sync(out)
    return folder


def remove_old_checkpoints(out: Path, keep_last: int | None) -> None:
    """Remove all but the newest `keep_last` checkpoints below `out`, and what a kill left of others."""
    if keep_last is not None:
        for folder in _checkpoint_folders(out)[: -keep_last or None]:
            folder.rename(out / f".{folder.name}{_REMOVED}")
        for folder in out.glob(f".*{_REMOVED}"):
            shutil.rmtree(folder)


def latest_checkpoint(out: Path) -> Path | None:
    """The checkpoint with the highest step below `out`."""
    folders = _checkpoint_folders(out)
    return folders[-1] if folders else None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's files; a folder of checkpoints stands for its latest.

    Raises:
        NotFoundError: there is none.
        CorruptError: a file is missing, or its bytes are not those that were written.
    """
    folder = _find_checkpoint(path)
    state_path = folder / _STATE
    try:
        state = CheckpointState.model_validate_json(state_path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CorruptError(
            f"{state_path} cannot be read: {error}; go back to an earlier checkpoint"
        ) from error
    for name, digest in state.files.items():
        file = folder / name
        if not file.is_file() or _sha256_of(file) != digest:
            raise CorruptError(
                f"{file} is missing or not as it was written; remove {folder} to go on from an earlier one"
            )
    config_path = folder / _CONFIG
    return Checkpoint(
        folder, state, parse_yaml(config_path.read_text("utf-8"), TrainConfig, str(config_path))
    )


def digest_of_state(path: Path) -> str:
    """What tells a checkpoint from all others, without reading its weights: its state names their digests.

    Raises:
        NotFoundError: there is none.
    """
    return _sha256_of(_find_checkpoint(path) / _STATE)


def check_resumable(checkpoint: Checkpoint, config: TrainConfig, identity: RunIdentity) -> None:
    """Refuse to go on with anything but the run that the checkpoint is of.

    Raises:
        MismatchError: naming every field that differs.
    """
    then = checkpoint.config.run_fields | checkpoint.state.identity.compared_fields
    now = config.run_fields | identity.compared_fields
    differences = [
        f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise MismatchError(
            f"{checkpoint.folder} is of another run: {'; '.join(differences)}. Restore these, or start anew "
            "with another `out`"
        )


def check_start_encoder(path: Path, spec: FeatureSpec) -> None:
    """Refuse to begin with a model that learned to read the features of another encoder.

    Its pixel values count, too. Views, codec and reducer may differ, and how pictures are resized to the last
    bit: stage 1 looks at whole pictures, stage 2 at crops, too.

    Raises:
        NotFoundError: there is no checkpoint.
        CorruptError: its files changed or cannot be read.
        MismatchError: naming every field of the encoder that differs.
    """
    start = open_checkpoint(path)
    differences = spec.list_differences(start.state.identity.spec, ("encoder", "processor"))
    if differences:
        raise MismatchError(
            f"{start.folder} reads features of another encoder: {'; '.join(differences)}; use features of "
            "the same encoder, or train from the beginning"
        )


def load_weights(model: nn.Module, checkpoint: Checkpoint, modules: Sequence[str] | None = None) -> None:
    """Copy weights into a model of the same shape.

    Args:
        model: takes the values, in its own dtype and on its own device.
        checkpoint: where they come from.
        modules: names of the top modules to load; None: all, and then none may be missing on either side.

    Raises:
        MismatchError: the model has other weights.
        CorruptError: the file cannot be read.
    """
    targets = _select(unique_tensors(model), modules)
    stored = _select(read_tensors(checkpoint.folder / _MODEL), modules)
    for name in sorted(targets.keys() | stored.keys()):
        there, here = (tuple(side[name].shape) if name in side else None for side in (stored, targets))
        if there != here:
            raise MismatchError(
                f"{checkpoint.folder}: weight {name} is {there} there and {here} here; configure the "
                "model as the checkpoint's config.yaml does"
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(stored[name])


def load_optimizer(optimizer: Optimizer, checkpoint: Checkpoint) -> None:
    """Restore the optimizer's moments.

    Raises:
        MismatchError: other parameters train.
        CorruptError: the file cannot be read.
    """
    optimizer.load_state_tensors(read_tensors(checkpoint.folder / _OPTIMIZER))


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; of tied ones the first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in found.values()}


def _write_contents(folder: Path, snapshot: Snapshot) -> None:
    write_tensors(snapshot.weights, folder / _MODEL)
    write_tensors(snapshot.moments, folder / _OPTIMIZER)
    snapshot.llm_config.save_pretrained(folder / "llm")  # pyright: ignore[reportUnknownMemberType]
    snapshot.tokenizer.save(folder / "tokenizer")
    text = yaml.safe_dump(snapshot.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (folder / _CONFIG).write_text(text, "utf-8")


def _write_state(folder: Path, snapshot: Snapshot) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    state = CheckpointState(
        step=snapshot.step,
        stream=snapshot.stream,
        stage=snapshot.config.stage,
        identity=snapshot.identity,
        run_sha256=snapshot.config.run_digest,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
        files={path.relative_to(folder).as_posix(): _sha256_of(path) for path in paths},
    )
    (folder / _STATE).write_text(state.model_dump_json(indent=1), "utf-8")


def _select(tensors: dict[str, Tensor], modules: Sequence[str] | None) -> dict[str, Tensor]:
    return {
        name: tensor for name, tensor in tensors.items() if modules is None or name.split(".")[0] in modules
    }


def _find_checkpoint(path: Path) -> Path:
    """A checkpoint, or the latest one of a folder of them."""
    folder = path if (path / _STATE).is_file() else latest_checkpoint(path)
    if folder is None:
        raise NotFoundError(
            f"no checkpoint at {path}; name a step-NNNNNN folder or the folder that holds them"
        )
    return folder


def _checkpoint_folders(out: Path) -> list[Path]:
    if not out.is_dir():
        return []
    steps = {int(match[1]): path for path in out.iterdir() if (match := _FOLDER_NAME.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps)]


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file, or a folder's entries, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
