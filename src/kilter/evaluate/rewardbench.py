"""How good a reward model is on rankings it never saw: accuracy against raters and the truth, taste for length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from kilter.data import judgments
from kilter.data.records import Judgment

CLEAR = 0.3
"""A pair is clear when its oracle scores differ by more than this."""


def bench(
    rows: Sequence[Judgment],
    rewards: Sequence[Sequence[float]],
    gold: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]],
    each: Callable[[Judgment], bool] = lambda _: True,
) -> dict[str, float]:
    """Accuracies over all pairs of held-out rankings; a pair that the reward model ties counts a half.

    `accuracy_raters` over pairs a rater orders strictly, `accuracy_oracle` over pairs of unequal oracle score,
    `accuracy_clear` over those that differ by more than 0.3; `length_corr` is Pearson's over all answers.
    """
    hits: dict[str, list[float]] = {"raters": [], "oracle": [], "clear": []}
    for row, r, g in zip(rows, rewards, gold, strict=True):
        if not each(row):
            continue
        hits["raters"] += [_hit(r[p.better] - r[p.worse]) for p in judgments.pairs(row.tiers)]
        for i, j in combinations(range(len(r)), 2):
            if g[i] != g[j]:
                hit = _hit((r[i] - r[j]) * (1 if g[i] > g[j] else -1))
                hits["oracle"].append(hit)
                if abs(g[i] - g[j]) > CLEAR:
                    hits["clear"].append(hit)
    out = {f"accuracy_{name}": float(np.mean(h)) if h else float("nan") for name, h in hits.items()}
    out |= {f"n_{name}": len(h) for name, h in hits.items()}
    flat_r, flat_l, flat_g = (
        np.concatenate([np.asarray(x, float) for x in rows_]) for rows_ in (rewards, lengths, gold)
    )
    out["length_corr"] = correlation(flat_r, flat_l)
    out["length_corr_oracle"] = correlation(flat_g, flat_l)
    return out


def _hit(margin: float) -> float:
    return 1.0 if margin > 0 else 0.0 if margin < 0 else 0.5


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation, NaN where one side is constant."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
