"""Language models that can be used and those that cannot; what is cast to what."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import WIDTH, save_language_model, tiny_config, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from pipelines.train.assembly import assemble
from pipelines.train.precision import cast_weights, choose_device, take_device
from schemas.errors import ConfigError
from schemas.training import RunConfig


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def test_nothing_at_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.llm.*cannot be loaded"):
        assemble(tiny_config(tmp_path / "nowhere", tmp_path), WIDTH)


def test_a_model_that_is_not_like_llama(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="GPT2LMHeadModel and lacks embed_tokens, layers, norm"):
        assemble(tiny_config(tmp_path, tmp_path), WIDTH)


def test_a_model_with_weights_missing(tmp_path: Path) -> None:
    save_language_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack weights: model\.layers\.1\.mlp\.up_proj\.weight"):
        assemble(tiny_config(tmp_path, tmp_path), WIDTH)


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    save_language_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        assemble(tiny_config(tmp_path, tmp_path), WIDTH)
    assert not (tmp_path / "ran").exists()


def test_without_a_chat_template_stage_2_needs_one_by_name(tmp_path: Path) -> None:
    save_language_model(tmp_path, template=None)
    with pytest.raises(ConfigError, match="no chat template"):
        assemble(tiny_config(tmp_path, tmp_path), WIDTH)
    assert assemble(
        tiny_config(tmp_path, tmp_path, model={"template": "vicuna_v1"}), WIDTH
    ).prompter.stop_ids == {1}
    assert assemble(tiny_config(tmp_path, tmp_path, stage=1), WIDTH).model.stage == 1


def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    save_language_model(tmp_path)
    larger = tiny_tokenizer()
    larger.add_tokens([f"word{number}" for number in range(9)])
    larger.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="knows 269 tokens"):
        assemble(tiny_config(tmp_path, tmp_path), WIDTH)


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_that_train_stay_in_float32(llm: Path, tmp_path: Path, stage: int) -> None:
    model = assemble(tiny_config(llm, tmp_path, stage, run={"dtype": "bfloat16"}), WIDTH).model
    dtypes = {weight.requires_grad: weight.dtype for weight in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert all((w.dtype is torch.float32) == w.requires_grad for w in model.parameters())


def test_casting_keeps_ties(tmp_path: Path) -> None:
    llm = save_language_model(tmp_path / "llm", tied=True)
    model = assemble(tiny_config(llm, tmp_path), WIDTH).model
    model.requires_grad_(False)
    cast_weights(model, torch.bfloat16)
    assert model.head.weight is model.token_embeddings.weight
    assert model.head.weight.dtype is torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"run\.device"):
        choose_device(RunConfig(device="cuda"))
    assert choose_device(RunConfig(device="auto")) == torch.device("cpu")


def test_a_device_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several GPUs the numbered one."""
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    run = RunConfig()
    assert [take_device(run, name).device for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda"]
    assert taken == [1]
    for name in ("mps", "cuda:one"):
        with pytest.raises(ConfigError, match=name):
            take_device(run, name)
