"""Merging several raters: known elections, brute force, and the laws."""

from __future__ import annotations

import dataclasses
import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import by, judgment, reordered, weak_orders, words_of

from kilter.data import merging
from kilter.data.records import Judgment
from kilter.errors import DataError, UserError

WEIGHTS = {f"r{n}": w for n, w in enumerate([1.0, 2.0, 0.5, 1.5])}


@st.composite
def groups(draw: st.DrawFn) -> list[Judgment]:
    """One to four raters' weak orders of four answers."""
    return [by(f"r{n}", draw(weak_orders(4, 4)), "abcd") for n in range(draw(st.integers(1, 4)))]


def merge(group: list[Judgment], rule: str) -> Judgment:
    return merging.merge(group, rule, WEIGHTS if rule == "rater-weighted" else None)


@pytest.mark.parametrize("rule", merging.RULES)
@settings(max_examples=30)
@given(group=groups())
def test_merging_again_changes_nothing(rule: str, group: list[Judgment]) -> None:
    once = merge(group, rule)
    assert merge([once], rule) == once
    assert words_of(merge([*group, *group], rule)) == words_of(once)  # one rater's same word counts once


@pytest.mark.parametrize("rule", merging.RULES)
@settings(max_examples=30)
@given(group=groups(), random=st.randoms(use_true_random=False))
def test_order_of_judgments_and_of_candidates_changes_nothing(rule: str, group: list[Judgment], random: Any) -> None:
    moved = []
    for j in group:
        order = list(range(4))
        random.shuffle(order)
        moved.append(reordered(j, order))
    random.shuffle(moved)
    a, b = merge(group, rule), merge(moved, rule)
    assert words_of(a) == words_of(b)
    assert a.extra == b.extra
    assert a.id == b.id or len(group) == 1


@pytest.mark.parametrize("rule", merging.RULES)
@settings(max_examples=30)
@given(group=groups())
def test_were_all_judgments_reversed_so_would_be_the_result(rule: str, group: list[Judgment]) -> None:
    turned = [by(str(j.rater["id"]), tuple(reversed(j.tiers)), "abcd") for j in group]
    assert words_of(merge(turned, rule)) == words_of(merge(group, rule))[::-1]


@pytest.mark.parametrize("rule", merging.RULES)
@settings(max_examples=30)
@given(tiers=weak_orders(2, 6), count=st.integers(2, 4))
def test_raters_of_one_mind_keep_their_order(rule: str, tiers: Any, count: int) -> None:
    group = [by(f"r{n}", tiers) for n in range(count)]
    merged = merge(group, rule)
    assert words_of(merged) == words_of(group[0])
    assert merged.extra["sided_with"] == (1.0 if len(tiers) > 1 else None)
    assert merged.rater == {
        "id": f"merged-{rule}",
        "type": "merged",
        "rule": rule,
        "raters": [f"r{n}" for n in range(count)],
    }
    assert merged.extra["votes"] == count
    assert merged.extra["merged"] == sorted(j.id for j in group)


# Tennessee chooses a capital: https://en.wikipedia.org/wiki/Ranked_pairs; M, N, C, K are its four cities.
TENNESSEE = {"MNCK": 42, "NCKM": 26, "CKNM": 15, "KCNM": 17}


def election(votes: dict[str, int]) -> list[Judgment]:
    names = sorted(next(iter(votes)))
    return [
        by(f"{order}{n}", tuple((names.index(c),) for c in order), names)
        for order, count in votes.items()
        for n in range(count)
    ]


@pytest.mark.parametrize("rule", ["tideman", "majority"])
def test_nashville_is_the_capital(rule: str) -> None:
    merged = merge(election(TENNESSEE), rule)
    assert words_of(merged) == [["N"], ["C"], ["K"], ["M"]]
    # N over M, C, K: 58, 68, 68; C over M, K: 58, 83; K over M: 58 of a hundred each
    assert merged.extra["sided_with"] == pytest.approx((58 + 68 + 68 + 58 + 83 + 58) / 600)


