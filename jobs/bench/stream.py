"""`onetoken bench stream`: what the order costs, what its units hold, how well it shuffles, and how fast the
stream reads.

Each made-up table of examples is planned in a fresh process: 3M examples by count and packed, 30M packed.
Times are CPU time. How the stream is measured against bare readers, `stream_rates` tells.
"""

from dataclasses import asdict
from pathlib import Path

import msgspec

from jobs.bench.fresh import run_fresh
from jobs.bench.result import Measured, Say
from jobs.bench.shuffle_quality import NUM_EXAMPLES, measure_orders
from jobs.bench.stream_rates import measure_rates

FEW, MANY = 3_000_000, 30_000_000
FEWEST = 20_000
"""Examples of which batches can be told from chance."""


class Planned(msgspec.Struct):
    """What planning one table took, as its process says."""

    first_batch_s: float
    early_start_s: float
    late_start_s: float
    num_steps: int
    padding: float
    fill: float
    peak_mib: float


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    counted = plan_table(round(FEW * scale), "count", say)
    packed = plan_table(round(FEW * scale), "pack", say)
    many = plan_table(round(MANY * scale), "pack", say)
    say("batches of every order against a true permutation")
    orders = measure_orders(max(FEWEST, round(NUM_EXAMPLES * scale)))
    times = measure_rates(folder, say, scale)
    ratios = {
        "resume90_vs_0": counted.early_start_s / counted.late_start_s,
        "first_batch_s": max(counted.first_batch_s, packed.first_batch_s),
        "plan_mib_3m": max(counted.peak_mib, packed.peak_mib),
        "plan_mib_30m": many.peak_mib,
        "padding_waste": counted.padding,
        "pack_fill": packed.fill,
        "vs_reader": times["reader"] / times["stream"],
    }
    if "s3_stream" in times:
        ratios["s3_vs_ranged"] = times["s3_ranged"] / times["s3_stream"]
    details = {
        "first_batch_count_s": counted.first_batch_s,
        "first_batch_pack_s": packed.first_batch_s,
        "first_batch_pack_30m_s": many.first_batch_s,
        "start_at_0_s": counted.early_start_s,
        "start_at_90_s": counted.late_start_s,
        "start_at_90_pack_30m_s": many.late_start_s,
        "num_steps_count": counted.num_steps,
        "num_steps_pack": packed.num_steps,
        "pack_fill_30m": many.fill,
    }
    details |= {
        f"order_{order}_{name}": value
        for order, measures in orders.items()
        for name, value in asdict(measures).items()
    }
    details |= {f"{name}_s": seconds for name, seconds in times.items()}
    not_measured = () if "s3_vs_ranged" in ratios else ("s3_vs_ranged",)
    return Measured(ratios=ratios, details=details, not_measured=not_measured)


def plan_table(num_examples: int, unit: str, say: Say) -> Planned:
    """Plan a table in a fresh process."""
    say(f"the order of {num_examples:,} examples, by {unit}")
    answer = run_fresh("jobs.bench.order_manifest", [str(max(2000, num_examples)), unit]).answer
    return msgspec.json.decode(answer, type=Planned)
