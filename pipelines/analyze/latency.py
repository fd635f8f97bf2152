"""How long until the first token of an answer: from cached features, with the encoder, and with all patches.

Three ways to the same token, each in its parts: see (decode cached bytes, or encode pixels), fuse (projector,
reducer, pre-fusion), prefill (the language model over the prompt, its keys and values kept) and the first
token (output head and choice). They take turns within a round, beginning with another one each time, and
what is told are medians of the ratios within rounds: what slows a machine down for a while slows all three.

Every part is the product's own: the encoder, the codec, `OneTokenModel`. Left out: decoding and cropping of
pictures, reading from disk or network, and writing prompts; tokens after the first cost alike, but for the
keys and values that they read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, MediumFeatures, ModelBatch
from operators.codec import decode_views
from pipelines.analyze.latency_subject import Subject
from pipelines.analyze.stopwatch import Stopwatch, Work
from pipelines.engine import Progress, no_progress
from pipelines.train.generation import FRAMES_AT_ONCE
from pipelines.train.model import OneTokenModel
from pipelines.train.precision import computing

Way = Literal["cached", "live", "all patches"]
WAYS: Final[tuple[Way, ...]] = ("cached", "live", "all patches")
RATIOS: Final[tuple[tuple[Way, Way], ...]] = (
    ("live", "cached"),
    ("all patches", "live"),
    ("all patches", "cached"),
)
TEXT_ID: Final = 1
"""Any token of the vocabulary: values decide no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One way in one round, in seconds."""

    round: int
    way: Way
    see_s: float
    fuse_s: float
    prefill_s: float
    first_token_s: float

    @property
    def total_s(self) -> float:
        """Until the first token is known."""
        return self.see_s + self.fuse_s + self.prefill_s + self.first_token_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioRow:
    """How many times as long one way takes as another, over all rounds."""

    slower: Way
    faster: Way
    median: float
    least: float
    most: float


class _Held:
    """What one part hands to the next."""

    medium: MediumFeatures
    rows: Float[Tensor, "batch length width"]
    hidden: Float[Tensor, "batch width"]


class _Path(NamedTuple):
    """One way, ready to be taken any number of times."""

    subject: Subject
    way: Way
    held: _Held

    @property
    def model(self) -> OneTokenModel:
        return self.subject.plain if self.way == "all patches" else self.subject.model

    def see(self) -> None:
        subject, views = self.subject, self.subject.num_views
        if self.way == "cached":
            stored = decode_views(
                subject.codec,
                subject.payloads,
                subject.encoder.num_patches,
                subject.encoder.width,
                subject.device,
            )
            patches, class_rows = stored, subject.class_rows
        else:
            seen = subject.encoder.encode_fixed(subject.pixels, views)
            patches, class_rows = seen.patches, seen.class_row
        self.held.medium = MediumFeatures(patches[None], None if class_rows is None else class_rows[None])

    def fuse(self) -> None:
        medium = self.held.medium
        reducer = self.subject.reducer
        if reducer is not None and self.way != "all patches":
            medium = reducer.reduce(medium)
        batch = make_batch(medium, self.subject.text_tokens)
        self.held.rows = self.model.splice(batch, frames_at_once=FRAMES_AT_ONCE).embeddings

    def prefill(self) -> None:
        llm = self.model.llm
        cache = DynamicCache(config=llm.config)
        states: Tensor = cast(Any, llm.base_model)(
            inputs_embeds=self.held.rows, use_cache=True, past_key_values=cache
        ).last_hidden_state
        self.held.hidden = states[:, -1]

    def first_token(self) -> None:
        logits = cast(Tensor, self.model.head(self.held.hidden))
        int(logits.argmax())

    def list_parts(self) -> tuple[Work, Work, Work, Work]:
        return self.see, self.fuse, self.prefill, self.first_token


def measure_latency(
    subject: Subject, stopwatch: Stopwatch, num_rounds: int, progress: Progress = no_progress
) -> list[LatencyRow]:
    """All ways, `num_rounds` times in turns, after one round that is not counted."""
    paths = [_Path(subject, way, _Held()) for way in WAYS]
    rows: list[LatencyRow] = []
    with torch.inference_mode(), computing(subject.device, subject.dtype):
        for path in paths:
            stopwatch.time(path.list_parts())
        for number in range(num_rounds):
            first = number % len(paths)
            for path in (*paths[first:], *paths[:first]):
                see, fuse, prefill, token = stopwatch.time(path.list_parts())
                rows.append(
                    LatencyRow(
                        round=number,
                        way=path.way,
                        see_s=see,
                        fuse_s=fuse,
                        prefill_s=prefill,
                        first_token_s=token,
                    )
                )
            progress("rounds", number + 1, num_rounds)
    return rows


def count_prompt_tokens(subject: Subject) -> dict[Way, int]:
    """What the language model reads on each way."""
    counts: dict[Way, int] = {}
    with torch.inference_mode(), computing(subject.device, subject.dtype):
        for way in WAYS:
            path = _Path(subject, way, _Held())
            path.see()
            path.fuse()
            counts[way] = path.held.rows.shape[1]
    return counts


def compare_ways(rows: Sequence[LatencyRow]) -> Iterator[RatioRow]:
    """Medians of the ratios within each round."""
    by_round: dict[int, dict[Way, float]] = {}
    for row in rows:
        by_round.setdefault(row.round, {})[row.way] = row.total_s
    for slower, faster in RATIOS:
        ratios = [_divide(taken, slower, faster) for taken in by_round.values()]
        yield RatioRow(
            slower=slower, faster=faster, median=median(ratios), least=min(ratios), most=max(ratios)
        )


def take_medians(rows: Sequence[LatencyRow]) -> list[tuple[Way, tuple[float, ...]]]:
    """Of each way: see, fuse, prefill, first token and the whole, in seconds."""
    found: list[tuple[Way, tuple[float, ...]]] = []
    for way in WAYS:
        own = [row for row in rows if row.way == way]
        columns = zip(
            *((row.see_s, row.fuse_s, row.prefill_s, row.first_token_s, row.total_s) for row in own),
            strict=True,
        )
        found.append((way, tuple(map(median, columns))))
    return found


def make_batch(medium: MediumFeatures, text_tokens: int) -> ModelBatch:
    """One question about one picture: its place, then instruction."""
    device = medium.patches.device
    token_ids = torch.full((1, 1 + text_tokens), TEXT_ID, device=device)
    token_ids[0, 0] = MEDIUM_TOKEN
    is_text = token_ids != MEDIUM_TOKEN
    return ModelBatch(
        token_ids=token_ids,
        labels=torch.full_like(token_ids, IGNORED_LABEL),
        attention_mask=torch.ones_like(is_text),
        fuse_mask=is_text,
        frames=medium.patches,
        frames_per_medium=(medium.patches.shape[0],),
        media_per_example=(1,),
        example_ids=("question",),
        frame_tokens=medium.counts,
    )


def _divide(taken: Mapping[Way, float], slower: Way, faster: Way) -> float:
    return taken[slower] / taken[faster] if taken[faster] else float("nan")
