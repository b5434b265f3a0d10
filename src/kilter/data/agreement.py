"""How much raters agree, over what several of them judged.

A table has a row per unit and a column per rater; a cell is a number, or NaN where that rater did not judge that unit.
For judgments the units are pairs of answers and the values 1 (the first is better), 0 (tied) and -1: a tie is an answer
of its own, so a tie against a preference is half a disagreement on an ordinal or interval scale and a whole one on a
nominal one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kilter.data.judgments import verdicts
from kilter.data.records import Judgment
from kilter.data.streams import draw
from kilter.errors import UserError, nearest

Table = np.ndarray
METRICS = ("nominal", "ordinal", "interval")


@dataclass(frozen=True)
class Units:
    """A table of pairs judged by several, and which prompt each of its rows is of."""

    raters: tuple[str, ...]
    table: Table
    prompts: np.ndarray


def units_of(judgments: Iterable[Judgment]) -> Units:
    """Every pair of answers that two raters or more judged; of two judgments by one rater the last counts."""
    return units((str(j.rater.get("id", "")), j.prompt.id, verdicts(j)) for j in judgments)


def units(given: Iterable[tuple[str, str, dict[tuple[str, str], int]]]) -> Units:
    """The same from raters, prompts' ids and verdicts (`judgments.verdicts`)."""
    raters: dict[str, int] = {}
    said: dict[tuple[str, str, str], dict[int, int]] = {}
    for name, prompt, found in given:
        rater = raters.setdefault(name, len(raters))
        for (a, b), verdict in found.items():
            said.setdefault((prompt, a, b), {})[rater] = verdict
    shared = {unit: votes for unit, votes in sorted(said.items()) if len(votes) > 1}
    table = np.full((len(shared), len(raters)), np.nan)
    for row, votes in enumerate(shared.values()):
        table[row, list(votes)] = list(votes.values())
    place: dict[str, int] = {}
    prompts = np.array([place.setdefault(unit[0], len(place)) for unit in shared], dtype=np.int64)
    return Units(tuple(raters), table, prompts)


def raw(table: Table, strict: bool = False) -> float:
    """Of all two raters' values of one unit, the share that are equal; NaN of none.

    With `strict`, of those in which neither is a tie: the figure that papers usually give.
    """
    values, counts = _counts(table)
    if strict:
        counts = counts[:, values != 0]
    n = counts.sum(1)
    pairs = (n * (n - 1)).sum()
    return float((counts * (counts - 1)).sum() / pairs) if pairs else math.nan


