"""Several raters' judgments of one prompt → one judgment by a stated rule.

majority        of each two answers the one that more raters put first beats the other; answers stand in the order of
                how many they beat, an even pair counting half for either (Copeland's rule)
bradley-terry   strengths θ that make the raters' pairs likeliest, P(i over j) = σ(θ_i - θ_j), a tie counting as half a
                win for either (Bradley & Terry 1952); a ridge keeps an answer that never lost finite
tideman         ranked pairs (Tideman 1987): majorities are locked in from the clearest on, but for those that would
                close a circle. Clearest is the largest lead, then the most votes for it, then the lowest ids of the
                two answers
rater-weighted  as majority, each rater's vote counting by a weight: given, or estimated from agreement with the others

The merged judgment holds every answer that anyone judged, sorted by id. Its rater says the rule and who took part, its
`extra` how many judgments there were and the share of their strict votes that it sides with. Judgments of one rater who
is known by id count once where they are the same. Merging what is merged changes nothing; the order of judgments and
of candidates changes nothing; were all of them reversed, so would be the result.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from kilter.data.judgments import tiers_from_scores, verdicts
from kilter.data.keys import Hashes, hashed, licence_of, raters_of
from kilter.data.licences import strictest
from kilter.data.records import Candidate, Judgment
from kilter.errors import DataError, UserError, nearest

RULES = ("majority", "bradley-terry", "tideman", "rater-weighted")
RIDGE = 0.01
"""Of Bradley-Terry: the penalty on θ²/2, in votes."""
SAME = 1e-6
"""Scores closer than this are tied."""


@dataclass(frozen=True)
class Votes:
    """Who beats whom: `over[i, j]` is the weight of the raters who put i before j, `even[i, j]` of those who tie."""

    over: np.ndarray
    even: np.ndarray

    @property
    def lead(self) -> np.ndarray:
        """Votes for less votes against; antisymmetric."""
        return np.asarray(self.over - self.over.T)


def merge(
    judgments: Sequence[Judgment], rule: str = "majority", weights: Mapping[str, float] | None = None
) -> Judgment:
    """One judgment from several of one prompt; one alone is its own merger."""
    if rule not in RULES:
        raise UserError(f"there is no rule {rule!r} to merge by{nearest(rule, RULES)}")
    _check(judgments)
    group = _distinct(judgments)
    if len(group) == 1:
        return group[0]
    candidates = sorted({c.id: c for j in group for c in j.candidates}.values(), key=lambda c: c.id)
    votes = counted(group, [c.id for c in candidates], _weights_of(group, rule, weights))
    scores = SCORES[rule](votes)
    tiers = tiers_from_scores([float(s) for s in scores], SAME)
    told = [j for j in group if j.all_bad]
    return Judgment(
        kind="pair" if len(candidates) == 2 else "ranking",
        prompt=min((j.prompt for j in group), key=lambda p: repr(p.to_json())),
        candidates=tuple(candidates),
        tiers=tiers,
        strength=_strength(group, candidates, tiers),
        ratings=tuple(float(s) for s in scores) if rule == "bradley-terry" and _ordered(scores, tiers) else (),
        all_bad=2 * len(told) > len(group),
        rater={"id": f"merged-{rule}", "type": "merged", "rule": rule, "raters": raters_of(group)},
        guideline=group[0].guideline if len({j.guideline for j in group}) == 1 else "",
        extra={
            "merged": sorted(j.id for j in group),
            "votes": len(group),
            "sided_with": sided(votes, tiers),
            **_licence(group),
        },
    )


def _licence(group: Sequence[Judgment]) -> dict[str, str]:
    """The strictest licence, where the judgments do not all say the same."""
    told = {licence_of(j) for j in group}
    return {"license": strictest(told).name} if len(told) > 1 else {}


def _check(judgments: Sequence[Judgment]) -> None:
    if not judgments:
        raise DataError("there is nothing to merge: give at least one judgment")
    prompts = {j.prompt.id for j in judgments}
    if len(prompts) > 1:
        raise DataError(f"judgments of one prompt can be merged, these are of {len(prompts)}")


def _distinct(judgments: Sequence[Judgment]) -> list[Judgment]:
    """Judgments in an order of their own, and what one known rater said twice only once."""
    found: dict[Any, Judgment] = {}
    for n, j in enumerate(sorted(judgments, key=lambda j: (j.id, j.raw))):
        found.setdefault(j.id if j.rater.get("id") else n, j)
    return list(found.values())


def counted(group: Sequence[Judgment], ids: Sequence[str], weights: Sequence[float]) -> Votes:
    """The votes of all judgments between answers of different ids."""
    at = {name: i for i, name in enumerate(ids)}
    over, even = np.zeros((len(ids), len(ids))), np.zeros((len(ids), len(ids)))
    for judgment, weight in zip(group, weights, strict=True):
        for (a, b), said in verdicts(judgment).items():
            i, j = (at[a], at[b]) if said >= 0 else (at[b], at[a])
            if said:
                over[i, j] += weight
            else:
                even[i, j] += weight
                even[j, i] += weight
    return Votes(over, even)


def sided(votes: Votes, tiers: Sequence[Sequence[int]]) -> float | None:
    """Of the votes that tell apart two answers which the result tells apart, the share on its side; None of none."""
    rank = {i: n for n, tier in enumerate(tiers) for i in tier}
    above = [(i, j) for i in rank for j in rank if rank[i] < rank[j]]
    with_, against = (math.fsum(votes.over[p] for p in side) for side in (above, [(j, i) for i, j in above]))
    return with_ / (with_ + against) if with_ + against > 0 else None


def _strength(group: Sequence[Judgment], two: Sequence[Candidate], tiers: Sequence[Sequence[int]]) -> float | None:
    """Of two answers: how far the mean of the raters' signed strengths points the way of the result, at least 0."""
    if len(two) != 2 or any(j.strength is None or len(j.candidates) != 2 for j in group):
        return None
    signed = [(j.strength or 0.0) * next(iter(verdicts(j).values())) for j in group]
    mean = math.fsum(signed) / len(signed)
    return 0.0 if len(tiers) == 1 else max(0.0, mean if tiers[0][0] == 0 else -mean)