def test_a_circle_is_opened_where_it_is_weakest() -> None:
    # a over b by 8 to 3, b over c by 7 to 4, c over a by 6 to 5: the last majority would close the circle.
    votes = {"abc": 5, "bca": 2, "cab": 3, "bac": 0, "cba": 1}
    assert sum(votes.values()) == 11
    merged = merge(election({k: v for k, v in votes.items() if v}), "tideman")
    assert words_of(merged) == [["a"], ["b"], ["c"]]
    assert words_of(merge(election({"abc": 1, "bca": 1, "cab": 1}), "majority")) == [["a", "b", "c"]]


def brute_tideman(votes: merging.Votes) -> set[tuple[int, int]]:
    """Ranked pairs by its words: lock each majority unless a path leads back."""
    n, locked = len(votes.over), set()
    pairs = [(i, j) for i in range(n) for j in range(n) if votes.lead[i, j] > 0]
    for i, j in sorted(pairs, key=lambda p: (-votes.lead[p], -votes.over[p], min(p), max(p))):
        reached, front = {j}, [j]
        while front:
            at = front.pop()
            new = {y for x, y in locked if x == at} - reached
            reached |= new
            front += new
        if i not in reached:
            locked.add((i, j))
    return locked


@given(groups())
def test_tidemans_order_holds_every_pair_that_brute_force_locks(group: list[Judgment]) -> None:
    ids = sorted({c.id for j in group for c in j.candidates})
    votes = merging.counted(group, ids, [1.0] * len(group))
    scores = merging.ranked_pairs(votes)
    assert all(scores[i] > scores[j] for i, j in brute_tideman(votes))


def climb(wins: np.ndarray, ridge: float, steps: int = 8000) -> np.ndarray:
    """The top of the same objective by plain gradient steps in float64."""
    theta = np.zeros(len(wins))
    for _ in range(steps):
        chance = 1 / (1 + np.exp(theta[None] - theta[:, None]))
        theta = theta + 0.1 * ((wins - (wins + wins.T) * chance).sum(1) - ridge * theta)
    return theta


@settings(max_examples=4)
@given(groups())
def test_bradley_terry_finds_the_top_that_gradient_steps_find(group: list[Judgment]) -> None:
    ids = sorted({c.id for j in group for c in j.candidates})
    votes = merging.counted(group, ids, [1.0] * len(group))
    found = merging.bradley_terry(votes, ridge=0.1)
    assert found == pytest.approx(climb(votes.over + votes.even / 2, 0.1), abs=1e-6)
    assert found.sum() == pytest.approx(0, abs=1e-9)


