"""Published weights in, and ours out under their names: round trips, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from tiny_training import IDENTITY, WIDTH, save_language_model, tiny_config, tiny_run

from pipelines.train.assembly import Assembly, assemble, restore
from pipelines.train.checkpoint import open_checkpoint
from pipelines.train.export import export_model
from pipelines.train.foreign import load_foreign
from pipelines.train.foreign_files import find_weights, read_foreign
from pipelines.train.loop import train
from pipelines.train.published import published_weights
from pipelines.train.tensor_file import write_tensors
from schemas.errors import ConfigError, ConflictError, CorruptError, MismatchError, NotFoundError


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def fresh(llm: Path, out: Path, seed: int = 0, **model: object) -> Assembly:
    return assemble(tiny_config(llm, out, model=model, run={"seed": seed}), WIDTH)


def shift(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What training might have made of them; fixed tables stay."""
    return {key: tensor + 0.25 if "pos_embed" not in key else tensor for key, tensor in weights.items()}


def test_a_trained_model_goes_out_and_comes_in_again(llm: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(train(tiny_run(tiny_config(llm, tmp_path / "run", run={"steps": 1}))))
    trained = restore(checkpoint, to_train=False)
    folder = export_model(trained, IDENTITY.spec, "openai/clip", tmp_path / "exported")
    config = json.loads((folder / "config.json").read_text())
    assert (config["compressor_size"], config["prefusion_layer_num"]) == (1, 1)
    assert (config["mm_projector_type"], config["mm_hidden_size"]) == ("mlp2x_gelu", WIDTH)
    assert (folder / "tokenizer.json").is_file()
    again = fresh(llm, tmp_path, seed=7, init_from=str(folder))
    expected, found = published_weights(trained.model), published_weights(again.model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    with pytest.raises(ConflictError, match="holds files"):
        export_model(trained, IDENTITY.spec, "openai/clip", folder)


def save_shards(weights: dict[str, torch.Tensor], folder: Path, form: str) -> None:
    """In two files and an index, as the library of the release writes them."""
    stem = "model" if form == "safetensors" else "pytorch_model"
    half = len(weights) // 2
    index: dict[str, str] = {}
    folder.mkdir()
    for number, keys in enumerate((sorted(weights)[:half], sorted(weights)[half:]), 1):
        name = f"{stem}-0000{number}-of-00002.{form}"
        shard = {key: weights[key] for key in keys}
        write_tensors(shard, folder / name) if form == "safetensors" else torch.save(shard, folder / name)
        index |= dict.fromkeys(keys, name)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / f"{stem}.{form}.index.json").write_text(text)


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_llava_gives_projector_and_language_model(llm: Path, tmp_path: Path, form: str) -> None:
    """LLaVA-1.5 has no compressor and no pre-fusion: one stays as drawn, the other copies new layers.

    Its release has the projector once more beside the shards, and trainers leave their arguments there.
    """
    original = fresh(llm, tmp_path)
    llava = {
        key: tensor
        for key, tensor in shift(published_weights(original.model)).items()
        if "compressor" not in key and "prefusion" not in key
    }
    llava["model.vision_tower.vision_tower.x"] = torch.zeros(2)
    llava["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(2)
    folder = tmp_path / "llava"
    save_shards(llava, folder, form)
    again = {key: torch.zeros_like(tensor) for key, tensor in llava.items() if "mm_projector" in key}
    torch.save(again, folder / "mm_projector.bin")
    torch.save(["arguments"], folder / "training_args.bin")
    prefusion = {"layers": 1, "init": "copy"}
    model = fresh(llm, tmp_path, init_from=str(folder), prefusion=prefusion).model
    found, before = published_weights(model), published_weights(original.model)
    for key, tensor in found.items():
        if key in llava:
            assert torch.equal(tensor, llava[key]), key
        elif "compressor" in key:
            assert torch.equal(tensor, before[key]), key
    copied = "model.prefusion_layers.0.mlp.up_proj.weight"
    assert torch.equal(found[copied], llava["model.layers.0.mlp.up_proj.weight"])


def test_a_projector_alone(llm: Path, tmp_path: Path) -> None:
    original = published_weights(fresh(llm, tmp_path).model)
    projector = {key: tensor for key, tensor in shift(original).items() if "mm_projector" in key}
    assert len(projector) == 4
    torch.save(projector, tmp_path / "mm_projector.bin")
    found = published_weights(fresh(llm, tmp_path, init_from=str(tmp_path / "mm_projector.bin")).model)
    for key, tensor in found.items():
        assert torch.equal(tensor, projector.get(key, original[key])), key


@pytest.mark.parametrize("missing", ["model.compressor.query", "model.layers.1.mlp.up_proj.weight"])
def test_a_part_is_given_whole_or_not_at_all(llm: Path, tmp_path: Path, missing: str) -> None:
    model = fresh(llm, tmp_path).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = shift(published_weights(model))
    del weights[missing]
    with pytest.raises(MismatchError, match="is None there and"):
        load_foreign(model, weights, "there")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_read_is_refused(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no weights at"):
        read_foreign(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"no pickle")
    with pytest.raises(CorruptError, match=r"a\.bin"):
        read_foreign(tmp_path)
    torch.save([1, 2], tmp_path / "a.bin")
    with pytest.raises(CorruptError, match="no table of tensors"):
        read_foreign(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        write_tensors({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(CorruptError, match="x a second time"):
        read_foreign(tmp_path)
    with pytest.raises(ConfigError, match="give either start_from"):
        tiny_config(llm, tmp_path, model={"start_from": "a", "init_from": "b"})


def test_one_model_is_found_in_a_folder_of_several_files(tmp_path: Path) -> None:
    """From the least to the most telling name; each file that comes is preferred to those before."""
    names = ["b.bin", "a.bin", "a.safetensors", "mm_projector.bin", "pytorch_model.bin", "model.safetensors"]
    found: list[list[str]] = []
    for name in names:
        (tmp_path / name).touch()
        found.append([path.name for path in find_weights(tmp_path)])
    assert found == [["b.bin"], ["a.bin", "b.bin"], *([name] for name in names[2:])]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "is no index of weights"),
        ("{}", "is no index of weights"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": "b.safetensors"}}', r"names b\.safetensors, which is not in its folder"),
        ('{"weight_map": {"a": "../x/outside.safetensors"}}', r"names \.\./x/outside\.safetensors"),
    ],
)
def test_an_index_names_files_of_its_folder(tmp_path: Path, index: str, words: str) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    write_tensors({"a": torch.zeros(1)}, folder / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CorruptError, match=words):
        read_foreign(folder)


def test_tensors_that_are_unknown_are_refused(llm: Path, tmp_path: Path) -> None:
    model = fresh(llm, tmp_path).model
    weights = published_weights(model) | {"model.router.weight": torch.zeros(3)}
    with pytest.raises(MismatchError, match=r"model.router.weight is \(3,\) there and None here"):
        load_foreign(model, weights, "there")
