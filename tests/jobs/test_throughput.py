"""What a run says of its speed: rates, and the share of the time in which encoder and decoders were busy."""

from jobs.throughput import Throughput
from schemas.events import Counted, EncoderUsed, StageEnded


def used(seconds: float, busy_s: float, waited_s: float, decoders_busy_s: float) -> EncoderUsed:
    return EncoderUsed(
        stage="featurize",
        seconds=seconds,
        busy_s=busy_s,
        waited_s=waited_s,
        num_decoders=2,
        decoders_busy_s=decoders_busy_s,
    )


def test_shares_are_those_of_all_shards_together() -> None:
    throughput = Throughput()
    for event in (
        Counted(stage="featurize", num_items=4, num_views=20, num_bytes=2 << 20),
        used(seconds=10.0, busy_s=9.7, waited_s=0.2, decoders_busy_s=4.0),
        Counted(stage="featurize", num_items=2, num_views=10, num_bytes=2 << 20, num_found=1),
        used(seconds=30.0, busy_s=29.1, waited_s=0.6, decoders_busy_s=12.0),
        StageEnded(stage="featurize", seconds=20.0, num_done=2, is_complete=True),
    ):
        throughput(event)
    values = throughput.as_values()["featurize"]
    assert values == {
        "seconds": 20.0,
        "shards_found": 1,
        "items": 6,
        "items_per_s": 0.3,
        "views": 30,
        "views_per_s": 1.5,
        "bytes": 4 << 20,
        "bytes_per_s": round((4 << 20) / 20, 1),
        "views_reused": 0,
        "encoder_busy": 0.97,
        "encoder_waited": 0.02,
        "decoders_busy": 0.2,
    }
    (line,) = throughput.as_lines()
    assert line.startswith("  featurize wrote 6 items in 20.0 s: 0.3 items/s, 1.5 views/s, ")
    assert line.endswith("encoder busy 97%, waited for views 2%; decoders busy 20%")


def test_a_stage_without_an_encoder_says_nothing_of_one() -> None:
    throughput = Throughput()
    throughput(Counted(stage="shard", num_items=4, num_bytes=10))
    throughput(StageEnded(stage="shard", seconds=2.0, num_done=1, is_complete=True))
    (line,) = throughput.as_lines()
    assert "busy" not in line
    assert "encoder_busy" not in throughput.as_values()["shard"]
