"""The algebra of judgments: a judgment is a weak order with strength; here it becomes training rows, and nowhere else.

Laws (property-tested): a tie gives no pair; a prompt's pairs weigh one in all, however many answers it has; the order
of presentation changes nothing; an all-tied judgment weighs nothing and is counted.
"""

from __future__ import annotations

import math
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


def verdicts(judgment: Judgment) -> dict[tuple[str, str], int]:
    """(id, id) in sorted order → +1 when the first is ranked above the second, -1 below, 0 tied."""
    tier = {judgment.candidates[i].id: t for t, tied in enumerate(judgment.tiers) for i in tied}
    ids = sorted(tier)
    return {(a, b): (tier[b] > tier[a]) - (tier[b] < tier[a]) for n, a in enumerate(ids) for b in ids[n + 1 :]}


def agreement(judgments_a: Sequence[Judgment], judgments_b: Sequence[Judgment]) -> float:
    """Of the pairs that both raters order strictly, the share that they order alike; NaN when there are none."""
    by_prompt: dict[str, list[Judgment]] = {}
    for judgment in judgments_b:
        by_prompt.setdefault(judgment.prompt.id, []).append(judgment)
    alike = strict = 0
    for judgment in judgments_a:
        mine = verdicts(judgment)
        for other in by_prompt.get(judgment.prompt.id, ()):
            for pair, theirs in verdicts(other).items():
                if theirs and mine.get(pair):
                    strict += 1
                    alike += theirs == mine[pair]
    return alike / strict if strict else math.nan
