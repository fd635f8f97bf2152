"""Moving during the backward pass is moving after it, to the bit; what it cannot do is said."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_training import (
    IDENTITY,
    WIDTH,
    CountedSteps,
    color_example,
    save_language_model,
    tiny_config,
    tiny_run,
)

from operators.collate import collate_training
from pipelines.train import low_bit
from pipelines.train.assembly import assemble, restore
from pipelines.train.checkpoint import open_checkpoint
from pipelines.train.loop import TrainingRun, train
from pipelines.train.optimizer import build_optimizer
from pipelines.train.tensor_file import read_tensors
from schemas.errors import ConfigError, MismatchError, WorkError
from schemas.training import TrainConfig

HAS_TORCHAO = importlib.util.find_spec("torchao") is not None
BFLOAT16 = {"dtype": "bfloat16", "save_every": 100}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def moving_config(
    llm: Path,
    out: Path,
    *,
    in_backward: bool,
    weights: str,
    kind: str = "adafactor",
    train_embeddings: bool = False,
    **run: object,
) -> TrainConfig:
    return tiny_config(
        llm,
        out,
        model={"train_embeddings": train_embeddings},
        data={"batch": 4, "micro_batch": 4},
        optimizer={
            "kind": kind,
            "in_backward": in_backward,
            "weights": weights,
            "max_grad_norm": None,
        },
        memory={"checkpoint_layers": True},
        run={"steps": 6, "dtype": weights, "save_every": 100, **run},
    )


@pytest.mark.parametrize("train_embeddings", [False, True])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_in_the_backward_pass_as_after_it(
    llm: Path, tmp_path: Path, weights: str, train_embeddings: bool
) -> None:
    """The projector is used twice, for patches and compressed tokens; layers are recomputed."""
    settings = {"weights": weights, "train_embeddings": train_embeddings}
    folders = [
        train(tiny_run(moving_config(llm, tmp_path / str(moves), in_backward=moves, **settings)))
        for moves in (False, True)
    ]
    for name in ("model.safetensors", "optimizer.safetensors"):
        after, during = (read_tensors(folder / name) for folder in folders)
        assert after.keys() == during.keys()
        assert len(after) > 20
        assert all(torch.equal(after[key], during[key]) for key in after)
    counts = read_tensors(folders[0] / "optimizer.safetensors")
    assert int(counts["projector.0.weight.step"]) == 6
    name = "llm.model.embed_tokens.weight"
    assert (f"{name}.step" in counts) == train_embeddings
    then, now = read_tensors(llm / "model.safetensors"), read_tensors(folders[0] / "model.safetensors")
    is_kept = torch.equal(then[name.removeprefix("llm.")].to(now[name].dtype), now[name])
    assert is_kept != train_embeddings


LOW_BITS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not HAS_TORCHAO, reason="needs torchao"),
]


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("adafactor", "float32"),
        ("adafactor", "bfloat16"),
        pytest.param("adamw_8bit", "bfloat16", marks=LOW_BITS),
        pytest.param("adamw_4bit", "bfloat16", marks=LOW_BITS),
    ],
)
def test_a_resumed_run_is_the_same(llm: Path, tmp_path: Path, kind: str, weights: str) -> None:
    settings = {"in_backward": True, "weights": weights, "kind": kind}
    straight = moving_config(llm, tmp_path / "a", **settings)
    stopped = moving_config(llm, tmp_path / "b", **settings, save_every=3)
    expected = train(tiny_run(straight))
    train(tiny_run(stopped))
    first = open_checkpoint(tmp_path / "b/step-000003")
    for path in (tmp_path / "b/step-000006").iterdir():
        if path.is_file():
            path.unlink()
    (tmp_path / "b/step-000006").rename(tmp_path / "gone")
    resumed = TrainingRun(
        assembly=restore(first, to_train=True),
        config=stopped,
        source=CountedSteps(4, 4),
        identity=IDENTITY,
        num_steps=6,
    )
    folder = train(resumed, first)
    for name in ("model.safetensors", "optimizer.safetensors"):
        there, here = read_tensors(expected / name), read_tensors(folder / name)
        assert there.keys() == here.keys()
        assert all(torch.equal(there[key], here[key]) for key in there)


def test_gradients_are_gone_when_the_backward_pass_ends(llm: Path, tmp_path: Path) -> None:
    config = moving_config(llm, tmp_path, in_backward=True, weights="float32")
    assembly = assemble(config, WIDTH)
    optimizer = build_optimizer(assembly.model, config, 1)
    before = {name: weight.detach().clone() for name, weight in assembly.model.named_parameters()}
    batch = collate_training([color_example(0), color_example(1)], assembly.prompter)
    optimizer.begin_step(0)
    assembly.model(batch).total.backward()
    moved = [
        name for name, weight in assembly.model.named_parameters() if not torch.equal(weight, before[name])
    ]
    assert "projector.0.weight" in moved
    assert all(weight.grad is None for weight in assembly.model.parameters())
    assert float(optimizer.end_step()) > 0
    with pytest.raises(WorkError, match="outside of a step"):
        assembly.model(batch).total.backward()


def test_a_second_backward_pass_of_a_step_is_refused(llm: Path, tmp_path: Path) -> None:
    config = moving_config(llm, tmp_path, in_backward=True, weights="float32")
    assembly = assemble(config, WIDTH)
    optimizer = build_optimizer(assembly.model, config, 1)
    batch = collate_training([color_example(0)], assembly.prompter)
    optimizer.begin_step(0)
    assembly.model(batch).total.backward()
    with pytest.raises(WorkError, match="a second one"):
        assembly.model(batch).total.backward()


def test_state_of_other_parameters_is_refused(llm: Path, tmp_path: Path) -> None:
    config = moving_config(llm, tmp_path, in_backward=True, weights="float32")
    optimizer = build_optimizer(assemble(config, WIDTH).model, config, 1)
    state = optimizer.state_tensors()
    state.pop("projector.0.bias.square")
    with pytest.raises(MismatchError, match=r"projector.0.bias.square is None there and \(32,\) here"):
        optimizer.load_state_tensors(state)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"kind": "adamw", "in_backward": True}, "adamw keeps weights in float32"),
        ({"kind": "adamw", "weights": "bfloat16"}, "which round stochastically"),
        ({"kind": "adafactor", "in_backward": True, "max_grad_norm": 1.0}, "leave max_grad_norm out"),
        ({"kind": "adafactor", "in_backward": True}, r"data: \{batch: 4, micro_batch: 4\}"),
        ({"kind": "adafactor", "weights": "bfloat16"}, "goes with run.dtype: bfloat16"),
    ],
)
def test_what_does_not_go_together(optimizer: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(tmp_path, tmp_path, optimizer=optimizer)


@pytest.mark.skipif(HAS_TORCHAO, reason="torchao is installed")
@pytest.mark.parametrize("kind", ["adamw_8bit", "adamw_4bit"])
def test_low_bits_without_the_library(llm: Path, tmp_path: Path, kind: str) -> None:
    config = tiny_config(llm, tmp_path, optimizer={"kind": kind})
    with pytest.raises(ConfigError, match=r"needs torchao; install onetoken\[torchao\]"):
        build_optimizer(assemble(config, WIDTH).model, config, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(not HAS_TORCHAO, reason="needs torchao")
@pytest.mark.parametrize("kind", ["adamw_8bit", "adamw_4bit"])
def test_low_bits_are_near_adamw_and_resume_to_the_bit(kind: str) -> None:
    rule = low_bit.LowBitAdamW(kind=kind, betas=(0.9, 0.999), weight_decay=0.1, seed=0)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    exact = torch.nn.Parameter(weight.clone())
    adamw = torch.optim.AdamW([exact], lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
    state = rule.make_state(weight)
    for step in range(1, 4):
        gradient = torch.randn(64, 128, generator=generator)
        rule.move("w", weight, gradient, state, 1e-2, step)
        exact.grad = gradient
        adamw.step()
    distance = float((weight - exact).detach().norm() / (3e-2 * weight.numel() ** 0.5))
    assert distance < (0.05 if kind == "adamw_8bit" else 0.3)
    copied_weight = weight.clone()
    copied = rule.make_state(copied_weight)
    for key, value in rule.open_state(copied).items():
        value.copy_(rule.open_state(state)[key])
    for side, moments in ((weight, state), (copied_weight, copied)):
        rule.move("w", side, gradient, moments, 1e-2, 4)
    assert torch.equal(weight, copied_weight)
