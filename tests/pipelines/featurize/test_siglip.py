"""A tower without a class token, from media to a cache: against its own processor and the whole tower."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from encodable_inputs import TOWER, make_clip, make_pictures, make_recipe
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from infra.storage import LocalStorage
from operators.clip import load_encoder, read_processor
from operators.feature_file import read_header
from operators.preprocess import SIGLIP_PROCESSOR
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.featurize.single import MediumEncoder
from pipelines.featurize.spec import describe_spec, open_encoder
from pipelines.stream.reader import FeatureReader
from pipelines.stream.reducing import ReducingReader
from pipelines.upkeep.verify import verify
from schemas.digest import sha256_hex
from schemas.errors import ConfigError, MismatchError
from schemas.feature import FeatureSpec
from schemas.record import MediumKind
from schemas.reducer import ReducerConfig

SIZE_PX = 42
NUM_PATCHES = 9
PRUMERGE = ReducerConfig(name="prumerge")


def write_siglip(folder):
    """A random tower at 42/14 with its own image processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tower = SiglipVisionModel(SiglipVisionConfig(**TOWER | {"image_size": SIZE_PX}))
    tower.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return write_siglip(tmp_path_factory.mktemp("towers") / "siglip")


def recipe_of(inputs, siglip, **changes):
    encoder = {"model": str(siglip), "dtype": "float32", "batch_size": 3}
    return make_recipe(inputs, **{"encoder": encoder} | changes)


def describe(recipe):
    return describe_spec(recipe.views, recipe.encoder, recipe.codec, open_encoder(recipe.encoder))


@pytest.fixture(scope="module")
def made(inputs, siglip, _sharded_template, tmp_path_factory):
    """A corpus with a SigLIP cache in fp16; nobody changes it."""
    root = tmp_path_factory.mktemp("siglip") / "corpus"
    shutil.copytree(_sharded_template.url, root)
    storage = LocalStorage(root)
    return storage, *featurize(recipe_of(inputs, siglip), storage, SerialEngine())


def reference_rows(siglip, view):
    """`hidden_states[-2]` of one view by transformers alone."""
    processor = SiglipImageProcessorPil.from_pretrained(siglip)
    pixels = torch.as_tensor(np.array(processor(view)["pixel_values"][0]))[None]
    tower = SiglipVisionModel.from_pretrained(siglip).eval()
    with torch.inference_mode():
        return tower(pixels, output_hidden_states=True).hidden_states[-2][0]


def test_features_are_the_towers_own_bit_for_bit(siglip, made):
    """A square picture: its quarters, row by row, and the whole last; fp16 rounds what fp32 gives."""
    storage, digest, manifest = made
    data = make_pictures()["square.webp"]
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    half = picture.width // 2
    boxes = [(left, top, left + half, top + half) for top in (0, half) for left in (0, half)]
    views = [*(picture.crop(box) for box in boxes), picture]
    rows = torch.stack([reference_rows(siglip, view) for view in views])
    encoder = MediumEncoder(FeatureReader(storage, manifest, digest).spec, str(siglip))
    rendered = encoder.render(data, MediumKind.IMAGE).views
    assert torch.equal(encoder.compute_patches(rendered), rows)
    (cached,) = FeatureReader(storage, manifest, digest).read_item(sha256_hex(data)[:32])
    assert cached.patches.shape == (1, 5, NUM_PATCHES, TOWER["hidden_size"])
    assert torch.equal(cached.patches[0], rows.half())


def test_views_that_are_no_squares_are_stretched_as_its_processor_does(inputs, siglip):
    recipe = recipe_of(inputs, siglip, views={"image": "global", "aspect": "published"})
    encoder = MediumEncoder(describe(recipe), str(siglip))
    data = make_pictures()["wide.jpg"]
    rows = reference_rows(siglip, Image.open(io.BytesIO(data)).convert("RGB"))
    (found,) = encoder.compute_patches(encoder.render(data, MediumKind.IMAGE).views)
    assert torch.equal(found, rows)


def test_spec_file_and_reader_say_that_there_is_no_class_row(inputs, siglip, made):
    storage, digest, manifest = made
    reader = FeatureReader(storage, manifest, digest)
    assert reader.spec.encoder.class_row is False
    assert reader.spec.processor.mean == (0.5, 0.5, 0.5)
    assert (reader.spec.processor.size_px, reader.spec.processor.center_crop) == (SIZE_PX, False)
    (shard, *_), sizes = reader.list_shards(), []
    for key in reader.list_keys(shard):
        (medium,) = reader.read_with_class_rows(key, shard)
        assert medium.class_rows is None
        sizes.append(medium.patches[0, 0].numel() * 2)
    entry = next(one for one in manifest.features[digest].shards if one.name == shard)
    tar = storage.local_path(entry.tar.path).read_bytes()
    header = read_header(memoryview(tar)[512:])
    assert not header.has_class_rows
    assert {view.length for view in header.views} == set(sizes), "patches and nothing else"


