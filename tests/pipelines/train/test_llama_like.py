"""Language models that training by parts computes as the library does, and those that it would not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, Say, tiny_batch
from tiny_training import WIDTH, save_language_model, tiny_config, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from operators.batch import IGNORED_LABEL
from pipelines.train.assembly import assemble
from pipelines.train.llama_like import check_language_model
from pipelines.train.model import build_model
from pipelines.train.shape import ModelShape
from schemas.errors import ConfigError

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NEUTRAL_GRANITE: dict[str, Any] = {"attention_multiplier": 8**-0.5}
"""Whose other multipliers are 1 unless given."""

USABLE = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma": {},
    "granite": NEUTRAL_GRANITE | {"residual_multiplier": 0.3},
}
UNUSABLE = [
    ("cohere", {}, "scales or caps its logits"),
    ("granite", NEUTRAL_GRANITE | {"logits_scaling": 8.0}, "scales or caps its logits"),
    ("granite", NEUTRAL_GRANITE | {"embedding_multiplier": 12.0}, "changes token embeddings"),
    ("gemma2", {}, "."),
    ("gemma2", {"attn_logit_softcapping": None}, "scales or caps its logits"),
    ("gemma2", {"final_logit_softcapping": None}, "attends in a way that the fused kernel does not know"),
    (
        "gpt_oss",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        "attends otherwise",
    ),
]


def make_llm(kind: str, settings: dict[str, Any]) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | settings)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", USABLE)
def test_usable_models_have_the_loss_of_the_library(kind: str, dtype: torch.dtype) -> None:
    """Also with pre-fusion, which is the identity at first."""
    llm = make_llm(kind, USABLE[kind]).to(dtype)
    layers, norm, attention = llm.base_model.layers, llm.base_model.norm, llm.config._attn_implementation
    check_language_model(llm, kind)
    assert (llm.base_model.layers, llm.base_model.norm) == (layers, norm)
    assert llm.config._attn_implementation == attention
    llm.float()
    batch = tiny_batch([[Say("human", 9), Say("gpt", 7)]])
    theirs = llm(input_ids=batch.token_ids, labels=batch.labels).loss
    shape = ModelShape(encoder_width=16, num_prefusion_layers=1, num_compressor_heads=2)
    model = build_model(llm, shape, 2)
    ours = model(batch)
    assert int((batch.labels != IGNORED_LABEL).sum()) == ours.num_labels == 7
    assert torch.allclose(ours.total / 7, theirs, rtol=1e-5)
    assert model.prefusion is not None
    rows = torch.randn(2, 5, 32)
    assert torch.equal(model.prefusion(rows), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "settings", "habit"), UNUSABLE)
def test_models_that_do_more_than_their_parts_are_refused(
    kind: str, settings: dict[str, Any], habit: str, dtype: torch.dtype
) -> None:
    llm = make_llm(kind, settings).to(dtype)
    with pytest.raises(ConfigError, match=habit) as refusal:
        check_language_model(llm, "theirs")
    assert "`model.llm: theirs` is a" in str(refusal.value)
    assert "Mistral" in str(refusal.value)


def test_a_cohere_is_refused_before_a_model_is_put_together(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    make_llm("cohere", {"vocab_size": len(tokenizer)}).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="CohereForCausalLM and scales or caps its logits"):
        assemble(tiny_config(tmp_path, tmp_path), WIDTH)
    save_language_model(tmp_path)
    assert assemble(tiny_config(tmp_path, tmp_path), WIDTH).model.stage == 2
