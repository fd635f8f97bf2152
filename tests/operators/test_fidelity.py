"""The four numbers of fidelity against plain loops, and what each is blind to."""

import math

import numpy as np
import torch

from operators.fidelity import measure_fidelity
from schemas.fidelity import Fidelity, FidelityFloor


def cosine(one, other) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def measure_slowly(before: np.ndarray, after: np.ndarray) -> Fidelity:
    mean, deviation = before.mean(axis=0), before.std(axis=0)
    normal = [(row - mean) / deviation for row in before]
    raw = [cosine(one, other) for one, other in zip(before, after, strict=True)]
    pairs = zip(normal, after, strict=True)
    normalized = [cosine(one, (other - mean) / deviation) for one, other in pairs]
    relative = [
        np.linalg.norm(other - one) / np.linalg.norm(one) for one, other in zip(before, after, strict=True)
    ]
    kept = sorted(range(len(before)), key=lambda row: np.linalg.norm(normal[row]))[: int(0.96 * len(before))]
    errors = [
        math.sqrt(np.mean([(after[row][c] - before[row][c]) ** 2 for row in kept]))
        / np.std([before[row][c] for row in kept])
        for c in range(before.shape[1])
    ]
    return Fidelity(
        worst_raw_cosine=min(raw),
        mean_raw_cosine=float(np.mean(raw)),
        worst_normalized_cosine=min(normalized),
        mean_normalized_cosine=float(np.mean(normalized)),
        channel_nrmse=max(errors),
        worst_relative_error=float(max(relative)),
        mean_relative_error=float(np.mean(relative)),
    )


def test_agrees_with_plain_loops() -> None:
    random = torch.Generator().manual_seed(3)
    wanted = torch.randn(3, 20, 7, generator=random) * torch.arange(1, 8) + 2
    found = wanted + torch.randn(3, 20, 7, generator=random) * 0.2
    slow = measure_slowly(wanted.double().flatten(0, 1).numpy(), found.double().flatten(0, 1).numpy())
    fast = measure_fidelity(wanted, found)
    for name in Fidelity.model_fields:
        assert math.isclose(getattr(fast, name), getattr(slow, name), rel_tol=1e-9), name


def test_equal_features_are_perfect_even_where_constant_or_zero() -> None:
    views = torch.ones(2, 30, 4)
    views[0, 3] = 0.0
    fidelity = measure_fidelity(views, views.half())
    assert fidelity.worst_raw_cosine == fidelity.mean_normalized_cosine == 1.0
    assert fidelity.channel_nrmse == fidelity.worst_relative_error == 0.0


def test_a_dead_channel_shows_in_its_own_error_only() -> None:
    views = torch.randn(4, 100, 64, generator=torch.Generator().manual_seed(0)) + 50
    dead = views.clone()
    dead[..., 9] = dead[..., 9].mean()
    fidelity = measure_fidelity(views, dead)
    assert fidelity.worst_raw_cosine > 0.999
    assert fidelity.channel_nrmse > 0.99


def test_shortfalls_are_named_and_nan_is_one() -> None:
    views = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0))
    floor = FidelityFloor(raw_cosine=0.9, normalized_cosine=0.9, channel_nrmse=0.1)
    assert measure_fidelity(views, views).find_shortfalls(floor) == []
    shortfalls = measure_fidelity(views, -views).find_shortfalls(floor)
    assert [line.split()[0] for line in shortfalls] == ["raw_cosine", "normalized_cosine", "channel_nrmse"]
    assert "at least 0.9 is demanded" in shortfalls[0]
    lost = views.clone()
    lost[0, 3] = float("nan")
    assert len(measure_fidelity(views, lost).find_shortfalls(floor)) == 3
    assert measure_fidelity(views, -views).find_shortfalls(FidelityFloor()) == []