def test_the_spec_of_a_tower_with_a_class_row_says_nothing_of_it(inputs, siglip):
    clip, other = describe(make_recipe(inputs)), describe(recipe_of(inputs, siglip))
    assert "class_row" not in clip.model_dump(mode="json")["encoder"]
    assert other.model_dump(mode="json")["encoder"]["class_row"] is False
    for spec in (clip, other):
        assert FeatureSpec.model_validate_json(json.dumps(spec.model_dump(mode="json"))) == spec
    assert "encoder.class_row is True here and False wanted" in clip.list_differences(other)


def test_one_medium_by_itself_is_encoded_as_in_the_cache(siglip, made):
    storage, digest, manifest = made
    reader = FeatureReader(storage, manifest, digest)
    encoder = MediumEncoder(reader.spec, str(siglip))
    for data, kind in [
        (make_pictures()["clear.png"], MediumKind.IMAGE),
        (make_clip(), MediumKind.VIDEO),
    ]:
        (cached,) = reader.read_item(sha256_hex(data)[:32])
        fresh = encoder.encode(data, kind)
        assert fresh.class_rows is None
        assert torch.equal(fresh.patches, cached.patches)


def test_it_is_verified_and_reused_like_any_other(inputs, siglip, made, new_corpus, encoded_counts):
    storage, digest, manifest = made
    report = verify(storage, SerialEngine())
    assert not report.findings, report.findings
    there = new_corpus("there")
    found = featurize(recipe_of(inputs, siglip), there, SerialEngine(), reuse=storage)
    assert not encoded_counts
    assert found[0] == digest
    assert found[1].features[digest].shards == manifest.features[digest].shards


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus", "tome"])
def test_reducers_that_ask_for_the_class_token_are_refused(inputs, siglip, made, encoded_counts, name):
    storage, digest, manifest = made
    config = ReducerConfig(name=name)
    with pytest.raises(ConfigError, match=f"`reducer: {name}` asks what the class token looks at"):
        featurize(recipe_of(inputs, siglip, reducer=name), storage, SerialEngine())
    with pytest.raises(ConfigError, match="use another reducer, or a CLIP encoder"):
        ReducingReader(storage, manifest, digest, config)
    encoder = MediumEncoder(FeatureReader(storage, manifest, digest).spec, str(siglip))
    with pytest.raises(ConfigError, match="use another reducer"):
        encoder.make_reducer(config)
    assert not encoded_counts


def test_reducers_that_look_at_patches_alone_shorten_it(inputs, siglip, new_corpus, made):
    storage = new_corpus("pooled")
    recipe = recipe_of(inputs, siglip, reducer={"name": "average", "tokens": 1})
    digest, manifest = featurize(recipe, storage, SerialEngine())
    key = sha256_hex(make_clip())[:32]
    (pooled,) = FeatureReader(storage, manifest, digest).read_item(key)
    whole, whole_digest, whole_manifest = made
    (patches,) = FeatureReader(whole, whole_manifest, whole_digest).read_item(key)
    assert pooled.counts == (1, 1, 1)
    expected = patches.patches.float().mean(dim=2)
    torch.testing.assert_close(pooled.patches[:, 0].float(), expected, rtol=2e-3, atol=2e-3)


def test_a_cache_of_patches_alone_is_not_taken_for_one_with_class_rows(made):
    """A header that says otherwise than the spec is a mismatch, not a shift by a row."""
    storage, digest, manifest = made
    reader = FeatureReader(storage, manifest, digest)
    encoder = reader.spec.encoder.model_copy(update={"class_row": True})
    reader.spec = reader.spec.model_copy(update={"encoder": encoder})
    shard = reader.list_shards()[0]
    with pytest.raises(MismatchError, match="class rows"):
        reader.read_item(reader.list_keys(shard)[0], shard=shard)


def test_a_processor_is_not_guessed(siglip, tmp_path):
    shutil.copytree(siglip, tmp_path / "bare")
    (tmp_path / "bare/preprocessor_config.json").unlink()
    encoder = load_encoder(str(tmp_path / "bare"))
    with pytest.raises(ConfigError, match=r"brings no preprocessor_config\.json"):
        read_processor(str(tmp_path / "bare"), encoder)
    short = {"do_resize": True, "size": {"height": SIZE_PX, "width": SIZE_PX}}
    (tmp_path / "bare/preprocessor_config.json").write_text(json.dumps(short))
    assert read_processor(str(tmp_path / "bare"), encoder) == replace(SIGLIP_PROCESSOR, size_px=SIZE_PX)


def test_siglip_2_of_any_size_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(ConfigError, match=r"NaFlex.*fixed size"):
        load_encoder(str(tmp_path))