def cohen_kappa(first: Sequence[float], second: Sequence[float]) -> float:
    """Two raters' agreement beyond what their own habits would give by chance (Cohen 1960): (p_o - p_e) / (1 - p_e)."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if not len(a):
        return math.nan
    expected = sum(float((a == v).mean() * (b == v).mean()) for v in np.union1d(a, b))
    return _beyond(float((a == b).mean()), expected)


def fleiss_kappa(table: Table) -> float:
    """Agreement beyond chance of many raters (Fleiss 1971); units may have different numbers of raters, at least two.

    Chance is Σ p_v² with p_v the mean over units of the share of their raters who said v.
    """
    _, counts = _counts(table)
    n = counts.sum(1)
    if not len(n):
        return math.nan
    observed = float(((counts * (counts - 1)).sum(1) / (n * (n - 1))).mean())
    return _beyond(observed, float(((counts / n[:, None]).mean(0) ** 2).sum()))


def krippendorff_alpha(table: Table, metric: str = "ordinal") -> float:
    """1 - D_o / D_e over the values that can be paired (Krippendorff 2011); missing ones are no trouble.

    D_o is the mean squared distance of two values of one unit, D_e of any two values. The distance of two values is
    whether they differ (nominal), their difference (interval), or how many values lie between them, their own half
    counted (ordinal). NaN where all values are the same, for then nothing could have differed.
    """
    if metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}{nearest(metric, METRICS)}")
    values, counts = _counts(table)
    if not len(counts):
        return math.nan
    n = counts.sum(1)
    together = np.einsum("ui,uj->ij", counts / (n - 1)[:, None], counts)
    together -= np.diag((counts / (n - 1)[:, None]).sum(0))
    total = together.sum(1)
    distance = _distances(values, total, metric)
    expected = (np.outer(total, total) - np.diag(total)) / (total.sum() - 1)
    scale = float((expected * distance).sum())
    return 1.0 - float((together * distance).sum()) / scale if scale > 0 else math.nan


def _distances(values: np.ndarray, total: np.ndarray, metric: str) -> np.ndarray:
    if metric == "nominal":
        return np.asarray(values[:, None] != values[None, :], dtype=float)
    if metric == "interval":
        return np.asarray((values[:, None] - values[None, :]) ** 2)
    middle = np.cumsum(total) - total / 2
    return np.asarray((middle[:, None] - middle[None, :]) ** 2)


def gwet_ac2(table: Table, weights: str = "ordinal", values: Sequence[float] = ()) -> float:
    """Gwet's AC2 (AC1 with `nominal` weights): chance is kept low where nearly all say the same (Gwet 2008, 2014).

    Weights say how much two values agree: whether they are equal (nominal), 1 - (their distance)² / (the longest)²
    (interval), 1 - C(r, 2) / C(q, 2) for values r places apart, both counted, of q (ordinal). `values` are those that
    could have been said; those that were, where none are given. Chance agreement is
    Σw / (q (q - 1)) · Σ_v p_v (1 - p_v). Units with one rater count in p_v alone.
    """
    found, counts = _counts(table, least=1, values=values)
    q = len(found)
    if not len(counts) or q < 2:
        return math.nan
    weight = _gwet_weights(found, weights)
    n = counts.sum(1)
    many = n > 1
    if not many.any():
        return math.nan
    credit = (counts * (counts @ weight - 1))[many].sum(1) / (n * (n - 1))[many]
    p = (counts / n[:, None]).mean(0)
    return _beyond(float(credit.mean()), float(weight.sum() * (p * (1 - p)).sum() / (q * (q - 1))))


def _gwet_weights(values: np.ndarray, name: str) -> np.ndarray:
    if name not in METRICS:
        raise UserError(f"there are no weights {name!r}{nearest(name, METRICS)}")
    q = len(values)
    if name == "nominal":
        return np.eye(q)
    if name == "interval":
        return np.asarray(1 - ((values[:, None] - values[None, :]) / (values.max() - values.min())) ** 2)
    apart = np.abs(np.arange(q)[:, None] - np.arange(q)[None, :]) + 1
    return np.asarray(1 - apart * (apart - 1) / (q * (q - 1)))


def _counts(table: Table, least: int = 2, values: Sequence[float] = ()) -> tuple[np.ndarray, np.ndarray]:
    """The values in order, and how many raters of each unit said each; units with fewer raters are left out."""
    table = np.asarray(table, dtype=float)
    kept = table[(~np.isnan(table)).sum(1) >= least] if table.size else table.reshape(0, 0)
    known = kept[~np.isnan(kept)]
    if len(values) and len(np.setdiff1d(known, values)):
        raise UserError(f"value {np.setdiff1d(known, values)[0]:g} is none of those that could be said: {list(values)}")
    found = np.unique(np.asarray(values, dtype=float)) if len(values) else np.unique(known)
    return found, np.stack([(kept == v).sum(1) for v in found], 1).astype(float) if len(kept) else np.zeros((0, 0))


def _beyond(observed: float, expected: float) -> float:
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


def interval(
    found: Units, statistic: Callable[[Table], float], draws: int = 500, seed: int = 1, level: float = 0.95
) -> tuple[float, float]:
    """A bootstrap interval: prompts are drawn with replacement, for pairs of one prompt are not independent."""
    rows = [np.flatnonzero(found.prompts == p) for p in np.unique(found.prompts)]
    if len(rows) < 2:
        return math.nan, math.nan
    rng = draw(seed, "agreement")
    values = [
        statistic(found.table[np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])])
        for _ in range(draws)
    ]
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
