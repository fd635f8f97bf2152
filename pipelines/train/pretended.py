"""A group of processes of which only this one is there: to see what one of many would hold.

Torch's own group for tests: an exchange comes back at once and moves nothing, so sizes are right and values
are not. It stands for as long as the block, and only where there is no real one.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch.distributed as dist

from pipelines.train.processes import ALONE, Processes
from schemas.errors import WorkError


@contextmanager
def pretend_processes(world_size: int) -> Generator[Processes]:
    """The first of so many processes.

    Raises:
        WorkError: real ones have met already.
    """
    if world_size == 1:
        yield ALONE
        return
    if dist.is_initialized():
        raise WorkError("processes that train together cannot pretend to be others; plan outside of the run")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    cast(Any, dist).init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield Processes(rank=0, world_size=world_size)
    finally:
        cast(Any, dist).destroy_process_group()
