"""Views that are reduced before they are stored: nothing that is not finite goes by unseen."""

import pytest
import torch
from tiny_spec import tiny_spec

from operators.codec import open_view_codec
from operators.reducers import build_reducer
from operators.reducers.medium import MediumReducer
from pipelines.featurize.reduced import encode_views
from schemas.errors import RejectCode, SampleError
from schemas.reducer import ReducerConfig

SAMPLED = ReducerConfig(name="spatial", tokens=4)


def test_what_is_not_finite_is_an_error_where_it_is_dropped_too() -> None:
    reducer = MediumReducer(build_reducer(SAMPLED))
    codec = open_view_codec(tiny_spec(16, 8).model_copy(update={"reducer": SAMPLED}))
    patches = torch.ones(2, 16, 8)
    assert len(encode_views(codec, patches, patches[:, 0], reducer)) == 2
    for place in range(16):
        broken = patches.clone()
        broken[1, place, 3] = float("nan")
        with pytest.raises(SampleError, match="1 of 256 feature values are not finite") as refused:
            encode_views(codec, broken, patches[:, 0], reducer)
        assert refused.value.code is RejectCode.NOT_FINITE
