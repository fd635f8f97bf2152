"""`onetoken inspect --config CONFIG --step N`: which examples a training step sees, and what is learned.

Planned and read as training does, also from the manifest and the tokenizer that the run's last checkpoint
pins. A prompt is shown in stretches: fused with the media, learned, neither, or a medium.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.console import Reporter
from jobs.training import find_start
from jobs.training_data import count_tokens, name_held_out, open_stream, open_training_data
from pipelines.engine import SerialEngine
from schemas.errors import ConfigError
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from operators.prompt import Prompter
    from operators.tokenizer import Tokenizer
    from pipelines.stream.seen import SeenExample, SeenMedium, SeenStep

Described = tuple[list[str], Mapping[str, object]]


def describe_step(
    config: TrainConfig,
    number: int,
    reporter: Reporter,
    *,
    corpus: str | None = None,
    rank: int | None = None,
    world_size: int = 1,
) -> Described:
    """A step of a run, in words and as plain values.

    Args:
        config: of the run.
        number: of the step, from 1, as metrics.jsonl counts.
        reporter: is told what takes long.
        corpus: another place of the corpus.
        rank: the one to look at; None: all.
        world_size: how many ranks there are.

    Raises:
        ConfigError: when there is no such step or rank.
    """
    from pipelines.stream.seen import look_at_step
    from pipelines.train.assembly import load_prompter
    from pipelines.train.processes import ALONE

    if rank is not None and not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} is none of {world_size} ranks; say with --ranks how many there are")
    checkpoint = find_start(Path(config.out), resume=True)
    data = open_training_data(config, checkpoint, corpus)
    config = name_held_out(config, data.manifest)
    tokenizer, prompter = load_prompter(config, checkpoint)
    lengths = count_tokens(data, prompter, SerialEngine(), reporter, ALONE)
    stream = open_stream(config, data, lengths)
    step = look_at_step(stream, data.storage, data.manifest.media, number - 1, world_size)
    units = [unit for unit in step.units if rank in (None, unit.rank)]
    position = step.position
    lines = [
        f"step {number}: epoch {position.epoch}, step {position.step + 1} of {step.steps_of_epoch}; "
        f"{len(units)} units, {sum(len(unit.examples) for unit in units)} examples"
    ]
    shown: list[dict[str, object]] = []
    for place, unit in enumerate(units):
        of_rank = f" of rank {unit.rank}" if world_size > 1 else ""
        lines.append(f"unit {place}{of_rank}: {len(unit.examples)} examples, {unit.cost} tokens computed")
        examples = [_describe_example(example, tokenizer, prompter) for example in unit.examples]
        lines += [line for described, _ in examples for line in described]
        shown.append(
            {"rank": unit.rank, "cost": unit.cost, "examples": [dict(values) for _, values in examples]}
        )
    return lines, _position_values(step, number) | {"units": shown}


def _position_values(step: "SeenStep", number: int) -> dict[str, object]:
    position = step.position
    return {
        "step": number,
        "epoch": position.epoch,
        "step_of_epoch": position.step + 1,
        "steps_of_epoch": step.steps_of_epoch,
    }


def _describe_example(seen: "SeenExample", tokenizer: "Tokenizer", prompter: "Prompter") -> Described:
    from operators.prompt_spans import list_spans

    example = seen.example
    lines = [
        f"  example {example.example_id} of {example.source}, item {seen.item_key}, shard {seen.shard}, "
        f"{seen.num_tokens} tokens"
    ]
    lines += [f"    {_describe_medium(medium)}" for medium in seen.media]
    prompt = prompter.write_training(example.turns, len(example.media))
    spans: list[dict[str, object]] = []
    for span in list_spans(prompt):
        text = "" if span.role == "medium" else tokenizer.spell(span.token_ids)
        spans.append({"role": span.role, "tokens": len(span.token_ids), "text": text})
        said = json.dumps(text, ensure_ascii=False) if text else ""
        lines.append(f"    {span.role:<8}{len(span.token_ids):>5}  {said}".rstrip())
    values: dict[str, object] = {
        "example_id": example.example_id,
        "source": example.source,
        "item_key": seen.item_key,
        "shard": seen.shard,
        "tokens": seen.num_tokens,
        "media": [asdict(medium) for medium in seen.media],
        "prompt": spans,
    }
    return lines, values


def _describe_medium(medium: "SeenMedium") -> str:
    read = f"{medium.num_frames} frames of {medium.views_per_frame} views read"
    facts = medium.facts
    if facts is None:
        return f"a medium: {read}"
    long = f", {facts.duration_s:.1f} s" if facts.duration_s else ""
    size = f"{facts.width_px} x {facts.height_px} pixels{long}, {facts.num_bytes:,} bytes"
    return f"{facts.kind} {facts.sha256[:16]}: {size}; {read}"
