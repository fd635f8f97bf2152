"""The papers' tables on efficiency: derived here, beside what is published where the model is theirs.

Rows are plain values, each with its deviation; a row whose figure cannot be derived says why. Of another
language model, or another length of text, there is nothing published, and those columns stay empty.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from operators.costs.flops import add_up, count_compressor, count_prefill
from operators.costs.memory import count_frames_that_fit, count_key_value_bytes
from operators.costs.published import (
    COMPRESSION_GIGA,
    FRAMES_IN_24_GB,
    LLAVA,
    LLAVA_MINI_FLOPS,
    PICTURE_BYTES,
    PRUMERGE_ROOFLINE,
    PRUMERGE_TOKENS,
    SAVINGS,
    TEXT_TOKENS,
)
from operators.costs.roofline import V100, estimate_prefill
from operators.costs.shapes import CLIP_L_336, VICUNA_7B, LanguageShape

TERA: Final = 1e12
GIGA: Final = 1e9
GB: Final = 1e9
UNEXPLAINED: Final = 0.02
"""A deviation of a roofline that goes without a word: constants of LLM-Viewer's."""
BYTES_PER_WEIGHT: Final = 2
MEMORY_BYTES: Final = 24 * 10**9
"""Of the card that the paper fits its frames into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One derived number."""

    row: str
    quantity: str
    derived: float
    published: float | None = None
    note: str = ""

    @property
    def deviation(self) -> float | None:
        """Of the derived number from the published one, as a share of it."""
        return self.derived / self.published - 1 if self.published else None


def tabulate_flops(llm: LanguageShape = VICUNA_7B, text_tokens: int = TEXT_TOKENS) -> list[Figure]:
    """LLaVA-Mini's table: tera-FLOPs of matrices, and with attention's products."""
    figures: list[Figure] = []
    is_theirs = (llm, text_tokens) == (VICUNA_7B, TEXT_TOKENS)
    for row in LLAVA_MINI_FLOPS:
        cost = add_up(count_prefill(llm, replace(row.setup, text_tokens=text_tokens)))
        published, note = (row.tera, row.note) if is_theirs else (None, "")
        figures += [
            Figure(
                row=row.name,
                quantity="TFLOPs",
                derived=cost.linear / TERA,
                published=published,
                note=note,
            ),
            Figure(row=row.name, quantity="TFLOPs with attention", derived=cost.total / TERA),
        ]
    return [*figures, *_count_compression(is_theirs), *_count_savings(llm, text_tokens, is_theirs)]


def tabulate_memory(llm: LanguageShape = VICUNA_7B) -> list[Figure]:
    """Keys and values of a picture, and frames that fit into 24 GB beside the weights."""
    figures: list[Figure] = []
    is_theirs = llm == VICUNA_7B
    for row in PICTURE_BYTES:
        num_bytes = count_key_value_bytes(llm, row.tokens)
        figures.append(
            Figure(
                row=row.name,
                quantity="MB of a picture",
                derived=num_bytes / 1e6,
                published=row.mega if is_theirs else None,
                note=row.note if is_theirs else "",
            )
        )
        figures.append(_count_frames(llm, row.name, num_bytes, row.tokens, is_theirs=is_theirs))
    return figures


def tabulate_roofline() -> list[Figure]:
    """PruMerge's table: a V100, two language models, FP16 and INT4."""
    return [figure for row in range(len(PRUMERGE_ROOFLINE)) for figure in _read_roofline(row)]


def _count_compression(is_theirs: bool) -> Iterator[Figure]:
    for queries, giga in COMPRESSION_GIGA.items():
        yield Figure(
            row=f"compression into {queries}",
            quantity="GFLOPs",
            derived=count_compressor(CLIP_L_336, CLIP_L_336.patches, queries).linear / GIGA,
            published=giga if is_theirs else None,
        )


def _count_savings(llm: LanguageShape, text_tokens: int, is_theirs: bool) -> Iterator[Figure]:
    """Of as many views that stay 576 tokens each."""
    for row in SAVINGS:
        own = replace(row.setup, text_tokens=text_tokens)
        whole = replace(LLAVA, text_tokens=text_tokens, vision_tokens=576 * own.views, views=own.views)
        ours, theirs = (add_up(count_prefill(llm, one)).linear for one in (own, whole))
        yield Figure(
            row=row.name,
            quantity="% saved",
            derived=100 * (1 - ours / theirs),
            published=row.percent if is_theirs else None,
            note=row.note if is_theirs else "",
        )


def _count_frames(llm: LanguageShape, row: str, num_bytes: int, tokens: int, *, is_theirs: bool) -> Figure:
    """A model's own modules are counted with LLaVA-Mini's pre-fusion; the tower is there, too."""
    is_mini = tokens == 1
    modules = 4 * llm.layer_weights if is_mini else 0
    weights = BYTES_PER_WEIGHT * (llm.weights + modules + CLIP_L_336.weights)
    frames = count_frames_that_fit(MEMORY_BYTES, weights, num_bytes)
    note = ""
    if frames * tokens > llm.context > 0:
        note = f"by memory alone: {frames * tokens:,} tokens, the model reads {llm.context:,}"
    published = float(FRAMES_IN_24_GB) if is_theirs and is_mini else None
    if published:
        note = f"published as a lower bound; {note}"
    return Figure(row=row, quantity="frames in 24 GB", derived=float(frames), published=published, note=note)


def _read_roofline(place: int) -> Iterator[Figure]:
    row = PRUMERGE_ROOFLINE[place]
    found = estimate_prefill(row.llm, PRUMERGE_TOKENS[row.method], V100, row.bits)
    tera = found.operations / TERA * row.bits / 16
    yield Figure(row=row.name, quantity="TFLOPs", derived=tera, published=row.tera, note=row.tera_note)
    rest = (
        ("ms", 1e3 * found.seconds, row.milliseconds),
        ("GB moved", found.moved_bytes / GB, row.moved_gb),
        ("GB stored", found.stored_bytes / GB, row.stored_gb),
    )
    for quantity, derived, published in rest:
        note = _explain_rounding(derived, published)
        yield Figure(row=row.name, quantity=quantity, derived=derived, published=published, note=note)


def _explain_rounding(derived: float, published: float) -> str:
    """Why they are apart, if two digits say the same of both and are not near enough to go without a word."""
    is_far = abs(derived / published - 1) > UNEXPLAINED
    return (
        f"{derived:.3g} is printed with two digits"
        if is_far and f"{derived:.2g}" == f"{published:.2g}"
        else ""
    )
