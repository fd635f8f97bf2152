"""The loss on held-out examples, what is logged of a step, and the arithmetic that it takes."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import Say, tiny_batch, tiny_model
from tiny_training import WIDTH, color_example, save_language_model, tiny_config, tiny_run

from operators.batch import TrainingExample
from operators.collate import collate_training
from pipelines.train.assembly import assemble
from pipelines.train.evaluation import measure_loss
from pipelines.train.loop import train
from pipelines.train.tensor_file import read_tensors
from pipelines.train.utilization import flops_of_device, peak_flops, step_flops


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def held_out() -> list[list[list[TrainingExample]]]:
    examples = [color_example(100 + index, frames=1 + index % 2) for index in range(5)]
    return [[examples[:2], examples[2:3]], [[], examples[3:]]]


def test_it_is_the_mean_over_learned_tokens(llm: Path, tmp_path: Path) -> None:
    assembly = assemble(tiny_config(llm, tmp_path), WIDTH)
    examples = [example for step in held_out() for part in step for example in part]
    whole = assembly.model(collate_training(examples, assembly.prompter))
    measured = measure_loss(assembly, held_out, torch.float32)
    assert measured == pytest.approx(whole.total.item() / whole.num_labels, rel=1e-5)
    assert assembly.model.training
    assert measure_loss(assembly, list, torch.float32) != measure_loss(assembly, list, torch.float32), "NaN"


def test_looking_changes_no_training(llm: Path, tmp_path: Path) -> None:
    folders = []
    for name, source in (("blind", None), ("looking", held_out)):
        run = {"steps": 5, "evaluate_every": 2, "log_every": 5, "save_every": 100}
        config = tiny_config(llm, tmp_path / name, run=run)
        folders.append(train(replace(tiny_run(config), held_out=source)))
    one, other = (read_tensors(folder / "model.safetensors") for folder in folders)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [json.loads(line) for line in (tmp_path / "looking/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    losses = [line["held_out_loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3
    assert all(line["memory_bytes"] > 2**20 and line["examples_per_s"] > 0 for line in lines)
    assert all(line["mfu"] is None for line in lines), "the limit of a CPU is not known"
    (board,) = (tmp_path / "looking/tensorboard").iterdir()
    written = board.read_bytes()
    assert all(name in written for name in (b"held_out_loss", b"tokens_per_s", b"rate/projector"))


def test_arithmetic_is_counted_by_weights_and_tokens() -> None:
    model = tiny_model(grid=2)
    batch = tiny_batch([[Say("human", 5, (3,)), Say("gpt", 4)], [Say("human", 2), Say("gpt", 1)]])

    def weights(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    read, projected, fused_text = 5 + 4 + 2 + 1 + 3 * 4, 3 * (4 + 4), 3 * 5
    expected = 6 * (
        read * weights(model.llm.model.layers)
        + 5 * weights(model.head)
        + projected * weights(model.projector)
        + (projected + fused_text) * weights(model.prefusion)
    )
    assert step_flops(model, batch, 5, 4) == expected
    assert peak_flops(torch.device("cpu")) is None


def num_weights(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    """Stage 1, and stage 2 with a frozen language model below adapters: two passes instead of three."""
    batch = tiny_batch([[Say("human", 5, (3,)), Say("gpt", 4)]])
    for model in (tiny_model(1), tiny_model(2, grid=2)):
        model.llm.requires_grad_(False)
        parts, read = num_weights(model.llm.model.layers), 5 + 4 + 3 * 4
        frozen = step_flops(model, batch, 4, 4)
        model.llm.requires_grad_(True)
        more = step_flops(model, batch, 4, 4) - frozen
        assert more == 2 * (read * parts + 4 * num_weights(model.head))
        assert frozen > 2 * more


def test_weights_in_four_bits_count_as_many_as_they_stand_for() -> None:
    model, batch = tiny_model(2), tiny_batch([[Say("human", 5), Say("gpt", 4)]])
    model.llm.requires_grad_(False)
    plain = step_flops(model, batch, 4, 4)
    for projection in (layer.self_attn.q_proj for layer in model.llm.model.layers):
        packed = torch.zeros(projection.weight.numel() // 2, 1, dtype=torch.uint8)
        state = SimpleNamespace(shape=projection.weight.shape)
        projection.weight = torch.nn.Parameter(packed, requires_grad=False)
        projection.weight.quant_state = state
    assert step_flops(model, batch, 4, 4) == plain


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 5090", 209e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GB200", None),
    ],
)
def test_a_device_is_known_by_whole_words_of_its_name(name: str, flops: float | None) -> None:
    assert flops_of_device(name) == flops
