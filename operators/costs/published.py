"""Costs as published, each with the setup that gives it again, how near that comes, and why not nearer.

LLaVA-Mini: Zhang et al. 2025 (arXiv 2501.03895v2), its tables that tell FLOPs; Vicuna-7B, one picture of 336
pixels, 43 text tokens: the number that fits all rows.

PruMerge: Shang et al. 2024 (arXiv 2403.15388), the table on efficiency, by LLM-Viewer on a V100. The paper
tells of 576 vision tokens, and 14 times fewer. Its figures are those of 700 tokens against 70, in all 32
cells but one within 3.3 % (most print two digits): a tenth of the whole prompt, which no text of one length
beside 576 and 40 vision tokens gives. With 616 against 80 tokens the FLOPs would be 8.2 and 1.04, not 9.3 and
0.91. "Total memory" is all traffic, "storing activation" what is written, summed over all layers: no moment
needs as much. The operations of INT4 are printed divided by four; their time is that of all of them, at 62
tera-operations of 8 bits.
"""

from dataclasses import dataclass
from typing import Final

from operators.costs.flops import PrefillSetup
from operators.costs.shapes import VICUNA_7B, VICUNA_13B, LanguageShape

TEXT_TOKENS: Final = 43
PRUMERGE_TOKENS: Final = {"all 700 tokens": 700, "70 by PruMerge": 70}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFlops:
    """A row of LLaVA-Mini's tables."""

    name: str
    tera: float
    setup: PrefillSetup
    tolerance: float = 0.006
    note: str = ""
    """Why it deviates."""


def _make_mini(queries: int, prefusion_layers: int, views: int = 1) -> PrefillSetup:
    return PrefillSetup(
        text_tokens=TEXT_TOKENS,
        vision_tokens=queries,
        views=views,
        compressor_queries=queries,
        prefusion_layers=prefusion_layers,
    )


LLAVA: Final = PrefillSetup(text_tokens=TEXT_TOKENS, vision_tokens=576)
MINI: Final = _make_mini(1, 4)
MINI_HD: Final = _make_mini(64, 4, views=5)
LLAVA_MINI_FLOPS: Final = (
    PublishedFlops(name="LLaVA-1.5, 576 tokens", tera=8.55, setup=LLAVA),
    PublishedFlops(name="1 token, no pre-fusion", tera=0.96, setup=_make_mini(1, 0)),
    PublishedFlops(name="16 tokens, no pre-fusion", tera=1.16, setup=_make_mini(16, 0)),
    PublishedFlops(name="64 tokens, no pre-fusion", tera=1.79, setup=_make_mini(64, 0)),
    PublishedFlops(name="144 tokens, no pre-fusion", tera=2.85, setup=_make_mini(144, 0)),
    PublishedFlops(name="1 token, 1 layer", tera=1.21, setup=_make_mini(1, 1)),
    PublishedFlops(name="1 token, 2 layers", tera=1.46, setup=_make_mini(1, 2)),
    PublishedFlops(
        name="1 token, 3 layers",
        tera=1.81,
        setup=_make_mini(1, 3),
        tolerance=0.06,
        note="each layer adds 0.25, so 1.81 between 1.46 and 1.96 is a slip for 1.71",
    ),
    PublishedFlops(name="1 token, 4 layers (LLaVA-Mini)", tera=1.96, setup=MINI),
    PublishedFlops(name="4 tokens, 4 layers", tera=2.01, setup=_make_mini(4, 4)),
    PublishedFlops(name="64 tokens, 4 layers, 5 views (HD)", tera=8.13, setup=MINI_HD),
)
COMPRESSION_GIGA: Final = {1: 2.42, 4: 2.44}
"""What compression itself costs, by number of queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSaving:
    """FLOPs that LLaVA-Mini saves, against LLaVA with 576 tokens of each view."""

    name: str
    percent: float
    setup: PrefillSetup
    note: str = ""
    """Why it deviates."""


SAVINGS: Final = (
    PublishedSaving(name="LLaVA-Mini, against 576 tokens", percent=77.0, setup=MINI),
    PublishedSaving(
        name="LLaVA-Mini HD, against 5 x 576 tokens",
        percent=82.0,
        setup=MINI_HD,
        note="82 where attention's products count of LLaVA's FLOPs alone",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRoofline:
    """A row of PruMerge's table."""

    llm: LanguageShape
    bits: int
    method: str
    tera: float
    milliseconds: float
    moved_gb: float
    stored_gb: float
    tera_note: str = ""
    """Why the operations deviate."""

    @property
    def name(self) -> str:
        """The row in words."""
        return f"{self.llm.name} {'FP16' if self.bits == 16 else 'INT4'}, {self.method}"


def _make_rows(
    llm: LanguageShape, bits: int, full: tuple[float, ...], merged: tuple[float, ...], note: str = ""
) -> tuple[PublishedRoofline, PublishedRoofline]:
    first, second = (
        PublishedRoofline(
            llm=llm,
            bits=bits,
            method=method,
            tera=row[0],
            milliseconds=row[1],
            moved_gb=row[2],
            stored_gb=row[3],
            tera_note=one_note,
        )
        for method, row, one_note in zip(PRUMERGE_TOKENS, (full, merged), ("", note), strict=True)
    )
    return first, second


_SLIP: Final = "0.28 is what FP16 stores; a quarter of 0.91 is 0.23, as 0.45 is a quarter of 1.80"
PRUMERGE_ROOFLINE: Final = (
    *_make_rows(VICUNA_7B, 16, (9.3, 88.6, 23.3, 4.60), (0.91, 15.3, 13.7, 0.28)),
    *_make_rows(VICUNA_7B, 4, (2.3, 151.6, 5.9, 1.20), (0.28, 14.9, 3.5, 0.07), _SLIP),
    *_make_rows(VICUNA_13B, 16, (18.2, 170.5, 41.6, 7.30), (1.80, 29.5, 26.6, 0.44)),
    *_make_rows(VICUNA_13B, 4, (4.6, 294.9, 10.5, 1.80), (0.45, 29.0, 6.8, 0.11)),
)
ROOFLINE_SETUP: Final = (
    "a prefill on a V100 by LLM-Viewer; 700 tokens against 70 give these figures, and 576 vision tokens "
    "against 40 do not, with any one length of text",
    "GB moved: all traffic; GB stored: what is written, over all layers; TFLOPs of INT4: divided by 4",
)
"""What the paper's table does not say."""
ROOFLINE_TOLERANCE: Final = 0.033
"""Most of it is rounding: 1.16 is printed as 1.20."""
SLIP_TOLERANCE: Final = 0.19
"""For the operations of a row with a note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBytes:
    """A figure on memory of LLaVA-Mini's text."""

    name: str
    mega: float
    tokens: int
    tolerance: float
    note: str


PICTURE_BYTES: Final = (
    PublishedBytes(
        name="LLaVA-1.5, 576 tokens",
        mega=360.0,
        tokens=576,
        tolerance=0.17,
        note="keys and values alone; the published figure has what a prefill holds for a moment, too",
    ),
    PublishedBytes(
        name="LLaVA-Mini, 1 token",
        mega=0.6,
        tokens=1,
        tolerance=0.13,
        note="keys and values alone, likewise",
    ),
)
FRAMES_IN_24_GB: Final = 10_000
"""Of video, for LLaVA-Mini; "over 10,000"."""
