"""How a view's patches become fewer tokens, as a user writes it: `reducer: prumerge`, or a map of settings.

One model for all reducers, since most share their few settings; a setting that the named reducer does not
have is an error, never ignored. It stands in training configurations, recipes and feature specs: it
holds plain values alone.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from schemas.configuration import StrictModel

ReducerName = Literal[
    "query",
    "all",
    "average",
    "sequential",
    "spatial",
    "tome",
    "prumerge",
    "prumerge_plus",
    "qformer",
    "perceiver",
]

TRAINED: Final = frozenset({"query", "qformer", "perceiver"})
"""Reducers with weights of their own; the others can be applied when features are cached, too."""

_SETTINGS: Final[Mapping[str, frozenset[str]]] = {
    "query": frozenset(),
    "all": frozenset(),
    "average": frozenset({"tokens"}),
    "sequential": frozenset({"tokens"}),
    "spatial": frozenset({"tokens"}),
    "tome": frozenset({"tokens"}),
    "prumerge": frozenset({"merge", "variant", "neighbors"}),
    "prumerge_plus": frozenset({"merge", "variant", "neighbors", "share"}),
    "qformer": frozenset({"tokens", "layers"}),
    "perceiver": frozenset({"tokens", "layers"}),
}
_TOKENS: Final[Mapping[str, int]] = {
    "average": 144,
    "sequential": 144,
    "spatial": 144,
    "tome": 144,
    "qformer": 32,
    "perceiver": 64,
}
_LAYERS: Final[Mapping[str, int]] = {"qformer": 12, "perceiver": 6}


class ReducerConfig(StrictModel):
    """Which reducer, and its settings."""

    name: ReducerName = "query"
    """query: the compressor of C*C learned queries (`model.grid`); all: every patch, as LLaVA-1.5."""
    tokens: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Of a view, or of a frame for qformer and perceiver. Omitted: 32 (qformer), 64 (perceiver), else 144."""
    layers: Annotated[int, Field(gt=0, le=64)] | None = None
    """Of qformer and perceiver. Omitted: the papers' 12 and 6."""
    merge: bool = True
    """PruMerge: off keeps the chosen patches as they are."""
    variant: Literal["paper", "released"] = "paper"
    """PruMerge: by the paper's text, or as the authors' code computes it."""
    neighbors: Annotated[int, Field(gt=0, le=4096)] = 32
    """PruMerge: patches that are merged into a chosen one."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """PruMerge+: share of the patches that is kept, outliers and spatial samples together."""

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_no_foreign_settings(self) -> "ReducerConfig":
        foreign = sorted(self.model_fields_set - _SETTINGS[self.name] - {"name"})
        if foreign := [name for name in foreign if getattr(self, name) != _DEFAULTS[name]]:
            allowed = ", ".join(sorted(_SETTINGS[self.name])) or "none"
            raise ValueError(
                f"{', '.join(foreign)}: no setting of {self.name}, whose settings are: {allowed}"
            )
        if self.variant == "released" and self.share != _DEFAULTS["share"]:
            raise ValueError("the released PruMerge+ chooses its own share; leave `share` out")
        return self

    @property
    def num_tokens(self) -> int:
        """`tokens`, or the reducer's own number."""
        return self.tokens or _TOKENS[self.name]

    @property
    def num_layers(self) -> int:
        """`layers`, or the paper's number."""
        return self.layers or _LAYERS[self.name]

    @property
    def needs_focus(self) -> bool:
        """Whether it asks for keys or class attention: then it works where class rows are read."""
        return self.name in ("tome", "prumerge", "prumerge_plus")

    @property
    def is_trained(self) -> bool:
        """Whether it has weights of its own."""
        return self.name in TRAINED


_DEFAULTS: Final[Mapping[str, object]] = {
    name: field.default for name, field in ReducerConfig.model_fields.items()
}
