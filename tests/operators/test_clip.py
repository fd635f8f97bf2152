"""The cut encoder equals the whole one, its attention weights suffice, and its errors say what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.utils import logging as transformers_logging

from jobs.demo.encoder import write_demo_encoder
from operators.class_attention import TENSOR_NAMES, attend_from_class
from operators.clip import VisionEncoder, compute_weights_digest, load_encoder, read_processor
from operators.image import decode_image
from operators.preprocess import CLIP_PROCESSOR, normalize_views, render_views
from operators.views import plan_views
from schemas.errors import ConfigError, CorruptError, NotFoundError

TINY = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 56,
    "patch_size": 14,
}


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny towers as they lie on disk: CLIP, SigLIP, and a CLIP with its text half, as the Hub has it."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    models = {
        "clip": CLIPVisionModel(CLIPVisionConfig(**TINY)),
        "siglip": SiglipVisionModel(SiglipVisionConfig(**TINY)),
        "full": CLIPModel(
            CLIPConfig(
                vision_config=TINY,
                text_config={
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 1,
                    "vocab_size": 20,
                    "bos_token_id": 0,
                    "eos_token_id": 2,
                },
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(5, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def reference_rows(folder, pixels, layer, attention="sdpa"):
    """The whole tower, all hidden states kept."""
    tower_class = SiglipVisionModel if folder.name == "siglip" else CLIPVisionModel
    tower = tower_class.from_pretrained(folder, attn_implementation=attention).eval()
    with torch.inference_mode():
        return tower(pixels, output_hidden_states=True).hidden_states[layer]


@pytest.mark.parametrize("layer", [-1, -2, -3, -4])
@pytest.mark.parametrize("name", ["clip", "full"])
def test_the_cut_tower_equals_the_whole_one_bit_for_bit(folders, pixels, name, layer):
    output = load_encoder(str(folders / name), layer=layer).encode(pixels)
    expected = reference_rows(folders / name, pixels, layer)
    assert output.patches.shape == (5, 16, 48)
    assert torch.equal(output.patches, expected[:, 1:])
    assert torch.equal(output.class_row, expected[:, 0])


@pytest.mark.parametrize("layer", [-1, -2])
def test_siglip_has_patches_and_no_class_row(folders, pixels, layer):
    output = load_encoder(str(folders / "siglip"), layer=layer).encode(pixels)
    assert output.class_row is None
    assert torch.equal(output.patches, reference_rows(folders / "siglip", pixels, layer))


def test_layers_behind_the_chosen_one_are_neither_run_nor_kept(folders, pixels):
    encoder = load_encoder(str(folders / "clip"), layer=-3)
    assert len(encoder.layers) == TINY["num_hidden_layers"] - 2
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert (encoder.width, encoder.num_patches, encoder.size_px) == (48, 16, 56)
    assert not encoder.encode(pixels).patches.requires_grad


@pytest.mark.parametrize("layer", [0, 1, -5, -99])
def test_layers_that_do_not_exist_are_refused(folders, layer):
    with pytest.raises(ConfigError, match=f"encoder layer {layer}"):
        load_encoder(str(folders / "clip"), layer=layer)


def test_class_attention_equals_the_whole_tower_bit_for_bit(folders, pixels):
    tower = CLIPVisionModel.from_pretrained(folders / "clip", attn_implementation="eager").eval()
    seen = {}
    attention = tower.encoder.layers[-1].self_attn
    attention.k_proj.register_forward_hook(lambda _, __, output: seen.update(keys=output))
    attention.q_proj.register_forward_hook(lambda _, __, output: seen.update(queries=output))
    with torch.inference_mode():
        whole = tower(pixels, output_attentions=True, output_hidden_states=True)
    weights = load_encoder(str(folders / "clip")).last_layer_attention_weights()

    with torch.inference_mode():
        ours = attend_from_class(whole.hidden_states[-2], weights)

    def by_head(rows):
        return rows.view(5, 17, 3, 16).transpose(1, 2)

    assert sorted(weights.tensors) == list(TENSOR_NAMES)
    assert torch.equal(ours.attention, whole.attentions[-1][:, :, 0, 1:])
    assert torch.equal(ours.keys, by_head(seen["keys"])[:, :, 1:])
    assert torch.equal(ours.class_query, by_head(seen["queries"])[:, :, 0])
    assert 0 < ours.attention.sum(-1).max() < 1


def test_class_attention_needs_a_next_layer(folders):
    with pytest.raises(ConfigError, match="layer -1"):
        load_encoder(str(folders / "clip"), layer=-1).last_layer_attention_weights()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("num_views", [1, 4, 9])
def test_a_view_has_the_same_bits_in_any_batch(folders, num_views, batch_size):
    encoder = load_encoder(str(folders / "clip"))
    views = torch.randn(num_views, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    output = encoder.encode_fixed(views, batch_size)
    assert output.patches.shape == (num_views, 16, 48)
    for index, view in enumerate(views):
        alone = encoder.encode(view[None])
        assert torch.equal(output.patches[index], alone.patches[0])
        assert torch.equal(output.class_row[index], alone.class_row[0])


@pytest.mark.gpu
@pytest.mark.parametrize("num_views", [1, 3, 4, 5, 8, 9])
def test_on_a_gpu_a_fixed_batch_makes_views_independent_of_their_mates(folders, num_views):
    encoder = load_encoder(str(folders / "clip")).to("cuda")
    views = torch.randn(num_views, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    output = encoder.encode_fixed(views, batch_size=4)
    for index, view in enumerate(views):
        mates = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(index))
        mates[index % 3] = view
        alone = encoder.encode(mates)
        assert torch.equal(output.patches[index], alone.patches[index % 3])
        assert torch.equal(output.class_row[index], alone.class_row[index % 3])


def test_no_views_give_no_features(folders):
    assert load_encoder(str(folders / "clip")).encode_fixed(torch.zeros(0, 3, 56, 56), 4).patches.shape == (
        0,
        16,
        48,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_have_the_chosen_dtype(folders, pixels, dtype):
    encoder = load_encoder(str(folders / "clip"), dtype=dtype)
    output = encoder.encode(pixels)
    assert output.patches.dtype == output.class_row.dtype == encoder.dtype == dtype
    exact = load_encoder(str(folders / "clip")).encode(pixels).patches
    assert torch.nn.functional.cosine_similarity(output.patches.float(), exact, dim=-1).min() > 0.99


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_view_that_is_not_finite_spoils_no_other(folders, pixels, number):
    encoder = load_encoder(str(folders / "clip"))
    broken = pixels.clone()
    broken[3, 0, 0, 0] = number
    expected, found = encoder.encode_fixed(pixels, 2), encoder.encode_fixed(broken, 2)
    assert not found.patches[3].isfinite().all()
    others = [0, 1, 2, 4]
    assert torch.equal(found.patches[others], expected.patches[others])


def test_the_digest_covers_what_is_used_and_nothing_else(folders, tmp_path):
    def digest(folder, **options):
        return load_encoder(str(folder), **options).compute_weights_digest()

    def changed(name):
        folder = tmp_path / name
        shutil.copytree(folders / "clip", folder)
        tensors = load_file(folder / "model.safetensors")
        key = next(key for key in tensors if key.endswith(name))
        tensors[key] = tensors[key] + 1e-3
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    base = digest(folders / "clip")
    assert base == digest(folders / "clip")
    assert base == digest(changed("layers.3.mlp.fc1.bias"))
    assert base == digest(changed("post_layernorm.weight"))
    assert base == digest(changed("layers.3.self_attn.v_proj.weight"))
    different = {
        base,
        digest(changed("layers.2.mlp.fc1.bias")),
        digest(changed("class_embedding")),
        digest(changed("layers.3.self_attn.q_proj.weight")),
        digest(changed("layers.3.layer_norm1.bias")),
        digest(folders / "clip", layer=-3),
        digest(folders / "clip", dtype=torch.bfloat16),
    }
    assert len(different) == 7


def test_the_digest_tells_name_shape_and_dtype_apart():
    zeros = torch.zeros(4)
    tensors = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.view(2, 2)},
        {"a": zeros.int()},
        {"a": zeros, "b": zeros},
    ]
    assert len({compute_weights_digest(named) for named in tensors}) == len(tensors)
    assert compute_weights_digest({"a": zeros, "b": zeros + 1}) == compute_weights_digest(
        {"b": zeros + 1, "a": zeros}
    )


def test_missing_weights_are_not_filled_at_random(folders, tmp_path):
    shutil.copytree(folders / "clip", tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(path)
    del tensors[next(key for key in tensors if "layers.1.mlp.fc2.weight" in key)]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CorruptError, match="fc2"):
        load_encoder(str(tmp_path / "broken"))


def test_loading_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        load_encoder(str(tmp_path / "nowhere"))
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(ConfigError, match="llama"):
        load_encoder(str(tmp_path / "llama"))


def test_loading_is_quiet(folders, capfd):
    load_encoder(str(folders / "full"))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_processor_comes_with_the_model(folders, tmp_path):
    write_demo_encoder(tmp_path / "demo", seed=0)
    demo = load_encoder(str(tmp_path / "demo"))
    assert read_processor(str(tmp_path / "demo"), demo) == CLIP_PROCESSOR
    tiny = load_encoder(str(folders / "clip"))
    assert read_processor(str(folders / "clip"), tiny).size_px == 56
    with pytest.raises(ConfigError, match="336 px"):
        read_processor(str(tmp_path / "demo"), tiny)


def test_the_demo_encoder_is_clip_at_336_and_depends_on_its_seed_only(tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_demo_encoder(tmp_path / name, seed=seed, width=32, num_layers=2)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    encoder = load_encoder(str(tmp_path / "a"))
    assert (encoder.size_px, encoder.num_patches, encoder.width) == (336, 576, 32)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    output = encoder.encode(torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0)))
    assert output.patches.std(dim=1).min() > 0.01, "features must differ from patch to patch"


@pytest.mark.slow
@pytest.mark.real
def test_the_true_tower_encodes_real_pictures(media_folder, tmp_path):
    """ViT-L/14-336 with random weights: 5 views a picture, 576 patches of 1024 numbers, 0.6 GB."""
    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    torch.manual_seed(0)
    CLIPVisionModel(config).save_pretrained(tmp_path / "vit-l", max_shard_size="400MB")
    assert json.loads((tmp_path / "vit-l" / "config.json").read_text())["num_hidden_layers"] == 24
    encoder = load_encoder(str(tmp_path / "vit-l"), dtype=torch.bfloat16)
    features = []
    for name in ("waterview.jpg", "mscoco_twocat_000000039769.jpg"):
        image = decode_image((media_folder / "images" / name).read_bytes())
        views = render_views(image, plan_views(*image.size, "hd4", "pad"), CLIP_PROCESSOR)
        output = encoder.encode_fixed(torch.from_numpy(normalize_views(views, CLIP_PROCESSOR)), batch_size=5)
        assert output.patches.shape == (5, 576, 1024)
        assert output.class_row.shape == (5, 1024)
        assert bool(torch.isfinite(output.patches).all())
        features.append(output.patches)
    assert len(encoder.layers) == 23
    assert not torch.equal(*features)


def test_an_encoder_takes_its_tower_over():
    tower = CLIPVisionModel(CLIPVisionConfig(**TINY)).train()
    encoder = VisionEncoder(tower)
    assert not encoder.training
    assert encoder.layers[0] is tower.encoder.layers[0]
