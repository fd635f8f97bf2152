"""A trained model as the published LLaVA-Mini code names it: safetensors, a configuration, a tokenizer.

Names and shapes of weights are those of the released code; of its configuration, the fields that say how the
parts are built (compressor_size, prefusion_layer_num, the projector's type, the vision tower) are written
beside the language model's own. Without a compressor it is LLaVA-1.5's layout, and named so. What neither can
say is refused. The vision tower itself is not here: the published code loads it by name.
"""

import json
from pathlib import Path
from typing import Any, cast

from pipelines.train.assembly import Assembly
from pipelines.train.expressible import check_expressible
from pipelines.train.model import OneTokenModel
from pipelines.train.older_library import older_config, older_rules, write_older_tokenizer
from pipelines.train.published import published_weights
from pipelines.train.tensor_file import write_tensors
from schemas.errors import ConflictError
from schemas.feature import FeatureSpec

WEIGHTS_FILE = "model.safetensors"


def export_model(assembly: Assembly, spec: FeatureSpec, encoder: str, folder: Path) -> Path:
    """Write a model into a folder that is not there yet, or empty.

    Raises:
        ConflictError: the folder holds files.
        MismatchError: the published code would compute another model.
    """
    model = assembly.model
    check_expressible(model, spec)
    rules = older_rules(assembly.tokenizer)
    if folder.exists() and any(folder.iterdir()):
        raise ConflictError(f"{folder} holds files; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: tensor.clone() for key, tensor in published_weights(model).items()}
    write_tensors(weights, folder / WEIGHTS_FILE)
    write_older_tokenizer(assembly.tokenizer, rules, folder)
    config = published_config(model, spec, encoder)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    return folder


def published_config(model: OneTokenModel, spec: FeatureSpec, encoder: str) -> dict[str, Any]:
    """The language model's configuration, and how the other parts are built."""
    dtype = str(model.token_embeddings.weight.dtype).removeprefix("torch.")
    config = older_config(cast("dict[str, Any]", cast(Any, model.llm.config).to_dict()), dtype)
    config |= {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "mm_vision_tower": encoder,
        "mm_vision_select_layer": spec.encoder.layer,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": spec.encoder.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
    }
    if model.compressor is not None:
        config |= {
            "architectures": ["LlavaMiniLlamaForCausalLM"],
            "model_type": "llava_mini",
            "compressor_size": model.shape.grid,
            "prefusion_layer_num": model.shape.num_prefusion_layers,
        }
    return config