def _ordered(scores: np.ndarray, tiers: Sequence[Sequence[int]]) -> bool:
    """Whether scores never stand against tiers (they can within `SAME` of each other, in a chain)."""
    ends = [(max(scores[i] for i in tier), min(scores[i] for i in tier)) for tier in tiers]
    return all(low >= high for (_, low), (high, _) in pairwise(ends))


# --- the rules: votes → a score per answer, higher for better ---------------------------------------------------------


def copeland(votes: Votes) -> np.ndarray:
    """Answers beaten by majority, even pairs counting half; two that nobody compared count for neither."""
    lead = votes.lead
    compared = (votes.over + votes.over.T + votes.even) > 0
    beaten = ((lead > 1e-12) & compared).sum(1) - ((lead < -1e-12) & compared).sum(1)
    return np.asarray(beaten, dtype=float) / 2


def bradley_terry(votes: Votes, ridge: float = RIDGE, steps: int = 100) -> np.ndarray:
    """θ of greatest Σ_ij w_ij log σ(θ_i - θ_j) - ridge/2 Σ_i θ_i², w_ij the wins of i over j and half their ties.

    Bradley & Terry 1952, "Rank analysis of incomplete block designs". The objective is strictly concave, so Newton's
    steps (halved where one does not climb) find its only top; the gradient sums to -ridge Σθ, so Σθ = 0 there.
    """
    wins = votes.over + votes.even / 2
    games, theta = wins + wins.T, np.zeros(len(wins))

    def value(t: np.ndarray) -> float:
        return float(-(wins * np.logaddexp(0.0, t[None, :] - t[:, None])).sum() - ridge / 2 * (t @ t))

    now = value(theta)
    for _ in range(steps):
        chance = 1.0 / (1.0 + np.exp(theta[None, :] - theta[:, None]))
        gradient = (wins - games * chance).sum(1) - ridge * theta
        if np.abs(gradient).max() < 1e-11 * max(1.0, games.sum()):
            break
        curve = games * chance * (1 - chance)
        step = np.linalg.solve(np.diag(curve.sum(1) + ridge) - curve, gradient)
        while value(theta + step) < now and np.abs(step).max() > 1e-14:
            step = step / 2
        theta = theta + step
        now = value(theta)
    return np.asarray(theta - theta.mean())


