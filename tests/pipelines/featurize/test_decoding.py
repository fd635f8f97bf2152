"""What decoding finds out stands with the features; what breaks the decoder costs its item alone."""

import functools
import io
import json
import shutil

import pytest
import torch
import webdataset
from encodable_inputs import make_pictures, make_recipe, picture_row
from PIL import Image

import pipelines.featurize.write
from infra.storage import LocalStorage
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.wire import DecodeLimits
from pipelines.engine import SerialEngine
from pipelines.featurize.flow import featurize
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from pipelines.stream.reader import FeatureReader
from schemas.digest import sha256_hex


def build_corpus(recipe, root):
    storage = LocalStorage(root)
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    return storage, *featurize(recipe, storage, SerialEngine())


def read_clip(storage, digest, manifest):
    """The media facts of the only clip."""
    (entry,) = [entry for entry in manifest.features[digest].shards if entry.name.startswith("video")]
    url = str(storage.local_path(entry.tar.path))
    (sample,) = webdataset.WebDataset([url], shardshuffle=False)
    (medium,) = json.loads(sample["json"])["media"]
    return medium


@pytest.mark.parametrize(
    ("video", "times_s", "num_left_out"),
    [
        ({"fps": 2.0}, [0.0, 0.5, 1.0, 1.5, 2.0], 0),
        ({"fps": 2.0, "max_frames": 3}, [0.0, 0.5, 1.5], 2),
        ({"fps": None, "uniform": 2}, [0.0, 1.0], 0),
        ({"fps": None, "uniform": 3, "rule": "reference"}, [0.0, 1.0, 1.5], 0),
    ],
    ids=str,
)
def test_frames_and_what_was_left_out_stand_with_the_features(inputs, tmp_path, video, times_s, num_left_out):
    """Five frames in 2.5 s."""
    recipe = make_recipe(inputs, views={"video": video})
    medium = read_clip(*build_corpus(recipe, tmp_path / "corpus"))
    assert medium["frame_times_s"] == times_s
    assert medium["num_frames_left_out"] == num_left_out
    found = (medium["num_packets"], medium["num_damaged_packets"], medium["num_concealed_views"])
    assert found == (5, 0, 0)


def test_a_picture_that_takes_too_much_memory_costs_its_item_alone(inputs, tmp_path, monkeypatch, featurized):
    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    buffer = io.BytesIO()
    Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)).save(buffer, "PNG")
    (folder / "media/large.png").write_bytes(buffer.getvalue())
    rows = json.loads((folder / "llava.json").read_text())
    (folder / "llava.json").write_text(json.dumps([*rows, picture_row("large.png", 100)]))
    narrow = functools.partial(IsolatedDecoder, limits=DecodeLimits(memory_bytes=2**26))
    monkeypatch.setattr(pipelines.featurize.write, "IsolatedDecoder", narrow)
    storage, digest, manifest = build_corpus(make_recipe(folder), tmp_path / "corpus")
    features = manifest.features[digest]
    key = sha256_hex(buffer.getvalue())[:32]
    assert [(reject.key, reject.code) for reject in features.rejects] == [(key, "decoder_out_of_memory")]
    ours = FeatureReader(storage, manifest, digest)
    healthy = FeatureReader(featurized[0], featurized[2], featurized[1])
    for data in make_pictures().values():
        key = sha256_hex(data)[:32]
        (here,), (there,) = ours.read_item(key), healthy.read_item(key)
        assert torch.equal(here.patches, there.patches)
