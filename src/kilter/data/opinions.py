"""What raters say on each kind of scale, as a judgment: a weak order with strength, and the rule that made it one.

Two answers     a scale of points (Anthropic's 8), words (Llama 2's four), a signed scale (HelpSteer's -3 to 3)
Each answer     thumbs, a rating, ratings of several aspects
An answer       edited: what was written anew stands above what it was made from; a critique orders nothing
Twice           both orders of presentation by one judge
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from kilter.data.judgments import STRENGTHS, from_scale, tiers_from_scores
from kilter.data.records import Candidate, Judgment, Prompt, is_number
from kilter.errors import DataError, nearest

Candidates = Sequence[Candidate]
ORDERS = ("tie", "soft")
"""What becomes of two orders of presentation that were judged differently."""


def on_scale(prompt: Prompt, two: Candidates, point: int, points: int = 8, **said: Any) -> Judgment:
    """A point of a scale from 1 (the first is far better) to `points` (the second is); 8 points leave no tie."""
    _two(two)
    if type(point) is not int or type(points) is not int or points < 2 or not 1 <= point <= points:
        raise DataError(f"a point of the scale must be a whole number from 1 to {points}, got {point!r}")
    tiers, strength = from_scale(point, points)
    return Judgment(kind="pair", prompt=prompt, candidates=tuple(two), tiers=tiers, strength=strength, **said)


def in_words(prompt: Prompt, two: Candidates, better: int, word: str, **said: Any) -> Judgment:
    """Which of two is better (0 or 1) and how much in one of the four words of `STRENGTHS`; none of them is a tie."""
    _two(two)
    if word not in STRENGTHS:
        raise DataError(f"strength {word!r} is not one of its words{nearest(word, STRENGTHS)}")
    if better not in (0, 1):
        raise DataError(f"the better of two answers is 0 or 1, got {better!r}")
    tiers = ((better,), (1 - better,))
    return Judgment(kind="pair", prompt=prompt, candidates=tuple(two), tiers=tiers, strength=STRENGTHS[word], **said)


def signed(prompt: Prompt, two: Candidates, preference: float, most: float = 3, **said: Any) -> Judgment:
    """A number from -`most` (the first is far better) over 0 (a tie) to `most` (the second is)."""
    _two(two)
    if not is_number(preference) or abs(preference) > most:
        raise DataError(f"a preference must be a number from -{most:g} to {most:g}, got {preference!r}")
    tiers = tiers_from_scores([-preference, preference])
    strength = abs(preference) / most
    return Judgment(kind="pair", prompt=prompt, candidates=tuple(two), tiers=tiers, strength=strength, **said)


def thumbs(prompt: Prompt, answers: Candidates, up: Sequence[bool], **said: Any) -> Judgment:
    """Good or bad for each answer: the good ones stand above the bad ones; where none is good, all are bad."""
    if len(up) != len(answers) or not all(isinstance(u, bool) for u in up):
        raise DataError(
            f"thumbs must be true or false for each of the {len(answers)} answers, got {list(up)!r}; leave out an "
            "answer of which nothing was said"
        )
    said = {"all_bad": len(up) > 1 and not any(up), **said}
    tiers = tiers_from_scores([float(u) for u in up])
    return Judgment(kind="flag", prompt=prompt, candidates=tuple(answers), tiers=tiers, flags=tuple(up), **said)


def rated(
    prompt: Prompt, answers: Candidates, ratings: Sequence[float], low: float = 1, high: float = 10, **said: Any
) -> Judgment:
    """A rating from `low` to `high` for each answer; equal ones tie."""
    if len(ratings) != len(answers) or not all(is_number(r) and low <= r <= high for r in ratings):
        raise DataError(
            f"ratings must be a number from {low:g} to {high:g} for each of the {len(answers)} answers, got "
            f"{list(ratings)!r}"
        )
    tiers = tiers_from_scores(ratings)
    return Judgment(
        kind="rating", prompt=prompt, candidates=tuple(answers), tiers=tiers, ratings=tuple(ratings), **said
    )


def by_aspects(
    prompt: Prompt,
    answers: Candidates,
    aspects: Sequence[Mapping[str, float | None]],
    weights: Mapping[str, float],
    overall: Sequence[float] = (),
    **said: Any,
) -> Judgment:
    """Ratings of several aspects; an answer's rating is their weighted mean.

    An aspect that any of the answers lacks is left out for all of them, so that all are weighed by the same sum; where
    none is left the row is refused. With `overall` ratings beside them, the aspects decide, and each two answers that
    the overall ratings order the other way are noted. All of that stands in `extra["aspects"]`.
    """
    if len(aspects) != len(answers) or not answers:
        raise DataError(f"aspects must hold one object for each of the {len(answers)} answers, got {len(aspects)}")
    if not weights or not all(is_number(w) and w > 0 for w in weights.values()):
        raise DataError(f"weights of aspects must be numbers above 0, got {dict(weights)!r}")
    bad = [v for row in aspects for v in row.values() if v is not None and not is_number(v)]
    if bad or (overall and (len(overall) != len(answers) or not all(map(is_number, overall)))):
        raise DataError(f"ratings of aspects must be finite numbers or null, got {bad[0] if bad else overall!r}")
    used = [a for a in weights if all(row.get(a) is not None for row in aspects)]
    if not used:
        raise DataError(f"none of the aspects {', '.join(weights)} is rated for every answer")
    whole = sum(weights[a] for a in used)
    ratings = tuple(sum(weights[a] * float(row[a] or 0.0) for a in used) / whole for row in aspects)
    conflicts = [
        [i, j]
        for i, j in combinations(range(len(answers)), 2)
        if overall and (ratings[i] - ratings[j]) * (overall[i] - overall[j]) < 0
    ]
    note: dict[str, Any] = {"rule": "weighted mean", "weights": {a: weights[a] for a in used}}
    note["left_out"] = [a for a in weights if a not in used]
    if overall:
        note |= {"overall": list(overall), "conflicts": conflicts}
    return Judgment(
        kind="rating",
        prompt=prompt,
        candidates=tuple(answers),
        tiers=tiers_from_scores(ratings),
        ratings=ratings,
        aspects=tuple(dict(row) for row in aspects),
        **{**said, "extra": {**said.get("extra", {}), "aspects": note}},
    )


def edited(prompt: Prompt, original: Candidate, answer: str, **said: Any) -> Judgment:
    """An answer written anew: it stands above the one that it was made from, which is its parent."""
    if answer == original.answer:
        raise DataError("the edited answer is the original, which says nothing about it")
    made = Candidate(
        prompt_id=prompt.id, answer=answer, parent=original.id, generator={"edited_by": said.get("rater", {})}
    )
    return Judgment(kind="edit", prompt=prompt, candidates=(original, made), tiers=((1,), (0,)), **said)


def critiqued(prompt: Prompt, answers: Candidates, text: str, **said: Any) -> Judgment:
    """A text about answers: it is kept as it was written and says nothing of their order, so all are tied."""
    if not text.strip():
        raise DataError("a critique must be a text that is not empty")
    tiers = (tuple(range(len(answers))),)
    return Judgment(kind="critique", prompt=prompt, candidates=tuple(answers), tiers=tiers, raw=text, **said)


def both_orders(first: Judgment, second: Judgment, rule: str = "tie") -> Judgment:
    """Two judgments of the same two answers by one judge, shown in either order, as one.

    Each says how sure it is that one answer is better (1 where it gives no probability, one half where it ties). Where
    both order the answers alike, their mean is the certainty and the mean strength the strength. Where they don't,
    rule `tie` ties the answers, and rule `soft` keeps the mean as a certainty (a mean of one half is a tie). What is
    left between the two, from 0 to 1, is the residue: `extra["orders"]` holds it, the rule and both judgments' ids.
    """
    if rule not in ORDERS:
        raise DataError(f"rule {rule!r} for both orders is not one of its words{nearest(rule, ORDERS)}")
    _two(first.candidates)
    names = [c.id for c in first.candidates]
    if first.prompt.id != second.prompt.id or sorted(names) != sorted(c.id for c in second.candidates):
        raise DataError("both orders of one comparison must hold the same prompt and the same two answers")
    shares = [_share(j, names[0]) for j in (first, second)]
    mean, agree = sum(shares) / 2, (shares[0] - 0.5) * (shares[1] - 0.5) > 0 or shares == [0.5, 0.5]
    tied = abs(mean - 0.5) < 1e-12 or (not agree and rule == "tie")
    strengths = [j.strength for j in (first, second) if j.strength is not None]
    lead = [s * ((share > 0.5) - (share < 0.5)) for s, share in zip(strengths, shares, strict=False)]
    ahead = 0 if mean > 0.5 else 1
    sure = max(mean, 1 - mean)
    note = {"rule": rule, "agree": agree, "residue": abs(shares[0] - shares[1]), "judgments": [first.id, second.id]}
    return dataclasses.replace(
        first,
        id="",
        kind="pair",
        tiers=((0, 1),) if tied else ((ahead,), (1 - ahead,)),
        order_shown=(),
        strength=0.0 if tied and len(lead) == 2 else abs(sum(lead)) / 2 if len(lead) == 2 else None,
        probability=None if tied or sure == 1.0 else sure,
        ratings=(),
        all_bad=first.all_bad and second.all_bad,
        seconds=None,
        raw="",
        extra={**first.extra, "orders": note},
    )


def joined(judgments: Sequence[Judgment], rule: str = "tie") -> list[Judgment]:
    """Judgments of one prompt, those of the same two answers by one known rater in either order made one.

    Which answer a judgment saw first must be noted in it; the others are left as they are.
    """
    waiting: dict[Any, int] = {}
    out: list[Judgment] = []
    for j in judgments:
        if len(j.candidates) != 2 or not j.order_shown or not j.rater.get("id"):
            out.append(j)
            continue
        first, second = (j.candidates[i].id for i in j.order_shown)
        other = waiting.pop((j.rater["id"], second, first), None)
        if other is None:
            waiting[j.rater["id"], first, second] = len(out)
            out.append(j)
        else:
            out[other] = both_orders(out[other], j, rule)
    return out


def _share(judgment: Judgment, name: str) -> float:
    """How sure a judgment of two answers is that the one of this id is the better."""
    tiers = [t for t in judgment.tiers if t]
    if len(tiers) == 1:
        return 0.5
    sure = 1.0 if judgment.probability is None else judgment.probability
    return sure if judgment.candidates[tiers[0][0]].id == name else 1 - sure


def _two(answers: Candidates) -> None:
    if len(answers) != 2:
        raise DataError(f"this scale compares two answers, got {len(answers)}")
