"""Views and statistics that the tests of codecs share."""

import torch

from operators.codec import Codec, identify_codec, open_codec
from operators.codec.robust import measure_channels
from schemas.feature import ChannelStatistics


def pinned_view() -> torch.Tensor:
    """Exact in fp16 and free of any generator: a formula, with two outlier tokens and a constant channel."""
    index = torch.arange(96 * 16, dtype=torch.int64)
    view = ((index * 7919 % 1013).float() / 64 - 8).reshape(96, 16)
    view[:, 3] = 0.1
    view[40] += 500.0
    view[77, 5] = -3000.0
    return view


def statistics_of(views: torch.Tensor) -> ChannelStatistics:
    """Median and spread of the channels of these views."""
    median, spread = (each[0].tolist() for each in measure_channels(views.flatten(0, 1)[None].float()))
    return ChannelStatistics(
        num_views=len(views),
        median=tuple(float(f"{value:.4g}") for value in median),
        spread=tuple(float(f"{value:.4g}") for value in spread),
    )


def opened(name: str, views: torch.Tensor, step: float | None = None) -> Codec:
    """The codec, with the statistics of the views where it needs any."""
    return open_codec(identify_codec(name, step, statistics_of(views)))
