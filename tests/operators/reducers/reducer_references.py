"""Reducers written from the papers, one number at a time."""

import math

import torch
from torch import Tensor

from operators.reducers import ViewFeatures


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def outliers(attention: list[float]) -> list[int]:
    """Shang et al. 2024, section 3.2."""
    q1, q3 = quantile(attention, 0.25), quantile(attention, 0.75)
    found = [place for place, value in enumerate(attention) if value > q3 + 1.5 * (q3 - q1)]
    return found or [max(range(len(attention)), key=attention.__getitem__)]


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def nearest(keys: list[list[float]], place: int, count: int) -> list[int]:
    others = [other for other in range(len(keys)) if other != place]
    return sorted(others, key=lambda other: -cosine(keys[place], keys[other]))[:count]


def prumerge(
    view: ViewFeatures, neighbors: int, *, merges: bool = True, share: float | None = None
) -> Tensor:
    """Shang et al. 2024, algorithm 1, merging by the weighted average of section 3.3."""
    attention, keys = view.focus.attention.tolist(), view.focus.keys.tolist()
    patches = view.patches.double()
    kept = outliers(attention)
    if share is not None:
        left = [place for place in range(len(attention)) if place not in kept]
        missing = max(0, round(share * len(attention)) - len(kept))
        kept = sorted(
            kept + [left[math.floor((part + 0.5) * len(left) / missing)] for part in range(missing)]
        )
    tokens: list[Tensor] = []
    for place in kept:
        cluster = [place, *nearest(keys, place, neighbors)] if merges else [place]
        total = sum(attention[member] for member in cluster)
        tokens.append(sum(attention[member] / total * patches[member] for member in cluster))
    return torch.stack(tokens)


def released_prumerge(view: ViewFeatures, neighbors: int, *, samples: bool = False) -> Tensor:
    """What the released code computes, step by step."""
    attention, keys = view.focus.joined_attention.tolist(), view.focus.keys.tolist()
    patches = view.patches.double()
    num_patches = len(attention)
    q1, q3 = quantile(attention, 0.25), quantile(attention, 0.75)
    ratio = sum(value > q3 + 1.5 * (q3 - q1) for value in attention) / num_patches
    by_attention = sorted(range(num_patches), key=lambda place: -attention[place])
    kept = by_attention[: int(num_patches * ratio)]
    if samples and ratio:
        step = int(int(1 / ratio) / 3)
        kept = kept + [place for place in range(0, num_patches - 1, step) if place not in kept]
    tokens = [
        patches[place] + sum(attention[other] * patches[other] for other in nearest(keys, place, neighbors))
        for place in kept
    ]
    rest = [place for place in range(num_patches) if place not in kept]
    nothing = torch.zeros(patches.shape[1], dtype=torch.float64)
    return torch.stack([*tokens, sum((attention[place] * patches[place] for place in rest), start=nothing)])


def tome(view: ViewFeatures, num_tokens: int) -> Tensor:
    """Bolya et al. 2023, section 3, with groups as lists of patches."""
    heads = view.focus.num_heads
    keys = view.focus.keys.double().unflatten(1, (heads, -1)).mean(dim=1)
    groups = [[place] for place in range(len(keys))]
    while len(groups) > num_tokens:
        means = [keys[group].mean(dim=0).tolist() for group in groups]
        first, second = range(0, len(groups), 2), range(1, len(groups), 2)
        links = []
        for one in first:
            partner = max(second, key=lambda other: cosine(means[one], means[other]))
            links.append((cosine(means[one], means[partner]), one, partner))
        links.sort(key=lambda link: -link[0])
        merged = {one: partner for _, one, partner in links[: len(groups) - num_tokens]}
        for one, partner in merged.items():
            groups[partner] = groups[partner] + groups[one]
        left = [one for one in first if one not in merged]
        groups = [groups[place] for place in [*left, *second]]
    groups.sort(key=min)
    return torch.stack([view.patches.double()[group].mean(dim=0) for group in groups])
