"""Win rates with intervals: ties count a half, the bootstrap resamples prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kilter.data.streams import draw

RESAMPLES = 2000


def wins(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    """1, ½ or 0 per prompt."""
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return np.where(a > b, 1.0, np.where(a < b, 0.0, 0.5))


def interval(values: Sequence[float] | np.ndarray, *key: object) -> dict[str, float]:
    """Mean with a 95 % percentile interval, bootstrapped over prompts by a keyed draw."""
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        return {"mean": float("nan"), "lo": float("nan"), "hi": float("nan"), "n": 0}
    index = draw("bootstrap", *key).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.quantile(x[index].mean(axis=1), [0.025, 0.975])
    return {"mean": float(x.mean()), "lo": float(low), "hi": float(high), "n": len(x)}
