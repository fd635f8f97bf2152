"""The recipe of the folder's README reads an int8 cache without this program, and finds the same features."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.tar import write_shard
from operators.codec import decode_views, identify_codec, open_codec
from operators.feature_file import MediumShape, pack_features
from pipelines.ingest.arrow import TableSchema

README = Path(__file__).resolve().parents[3] / "pipelines/stream/README.md"
PATCHES, WIDTH = 48, 16
KEYS = ("0" * 32, "1" * 32)


def read_recipe() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    (recipe,) = [block for block in blocks if "webdataset" in block]
    return recipe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_class_rows", [True, False])
def test_the_recipe_reads_what_we_read(tmp_path: Path, has_class_rows: bool) -> None:
    identity = identify_codec("int8")
    codec = open_codec(identity)
    views = torch.randn(4, PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))
    views[:, 3] *= 50
    members = []
    for number, key in enumerate(KEYS):
        data = pack_features(
            codec.encode(views[2 * number : 2 * number + 2]),
            torch.zeros(2, WIDTH, dtype=torch.float16) if has_class_rows else None,
            media=[MediumShape(1, 2)],
            codec=identity.name,
            codec_version=identity.version,
            num_patches=PATCHES,
            width=WIDTH,
        )
        members += [(f"{key}.feat.bin", data), (f"{key}.json", b"{}")]
    tar = tmp_path / "image-all.tar"
    with tar.open("wb") as file:
        write_shard(members, file)
    table = tmp_path / "all.parquet"
    talked = [json.dumps([["human", "Q"], ["gpt", key[0]]]).encode() for key in KEYS]
    schema = TableSchema(("item_key", "string"), ("conversation", "binary"))
    table.write_bytes(schema.write(list(zip(KEYS, talked, strict=True))))
    seen = []
    names = {
        "features": str(tar),
        "examples": str(table),
        "train_on": lambda said, tokens: seen.append((said, tokens)),
    }
    recipe = read_recipe()
    assert sum(bool(line.strip()) for line in recipe.splitlines()) == 15
    exec(recipe, names)  # the README's own text
    assert len(seen) == 4
    wanted = decode_views(codec, [payload for payload in codec.encode(views)], PATCHES, WIDTH)
    for number, (said, tokens) in enumerate(seen):
        assert said == [[["human", "Q"], ["gpt", str(number // 2)]]]
        assert np.allclose(tokens, wanted[number].float().numpy(), rtol=2e-3, atol=2e-3)
