"""Pre-fusion layers: how they start, and that they are causal decoder layers of the model's own kind."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from operators.prefusion import Prefusion, PrefusionInit, zero_output_projections
from schemas.errors import ConfigError

SIZES = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROWS = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))


def make_prefusion(init: PrefusionInit, layers: int = 2) -> Prefusion:
    return Prefusion(LlamaConfig(**SIZES), layers, init)


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen2Config(**SIZES)], ids=["llama", "qwen2"])
def test_zero_start_is_the_identity_and_can_learn(config: LlamaConfig | Qwen2Config) -> None:
    prefusion = Prefusion(config, 2, "zero")
    fused = prefusion(ROWS)
    assert torch.equal(fused, ROWS)
    fused.square().sum().backward()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert prefusion.layers[0].get_submodule(name).weight.grad.any()


def test_random_start_changes_its_input() -> None:
    assert (make_prefusion("random")(ROWS) - ROWS).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Qwen2ForCausalLM])
def test_copied_layers_compute_the_models_first_layers(
    kind: type[LlamaForCausalLM] | type[Qwen2ForCausalLM],
) -> None:
    model = kind(kind.config_class(**SIZES)).eval()
    prefusion = Prefusion(model.config, 2, "copy")
    prefusion.copy_layers(model.model.layers)
    expected = model(inputs_embeds=ROWS, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(prefusion(ROWS), expected, rtol=1e-5, atol=1e-6)
    assert (expected - ROWS).abs().max() > 1e-3
    assert prefusion.layers[0].mlp.up_proj.weight is not model.model.layers[0].mlp.up_proj.weight


def test_later_rows_never_reach_earlier_ones() -> None:
    prefusion = make_prefusion("random")
    changed = ROWS.clone()
    changed[:, 4:] += 1.0
    before, after = prefusion(ROWS), prefusion(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_it_has_layers_and_nothing_else() -> None:
    names = {name.split(".")[1] for name, _ in make_prefusion("zero", 3).named_parameters()}
    assert names == {"layers"}
    assert len(make_prefusion("zero", 3).layers) == 3


def test_unusable_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 layer"):
        make_prefusion("zero", 0)
    with pytest.raises(ConfigError, match="lower num_prefusion_layers"):
        make_prefusion("copy", 2).copy_layers(make_prefusion("copy", 1).layers)
    with pytest.raises(ConfigError, match="Llama-like"):
        Prefusion(GPT2Config(n_layer=1, n_head=2, n_embd=8), 1, "random")
    with pytest.raises(ConfigError, match="o_proj and down_proj"):
        zero_output_projections(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))
