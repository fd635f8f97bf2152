"""Weights, gradients and moments cut over processes (FSDP2), layer by layer.

A layer's weights are gathered when it computes and dropped afterwards, so what a GPU holds is its share and
two layers. Gradients are averaged over processes in float32. With one process nothing is cut.

A model is whole on the CPU of each process before it is cut: a machine needs that much memory per process.
What optimizers see are shards, so rules that look at whole matrices (Adafactor) are for one process; so are
weights in 4 bits, whose scales lie beside them. Adapters and the frozen weights below them are cut alike.
"""

from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipelines.train.model import OneTokenModel
from pipelines.train.precision import dtype_of
from pipelines.train.processes import Processes
from schemas.errors import ConfigError
from schemas.training import TrainConfig


def shard_model(
    model: OneTokenModel, config: TrainConfig, processes: Processes, device: torch.device
) -> None:
    """Move a model to where it computes; with several processes each keeps its share.

    Raises:
        ConfigError: the optimizer, or what the weights are kept in, is for one process.
    """
    if processes.is_alone:
        model.to(device)
        return
    _check_divisible(config, processes.world_size)
    mesh = init_device_mesh(device.type, (processes.world_size,))
    policy = MixedPrecisionPolicy(
        param_dtype=dtype_of(config.run), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    prefusion: list[nn.Module] = [] if model.prefusion is None else list(model.prefusion.layers)
    layers = cast("nn.ModuleList", model.llm.base_model.layers)
    for module in chain(prefusion, layers, [model]):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for name, buffer in model.named_buffers():
        owner, _, last = name.rpartition(".")
        cast(Any, model.get_submodule(owner))._buffers[last] = buffer.to(device)


def _check_divisible(config: TrainConfig, world_size: int) -> None:
    if config.optimizer.kind != "adamw":
        raise ConfigError(
            f"`optimizer.kind: {config.optimizer.kind}` is for one GPU, and {world_size} processes train; "
            "write adamw, whose memory is divided among them"
        )
    if config.model.lora is not None and config.model.lora.base == "nf4":
        raise ConfigError(
            f"`model.lora.base: nf4` is for one GPU, and {world_size} processes train: the scales of 4-bit "
            "weights cannot be divided; write plain, whose memory is"
        )


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the shares of all processes, which must all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """What of a tensor this process holds: its share, or all of it where nothing is cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """The share that this process has of a whole tensor, cut as `like` is."""
    if isinstance(like, DTensor):
        moved = value.to(like.device_mesh.device_type)
        return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
    return value.to(like.device)
