"""Cached features against a slow, obvious reference: Pillow, transformers' own processor, the whole tower."""

import io
import math

import av
import numpy as np
import pytest
import torch
import webdataset
from encodable_inputs import SIZE_PX, make_clip, make_pictures, make_recipe, recipe_values
from PIL import Image, ImageOps
from transformers import CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from operators.class_attention import attend_from_class
from operators.codec import decode_views, identify_codec, open_codec
from operators.feature_file import open_section, read_header, view_range
from pipelines.commit import read_object
from pipelines.engine import SerialEngine
from pipelines.featurize import single
from pipelines.featurize.attention import pack_attention, read_attention
from pipelines.featurize.flow import featurize
from pipelines.featurize.reduced import encode_views
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.reader import FeatureReader
from schemas.configuration import build
from schemas.digest import sha256_hex
from schemas.errors import ConfigError, CorruptError
from schemas.recipe import Recipe
from schemas.record import MediumKind

BATCH_SIZE = 4
LAYER = -2


def key_of(data):
    return sha256_hex(data)[:32]


class Reference:
    """Everything that is cached of a medium, one view at a time."""

    def __init__(self, inputs, dtype=torch.float32):
        self._processor = CLIPImageProcessorPil.from_pretrained(inputs / "encoder")
        self._dtype = dtype
        self.tower = CLIPVisionModel.from_pretrained(
            inputs / "encoder", dtype=dtype, attn_implementation="eager"
        ).eval()
        self._tower = CLIPVisionModel.from_pretrained(inputs / "encoder", dtype=dtype).eval()

    def picture_views(self, data):
        """Upright RGB on white, on a square of the mean colour; its quarters, row by row, and the whole."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        whole = self._pad(image.convert("RGB"))
        half = whole.width // 2
        quarters = [(0, 0), (half, 0), (0, half), (half, half)]
        crops = [whole.crop((left, top, left + half, top + half)) for left, top in quarters]
        return [*crops, whole]

    def clip_views(self, data):
        """Every second frame of a clip at two a second."""
        with av.open(io.BytesIO(data)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return [self._pad(Image.fromarray(frame)) for frame in frames[::2]]

    def rows(self, views):
        """`hidden_states[-2]` of each view, class row first."""
        return torch.stack([self._encode(view) for view in views])

    def normalize(self, view):
        return torch.as_tensor(np.array(self._processor(view)["pixel_values"][0])).to(self._dtype)

    def _encode(self, view):
        batch = torch.zeros(BATCH_SIZE, 3, SIZE_PX, SIZE_PX, dtype=self._dtype)
        batch[0] = self.normalize(view)
        with torch.inference_mode():
            return self._tower(batch, output_hidden_states=True).hidden_states[LAYER][0]

    def _pad(self, image):
        side = max(image.size)
        mean = tuple(int(255 * channel) for channel in self._processor.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


@pytest.fixture(scope="module")
def reference(inputs):
    return Reference(inputs)


@pytest.fixture(scope="module")
def expected(reference):
    """Rows of every medium by its key, in fp32."""
    rows = {key_of(data): reference.rows(reference.picture_views(data)) for data in make_pictures().values()}
    clip = make_clip()
    return rows | {key_of(clip): reference.rows(reference.clip_views(clip))}


def read_files(storage, features):
    """Feature files by key, as any user of webdataset reads them."""
    urls = [str(storage.local_path(entry.tar.path)) for entry in features.shards]
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    return {sample["__key__"]: sample["feat.bin"] for sample in samples}


def read_rows(data):
    """Class rows and patches of all views of a feature file."""
    header = read_header(data)
    codec = open_codec(identify_codec(header.codec))
    class_rows, payloads = [], []
    for index in range(len(header.views)):
        offset, length = view_range(header, index)
        section = open_section(header, index, data[offset : offset + length])
        class_rows.append(section.class_row)
        payloads.append(section.payload)
    patches = decode_views(codec, payloads, header.num_patches, header.width)
    return torch.stack(class_rows), patches


def test_the_fp16_cache_is_the_reference_rounded_to_half(featurized, expected):
    storage, digest, manifest = featurized
    files = read_files(storage, manifest.features[digest])
    assert files.keys() == expected.keys()
    assert sorted(len(rows) for rows in expected.values()) == [3] + 8 * [5]
    for key, rows in expected.items():
        class_rows, patches = read_rows(files[key])
        assert torch.equal(patches, rows[:, 1:].half())
        assert torch.equal(class_rows, rows[:, 0].half())


def test_views_of_a_picture_differ_and_the_whole_is_last(reference, expected):
    data = make_pictures()["wide.jpg"]
    rows = expected[key_of(data)]
    assert len({row.numpy().tobytes() for row in rows}) == 5
    whole = reference.rows(reference.picture_views(data)[-1:])
    assert torch.equal(rows[-1:], whole)


def test_the_int8_cache_is_within_its_bound(inputs, expected, new_corpus):
    storage = new_corpus("int8")
    digest, manifest = featurize(make_recipe(inputs, codec="int8"), storage, SerialEngine())
    files = read_files(storage, manifest.features[digest])
    assert files.keys() == expected.keys()
    for key, rows in expected.items():
        class_rows, patches = read_rows(files[key])
        wanted = rows[:, 1:]
        assert torch.equal(class_rows, rows[:, 0].half())
        low, high = wanted.amin(dim=1, keepdim=True), wanted.amax(dim=1, keepdim=True)
        # Half a step, where a token's scale is up to three times the least of the view.
        assert bool(((patches.float() - wanted).abs() <= (high - low) / 510 * 3).all())
        codec = open_codec(identify_codec("int8"))
        assert torch.equal(patches, decode_views(codec, codec.encode(wanted), *wanted.shape[1:]))
        assert not torch.equal(patches, wanted.half())


def test_the_reader_gives_frames_and_views_in_order(featurized, expected):
    storage, digest, manifest = featurized
    reader = FeatureReader(storage, manifest, digest)
    for key, rows in expected.items():
        (medium,) = reader.read_item(key)
        frames, views = medium.patches.shape[:2]
        assert (frames, views) == ((3, 1) if len(rows) == 3 else (1, 5))
        assert torch.equal(medium.patches.flatten(0, 1), rows[:, 1:].half())


@pytest.mark.parametrize(("batch_size", "num_threads", "num_decoders"), [(1, 2, 1), (3, 1, 2), (8, 2, 2)])
def test_batches_threads_and_decoders_change_no_byte(
    inputs, featurized, new_corpus, batch_size, num_threads, num_decoders
):
    there = new_corpus("there")
    values = recipe_values(inputs)
    values["encoder"]["batch_size"] = batch_size
    torch.set_num_threads(num_threads)
    try:
        found = featurize(build(values, Recipe, "tiny"), there, SerialEngine(), num_decoders=num_decoders)
    finally:
        torch.set_num_threads(1)
    assert found == featurized[1:]
    for path in featurized[0].list(f"features/{featurized[1]}"):
        assert there.read_bytes(path) == featurized[0].read_bytes(path), path


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_one_medium_by_itself_is_encoded_as_in_the_cache(inputs, new_corpus, codec):
    storage = new_corpus("corpus")
    recipe = make_recipe(inputs, codec=codec)
    digest, manifest = featurize(recipe, storage, SerialEngine())
    reader = FeatureReader(storage, manifest, digest)
    encoder = MediumEncoder(reader.spec, recipe.encoder.model, batch_size=BATCH_SIZE)
    media = [(data, MediumKind.IMAGE) for data in make_pictures().values()]
    for data, kind in [*media, (make_clip(), MediumKind.VIDEO)]:
        (cached,) = reader.read_item(key_of(data))
        assert torch.equal(encoder.encode(data, kind).patches, cached.patches)


@pytest.mark.parametrize("reducer", [None, "prumerge"])
def test_one_medium_by_itself_is_the_same_bytes_on_many_threads(inputs, new_corpus, monkeypatch, reducer):
    """All that decides bytes runs on one thread: the encoder, the reducer and the codec."""
    storage = new_corpus("corpus")
    recipe = make_recipe(inputs, codec="int8", reducer=reducer)
    digest, manifest = featurize(recipe, storage, SerialEngine())
    reader = FeatureReader(storage, manifest, digest)
    encoder = MediumEncoder(reader.spec, recipe.encoder.model, batch_size=BATCH_SIZE)
    made, threads = [], set()

    def watch(*arguments):
        threads.add(torch.get_num_threads())
        made.append(encode_views(*arguments))
        return made[-1]

    monkeypatch.setattr(single, "encode_views", watch)
    data = make_pictures()["wide.jpg"]
    torch.set_num_threads(2)
    try:
        encoder.encode(data, MediumKind.IMAGE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    (stored,) = reader.read_stored(key_of(data), reader.find_shard(key_of(data)))
    assert made == [[bytes(payload) for payload in stored.payloads]]
    assert threads == {1}


def test_a_cached_half_precision_row_gives_attention_bit_for_bit(inputs, new_corpus):
    """An fp16 tower: the cache loses nothing, so class attention is that of transformers' eager layer."""
    settings = {"model": str(inputs / "encoder"), "dtype": "float16", "batch_size": BATCH_SIZE}
    storage = new_corpus("half")
    digest, manifest = featurize(make_recipe(inputs, encoder=settings), storage, SerialEngine())
    features = manifest.features[digest]
    weights = read_attention(read_object(storage, features.attention))
    reference = Reference(inputs, torch.float16)
    files = read_files(storage, features)
    for data in make_pictures().values():
        class_rows, patches = read_rows(files[key_of(data)])
        rows = reference.rows(reference.picture_views(data))
        assert torch.equal(torch.cat([class_rows[:, None], patches], dim=1), rows)
        found = attend_from_class(torch.cat([class_rows[:, None], patches], dim=1), weights)
        wanted = attend_from_class(rows, weights)
        assert torch.equal(found.attention, wanted.attention)
        assert torch.equal(found.keys, wanted.keys)
        assert torch.equal(found.class_query, wanted.class_query)
        attended = last_layer_attention(reference, rows)
        assert torch.equal(found.attention, attended)


