"""The algebra of judgments: a judgment is a weak order with strength; here it becomes training rows, and nowhere else.

Laws (property-tested): a tie gives no pair; a prompt's pairs weigh one in all, however many answers it has; the order
of presentation changes nothing; an all-tied judgment weighs nothing and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from kilter.data.records import Judgment

Tiers = Sequence[Sequence[int]]
"""Positions of candidates, best tier first; candidates in one tier are tied."""


@dataclass(frozen=True)
class Pair:
    """Candidate `better` is preferred to `worse`; the weights of one prompt's pairs sum to one."""

    better: int
    worse: int
    weight: float


def pairs(tiers: Tiers) -> tuple[Pair, ...]:
    """All ordered pairs of a weak order, together of weight one (InstructGPT's one element per prompt)."""
    decided = [(b, w) for high, low in combinations(tiers, 2) for b in high for w in low]
    return tuple(Pair(b, w, 1.0 / len(decided)) for b, w in decided)


def ranks(tiers: Tiers) -> list[int]:
    """The tier number of every candidate, 0 for the best."""
    place = {i: number for number, tier in enumerate(tiers) for i in tier}
    return [place[i] for i in range(len(place))]


def tiers_from_scores(scores: Sequence[float], width: float = 0.0) -> tuple[tuple[int, ...], ...]:
    """A weak order from scores, highest first; neighbours closer than `width` are tied."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    tiers: list[list[int]] = []
    for i in order:
        if tiers and abs(scores[tiers[-1][-1]] - scores[i]) <= width:
            tiers[-1].append(i)
        else:
            tiers.append([i])
    return tuple(tuple(tier) for tier in tiers)


def agreement(first: Sequence[Judgment], second: Sequence[Judgment]) -> float:
    """Share of pairs, among those that both raters order strictly, that they order alike; NaN where there is none."""
    alike = compared = 0
    for a, b in zip(first, second, strict=True):
        ranks_a, ranks_b = ranks(a.tiers), ranks(b.tiers)
        for i, j in combinations(range(len(ranks_a)), 2):
            left, right = ranks_a[i] - ranks_a[j], ranks_b[i] - ranks_b[j]
            if left and right:
                compared += 1
                alike += (left > 0) == (right > 0)
    return alike / compared if compared else float("nan")