def test_bradley_terry_by_hand() -> None:
    # Without a ridge, 3 wins to 1 are log 3 apart; a tie is half a win each, so 2 wins and 2 ties are 3 to 1 as well.
    even = np.zeros((2, 2))
    wins = merging.Votes(np.array([[0.0, 3.0], [1.0, 0.0]]), even)
    tied = merging.Votes(np.array([[0.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [2.0, 0.0]]))
    for votes in (wins, tied):
        a, b = merging.bradley_terry(votes, ridge=1e-12)
        assert a - b == pytest.approx(math.log(3), abs=1e-9)
    lost = merging.bradley_terry(merging.Votes(np.array([[0.0, 5.0], [0.0, 0.0]]), even))
    assert np.isfinite(lost).all()
    assert lost[0] > lost[1]


def test_bradley_terry_orders_what_majorities_leave_open() -> None:
    # ratings are the strengths; of three raters two say a > b > c and one c > a > b
    merged = merge(election({"abc": 2, "cab": 1}), "bradley-terry")
    # wins: a over b 3 to 0, a over c and b over c 2 to 1; b won 2 of 6 pairs, and so did c
    assert words_of(merged) == [["a"], ["b", "c"]]
    rated = dict(zip((c.answer for c in merged.candidates), merged.ratings, strict=True))
    assert rated["a"] > rated["b"] == pytest.approx(rated["c"], abs=1e-9)


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_weights_decide_between_raters(order: tuple[str, ...]) -> None:
    names = "abc"
    mine = by("r1", tuple((names.index(c),) for c in order), names)
    others = [by(r, tuple((names.index(c),) for c in reversed(order)), names) for r in ("r0", "r2")]
    merged = merging.merge([mine, *others], "rater-weighted", {"r0": 1, "r1": 2, "r2": 0.5})
    assert words_of(merged) == [[c] for c in order]
    assert words_of(merge([mine, *others], "majority")) == [[c] for c in reversed(order)]
    assert merged.extra["sided_with"] == pytest.approx(2 / 3.5)
    with pytest.raises(DataError, match="rater 'r2' of prompt"):
        merging.merge([mine, *others], "rater-weighted", {"r0": 1, "r1": 2})
    with pytest.raises(UserError, match="needs a weight for each rater"):
        merging.merge([mine, *others], "rater-weighted")


def test_estimated_weights_find_who_guesses() -> None:
    rng = np.random.default_rng(3)
    right = {"careful": 0.95, "usual": 0.8, "weak": 0.65, "guess": 0.5}
    rows = []
    for n in range(1500):
        for name, share in right.items():
            good = rng.random() < share
            truth = bool(n % 2)  # which of the two answers is really better
            rows.append(by(name, ((0,), (1,)) if good == truth else ((1,), (0,)), text=str(n)))
    found = merging.rater_weights(rows)
    for name, share in right.items():
        assert 1 / (1 + math.exp(-found[name])) == pytest.approx(share, abs=0.06)
    assert sorted(found, key=lambda name: -found[name]) == list(right)
    assert merging.rater_weights(rows[::-1]) == pytest.approx(found, abs=1e-9)
    alone = merging.rater_weights([by("alone", ((0,), (1,)))])
    assert alone == {"alone": pytest.approx(math.log(3))}  # nothing is known but the prior


def test_two_answers_keep_the_strength_that_the_raters_agree_on() -> None:
    group = [by("r1", ((0,), (1,)), strength=1.0), by("r2", ((0,), (1,)), strength=0.5)]
    group.append(by("r3", ((1,), (0,)), strength=0.5))
    merged = merge(group, "majority")
    assert (words_of(merged), merged.kind) == ([["0"], ["1"]], "pair")
    assert merged.strength == pytest.approx((1.0 + 0.5 - 0.5) / 3)
    assert merge([by("r1", ((0,), (1,))), group[0]], "majority").strength is None


def test_all_bad_needs_most_of_the_raters() -> None:
    raters = [by(f"r{n}", ((0,), (1,)), all_bad=n < 2) for n in range(4)]
    assert merge(raters[:3], "majority").all_bad
    assert not merge(raters, "majority").all_bad


def test_answers_that_only_some_judged_are_all_in_the_merger() -> None:
    group = [by("r1", ((0,), (1,)), "ab"), by("r2", ((0,), (1,)), "bc")]
    for rule in ("majority", "tideman", "bradley-terry"):
        assert words_of(merge(group, rule)) == [["a"], ["b"], ["c"]]


def test_raters_without_an_id_count_each() -> None:
    group = [judgment(((0,), (1,))), judgment(((0,), (1,))), judgment(((1,), (0,)))]
    merged = merge(group, "majority")
    assert (words_of(merged), merged.extra["votes"]) == ([["0"], ["1"]], 3)


def test_a_merger_carries_the_strictest_licence_of_its_judgments() -> None:
    one, other = by("r1", ((0,), (1,))), by("r2", ((0,), (1,)), extra={"license": "cc-by-nc-4.0"})
    prompt = dataclasses.replace(one.prompt, license="MIT")
    group = [dataclasses.replace(j, prompt=prompt) for j in (one, other)]
    assert merge(group, "majority").extra["license"] == "CC-BY-NC-4.0"
    assert (
        "license" not in merge([group[0], dataclasses.replace(group[0], id="", rater={"id": "r3"})], "majority").extra
    )


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to merge"):
        merging.merge([])
    with pytest.raises(DataError, match="these are of 2"):
        merging.merge([judgment(((0,), (1,)), text="p"), judgment(((0,), (1,)), text="q")])
    with pytest.raises(UserError, match="did you mean 'tideman'"):
        merging.merge([judgment(((0,), (1,)))], "tidman")