def ranked_pairs(votes: Votes) -> np.ndarray:
    """Tideman's ranked pairs: how many answers stand locked below each, less how many above.

    Answers must be sorted by id, for the last of the tie-breaks goes by their places. An even pair is not locked, and
    answers that the locked pairs leave alike are tied.
    """
    lead, n = votes.lead, len(votes.over)
    pairs = [(i, j) if lead[i, j] > 0 else (j, i) for i, j in combinations(range(n), 2) if abs(lead[i, j]) > 1e-12]
    pairs.sort(key=lambda p: (-round(float(lead[p]), 9), -round(float(votes.over[p]), 9), min(p), max(p)))
    above = np.eye(n, dtype=bool)  # above[i, j]: locked pairs lead from i down to j
    for i, j in pairs:
        if not above[j, i]:
            above |= np.outer(above[:, i], above[j, :])
    return np.asarray(above.sum(1) - above.sum(0), dtype=float)


SCORES = {
    "majority": copeland,
    "bradley-terry": bradley_terry,
    "tideman": ranked_pairs,
    "rater-weighted": copeland,
}


# --- how much a rater's vote counts -----------------------------------------------------------------------------------


def _weights_of(group: Sequence[Judgment], rule: str, weights: Mapping[str, float] | None) -> list[float]:
    if rule != "rater-weighted":
        return [1.0] * len(group)
    if weights is None:
        raise UserError("rater-weighted needs a weight for each rater: give them, or take `rater_weights` of all rows")
    found = []
    for j in group:
        name = str(j.rater.get("id", ""))
        if name not in weights:
            raise DataError(f"rater {name!r} of prompt {j.prompt.id!r} has no weight{nearest(name, weights)}")
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise DataError(f"the weight of rater {name!r} is {weights[name]!r}, but must be a number of at least 0")
        found.append(float(weights[name]))
    return found


PRIOR = (3.0, 1.0)
"""Votes with and against the truth that every rater is given beforehand: three in four right, as people are."""


def rater_weights(judgments: Iterable[Judgment], rounds: int = 1000) -> dict[str, float]:
    """A weight for each rater, from how often they side with what all of them together make likely.

    One accuracy a per rater over strict votes on pairs (Dawid & Skene 1979 with one coin): in turn, the chance of each
    pair's direction is taken from the raters' log-odds log a/(1 - a), and each accuracy from these chances with the
    prior `PRIOR`. The weight is the log-odds, at least 0: the vote that makes the weighted majority the likeliest
    direction. Pairs that a single rater ordered say nothing of anybody and are left out. Memory: 13 bytes a vote, and
    some ten times that for a moment at the end.
    """
    names: dict[str, int] = {}
    units, raters, verdict = Hashes(), array("i"), array("b")
    for j in judgments:
        rater = names.setdefault(str(j.rater.get("id", "")), len(names))
        for (a, b), said in verdicts(j).items():
            if said:
                units.add(hashed(j.prompt.id, a, b))
                raters.append(rater)
                verdict.append(said)
    pairs, unit = np.unique(units.numpy(), return_inverse=True)
    votes = np.stack([unit, np.array(raters, dtype=np.int64), np.array(verdict, dtype=np.int64)], 1)
    accuracy = _accuracies(votes, len(pairs), len(names), rounds)
    odds = np.maximum(0.0, np.log(accuracy) - np.log1p(-accuracy))
    return {name: float(odds[i]) for name, i in sorted(names.items())}


def _accuracies(votes: np.ndarray, units: int, raters: int, rounds: int) -> np.ndarray:
    good, bad = PRIOR
    shared = np.bincount(votes[:, 0], minlength=units)[votes[:, 0]] > 1
    unit, rater, said = votes[shared].T if shared.any() else np.zeros((3, 0), dtype=np.int64)
    accuracy = np.full(raters, good / (good + bad))
    for _ in range(rounds):
        odds = np.log(accuracy) - np.log1p(-accuracy)
        total = np.bincount(unit, weights=odds[rater] * said, minlength=units)
        first = 1.0 / (1.0 + np.exp(-total[unit]))  # the chance that the first of the pair is the better one
        right = np.where(said > 0, first, 1 - first)
        hits = np.bincount(rater, weights=right, minlength=raters)
        before, accuracy = accuracy, (hits + good) / (np.bincount(rater, minlength=raters) + good + bad)
        if np.abs(accuracy - before).max() < 1e-9:
            break
    return accuracy