def last_layer_attention(reference, rows):
    """What transformers' last layer computes from these rows: the class row's attention to the patches."""
    layer = reference.tower.get_submodule("encoder.layers")[-1]
    with torch.inference_mode():
        return layer.self_attn(layer.layer_norm1(rows))[1][:, :, 0, 1:]


def test_rows_of_a_single_precision_tower_give_attention_of_the_rounded_rows(featurized, reference, expected):
    """An fp32 tower: equal, bit for bit, to attention over the rows rounded to fp16; near to that of the
    unrounded ones, and not equal."""
    storage, digest, manifest = featurized
    features = manifest.features[digest]
    weights = read_attention(read_object(storage, features.attention))
    num_equal = 0
    for key, data in read_files(storage, features).items():
        class_rows, patches = read_rows(data)
        found = attend_from_class(torch.cat([class_rows[:, None], patches], dim=1).float(), weights)
        assert torch.equal(found.attention, last_layer_attention(reference, expected[key].half().float()))
        unrounded = last_layer_attention(reference, expected[key])
        num_equal += torch.equal(found.attention, unrounded)
        torch.testing.assert_close(found.attention, unrounded, rtol=2e-3, atol=1e-5)
        assert bool((found.attention.sum(dim=-1) < 1).all())
    assert num_equal == 0


def test_attention_weights_are_packed_alike_and_read_back(featurized):
    storage, digest, manifest = featurized
    data = read_object(storage, manifest.features[digest].attention)
    weights = read_attention(data)
    assert {pack_attention(weights) for _ in range(20)} == {data}
    assert (weights.num_heads, weights.norm_epsilon) == (2, 1e-5)
    assert math.prod(weights.tensors["key.weight"].shape) == 32 * 32
    for damaged in (data[:100], b"", data[:-1], data.replace(b"num_heads", b"numxheads")):
        with pytest.raises(CorruptError, match="featurize again"):
            read_attention(damaged)


def test_a_layer_that_no_layer_follows_is_refused_before_anything_is_encoded(
    inputs, new_corpus, encoded_counts
):
    settings = {"model": str(inputs / "encoder"), "layer": -1, "batch_size": BATCH_SIZE}
    with pytest.raises(ConfigError, match="layer -2"):
        featurize(make_recipe(inputs, encoder=settings), new_corpus("last"), SerialEngine())
    assert encoded_counts == []
