"""The model `onetoken` of lmms-eval: the public benchmarks on a checkpoint, where the internet is.

lmms-eval finds `describe` by the entry point `lmms_eval.models`, and loads the class by its name; nothing
else imports this module. It runs in one process: checkpoints of one-token models fit one GPU.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from jobs.options import read_reducer
from pipelines.evaluate.harness_requests import Request, answer_requests, answer_rounds, weigh_request
from pipelines.evaluate.responder import Responder
from pipelines.train.checkpoint import open_checkpoint
from pipelines.train.precision import take_device
from pipelines.train.untrained import with_reducer
from schemas.errors import ConfigError

NAME: Final = "onetoken"
_Base: Any = import_module("lmms_eval.api.model").lmms


class HarnessModel(_Base):
    """What lmms-eval runs by `--model onetoken --model_args checkpoint=runs/stage2`."""

    is_simple = True

    def __init__(
        self,
        checkpoint: str,
        encoder: str | None = None,
        reducer: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        **ignored: object,
    ) -> None:
        """Open a checkpoint.

        Args:
            checkpoint: its folder.
            encoder: where the encoder is now, if it moved.
            reducer: reduce tokens without training.
            batch_size: questions at once.
            device: cpu, cuda or one of several, `cuda:1`; by default as the checkpoint's configuration says.
            ignored: what the harness hands to every model; nothing but `max_batch_size` is accepted.

        Raises:
            ConfigError: an argument is none of these, or there are several processes.
        """
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        unknown = sorted(ignored.keys() - {"max_batch_size"})
        if unknown:
            raise ConfigError(
                f"--model_args: no {', '.join(unknown)}; known are checkpoint, encoder, reducer"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("the model runs in one process; start lmms-eval without `accelerate launch`")
        opened = with_reducer(open_checkpoint(Path(checkpoint)), read_reducer(reducer))
        if device is not None:
            run = take_device(opened.config.run, device)
            opened = replace(opened, config=opened.config.model_copy(update={"run": run}))
        self.responder = Responder(opened, encoder)
        if not str(batch_size).isdecimal():
            raise ConfigError(f"--batch_size {batch_size}: name a number of questions")
        self.batch_size = int(batch_size)
        self.device = self.responder.device

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Greedy answers."""
        return answer_requests(self.responder, requests, self.task_dict, self.batch_size)

    def generate_until_multi_round(self, requests: Sequence[Request]) -> list[list[str]]:
        """Greedy answers of every round."""
        return [answer_rounds(self.responder, request, self.task_dict) for request in requests]

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """The mean loss of each continuation, and whether it is greedy; the harness takes the least loss."""
        return [weigh_request(self.responder, request, self.task_dict) for request in requests]


def describe() -> object:
    """What lmms-eval is told of the model."""
    registry: Any = import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(model_id=NAME, simple_class_path=f"{__name__}.{HarnessModel.__name__}")
