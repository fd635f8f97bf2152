"""Adapters on the language model: what trains, what a checkpoint holds, what becomes of them in the end."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import IDENTITY, WIDTH, color_example, save_language_model, tiny_config, tiny_run
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.bench.train_memory import record_peak
from operators.collate import collate_training
from pipelines.train.assembly import Assembly, assemble, restore
from pipelines.train.checkpoint import latest_checkpoint, open_checkpoint
from pipelines.train.export import export_model
from pipelines.train.foreign_files import read_foreign
from pipelines.train.loop import train
from pipelines.train.lora import add_lora
from pipelines.train.metrics import StepReport
from pipelines.train.model import build_model
from pipelines.train.predict import predict
from pipelines.train.shape import ModelShape
from pipelines.train.step_shape import StepShape
from schemas.errors import ConfigError, MismatchError
from schemas.training import LoraConfig, TrainConfig

LORA = {"rank": 4, "alpha": 8}
HAS_BITS = importlib.util.find_spec("bitsandbytes") is not None
BASES = [
    "plain",
    pytest.param("nf4", marks=pytest.mark.skipif(not HAS_BITS, reason="needs bitsandbytes")),
]
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft"),
    # Of bitsandbytes and torchao, which peft imports where they are installed.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(Path(tmp_path_factory.mktemp("llm")), head_scale=8.0)


def lora_config(llm: Path, out: Path, base: str = "plain", steps: int = 8, **lora: object) -> TrainConfig:
    model = {"lora": LORA | {"base": base} | lora}
    return tiny_config(llm, out, model=model, run={"steps": steps})


def losses_of(config: TrainConfig, *, resume: bool = False) -> list[float]:
    reports: list[StepReport] = []
    run = tiny_run(config)
    checkpoint = None
    if resume:
        checkpoint = open_checkpoint(Path(config.out))
        run = tiny_run(config)
        object.__setattr__(run, "assembly", restore(checkpoint, to_train=True))
    train(run, checkpoint, reports.append)
    return [report.loss for report in reports]


def loss_of(assembly: Assembly) -> float:
    batch = collate_training([color_example(0), color_example(1, frames=2)], assembly.prompter)
    with torch.no_grad():
        return float(assembly.model.eval()(batch).total)


def test_adapters_and_what_is_not_the_language_model_train(llm: Path, tmp_path: Path) -> None:
    model = assemble(lora_config(llm, tmp_path), WIDTH).model
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    of_llm = {name for name in trained if name.startswith("llm.")}
    assert of_llm
    assert all(name.endswith((".lora_A.default.weight", ".lora_B.default.weight")) for name in of_llm)
    assert len(of_llm) == 2 * 7 * 2
    others = {name for name, _ in model.named_parameters() if not name.startswith("llm.")}
    assert trained - of_llm == others
    assert not any("lora" in name for name in others)
    grouped = {name for group in model.parameter_groups() for name, _ in group.parameters}
    assert grouped == trained


def test_rank_128_of_a_7b_model_is_320_million() -> None:
    with torch.device("meta"):
        llm = LlamaForCausalLM(LlamaConfig())
        model = build_model(llm, ModelShape(), 2)
        add_lora(model, LoraConfig(), seed=0)
    adapters = [weight for name, weight in model.llm.named_parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in adapters) == 319_815_680


def test_it_begins_as_the_model_does(llm: Path, tmp_path: Path) -> None:
    plain = assemble(tiny_config(llm, tmp_path), WIDTH)
    adapted = assemble(lora_config(llm, tmp_path), WIDTH)
    assert loss_of(adapted) == loss_of(plain)


@pytest.mark.parametrize("base", BASES)
def test_it_learns_and_leaves_the_base_alone(llm: Path, tmp_path: Path, base: str) -> None:
    config = lora_config(llm, tmp_path, base, steps=40)
    before = {
        name: tensor.clone()
        for name, tensor in assemble(config, WIDTH).model.llm.state_dict().items()
        if "lora_" not in name
    }
    losses = losses_of(config)
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    after = restore(open_checkpoint(tmp_path), to_train=True).model.llm.state_dict()
    assert before
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(float(tensor.abs().max()) > 0 for name, tensor in after.items() if "lora_B" in name)


@pytest.mark.parametrize("base", BASES)
def test_a_resumed_run_is_bit_equal(llm: Path, tmp_path: Path, base: str) -> None:
    straight = losses_of(lora_config(llm, tmp_path / "straight", base, dropout=0.1))
    parts = lora_config(llm, tmp_path / "parts", base, dropout=0.1)
    losses_of(parts)
    last = latest_checkpoint(tmp_path / "parts")
    assert last is not None
    assert last.name == "step-000008"
    last.rename(tmp_path / "parts/gone")
    assert losses_of(parts, resume=True) == straight[4:]


@pytest.mark.parametrize("base", BASES)
def test_in_the_end_there_are_plain_weights(llm: Path, tmp_path: Path, base: str) -> None:
    config = lora_config(llm, tmp_path / "run", base)
    train(tiny_run(config))
    checkpoint = open_checkpoint(tmp_path / "run")
    adapted, folded = restore(checkpoint, to_train=True), restore(checkpoint, to_train=False)
    assert not any("lora" in name or "base_layer" in name for name in folded.model.state_dict())
    assert loss_of(folded) == pytest.approx(loss_of(adapted), rel=1e-4 if base == "plain" else 0.02)
    export_model(folded, IDENTITY.spec, "tiny", tmp_path / "exported")
    plain = tiny_config(llm, tmp_path, model={"init_from": str(tmp_path / "exported")})
    again = assemble(plain, WIDTH)
    assert loss_of(again) == loss_of(folded)
    keys = read_foreign(tmp_path / "exported").keys()
    assert "model.layers.0.self_attn.q_proj.weight" in keys


def test_it_starts_from_what_was_trained_without(llm: Path, tmp_path: Path) -> None:
    train(tiny_run(tiny_config(llm, tmp_path / "1", 1)))
    start = {"start_from": str(tmp_path / "1")}
    assembly = assemble(lora_config(llm, tmp_path / "2", **{}), WIDTH)
    config = tiny_config(llm, tmp_path / "2", model={"lora": LORA} | start)
    begun = assemble(config, WIDTH)
    there = restore(open_checkpoint(tmp_path / "1"), to_train=True).model.projector.state_dict()
    own = begun.model.projector.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in there.items())
    assert begun.model.state_dict().keys() == assembly.model.state_dict().keys()


def test_other_adapters_are_refused(llm: Path, tmp_path: Path) -> None:
    train(tiny_run(lora_config(llm, tmp_path / "first", steps=4)))
    again = tiny_config(
        llm, tmp_path / "second", model={"lora": LORA | {"rank": 2}, "start_from": str(tmp_path / "first")}
    )
    with pytest.raises(MismatchError, match=r"was trained with `model\.lora"):
        assemble(again, WIDTH)


def test_what_does_not_go_together(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goes with stage 2"):
        tiny_config(llm, tmp_path, 1, model={"lora": LORA})


@pytest.mark.parametrize(
    ("base", "library", "extra"), [("plain", "peft", "lora"), ("nf4", "bitsandbytes", "qlora")]
)
def test_without_the_library(
    llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"needs {library}; install onetoken\[{extra}\]"):
        assemble(lora_config(llm, tmp_path, base), WIDTH)


def test_its_memory_is_predicted(llm: Path, tmp_path: Path) -> None:
    small = LlamaConfig(
        vocab_size=500, hidden_size=256, intermediate_size=704, num_hidden_layers=1, num_attention_heads=4
    )
    sections = {"data": {"batch": 2}, "run": {"dtype": "bfloat16"}}
    config = tiny_config(llm, tmp_path, model={"lora": {"rank": 16}}, **sections)
    step = StepShape(num_examples=2, num_tokens=30, num_labels=20, num_patches=36)
    plain = predict(small, config, step)
    assert plain.peak == pytest.approx(record_peak(small, config, step), rel=0.05)
    in_bits = tiny_config(llm, tmp_path, model={"lora": {"rank": 16, "base": "nf4"}}, **sections)
    projections = 4 * 256 * 256 + 3 * 256 * 704
    assert plain.weights - predict(small, in_bits, step).weights == projections * (2 - 0.5625)
