"""A GPU that lacks what a run computes in is refused before the first step; the GPU is a pretended one."""

import pytest
import torch

from pipelines.train.precision import check_precision
from schemas.configuration import build
from schemas.errors import ConfigError
from schemas.training import TrainConfig


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def configure(**sections: dict[str, object]) -> TrainConfig:
    return build({"corpus": "c", "stage": 2, "out": "o", **sections}, TrainConfig, "test")


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (7, 5)])
def test_bfloat16_is_refused_where_the_gpu_has_none(capability: tuple[int, int]) -> None:
    said = f"this one has {capability[0]}.{capability[1]}; write `run.dtype: float32`, or use"
    with pytest.raises(ConfigError, match=said):
        check_precision(configure(), lambda: capability)


def test_the_way_out_is_one_that_a_configuration_may_take() -> None:
    pure: dict[str, object] = {"kind": "adafactor", "weights": "bfloat16"}
    with pytest.raises(ConfigError, match=r"float32` without `optimizer\.weights`, and `model\.lora: "):
        check_precision(configure(optimizer=pure), lambda: (7, 0))
    configure(optimizer={"kind": "adafactor"}, model={"lora": {}}, run={"dtype": "float32"})


def test_what_the_gpu_can_do_is_let_through() -> None:
    for newer in ((8, 0), (8, 9), (12, 0)):
        check_precision(configure(), lambda newer=newer: newer)
    check_precision(configure(run={"dtype": "float32"}), lambda: (7, 0))


def test_a_run_on_the_cpu_asks_no_gpu() -> None:
    def nobody() -> tuple[int, int]:
        raise AssertionError("there is no GPU in this run")

    check_precision(configure(run={"device": "cpu"}), nobody)
