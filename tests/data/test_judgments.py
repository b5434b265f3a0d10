"""The laws of the algebra of judgments, over every way to rank two to nine answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.data import judgments
from kilter.data.records import Candidate, Judgment, Prompt
from kilter.errors import DataError

Tiers = tuple[tuple[int, ...], ...]


@st.composite
def weak_orders(draw: st.DrawFn) -> Tiers:
    """A weak order of K = 2..9 candidates."""
    places = draw(st.lists(st.integers(0, 8), min_size=2, max_size=9))
    return tuple(tuple(i for i, p in enumerate(places) if p == place) for place in sorted(set(places)))


def edges(tiers: Tiers) -> dict[tuple[int, int], float]:
    return {(p.better, p.worse): p.weight for p in judgments.pairs(tiers)}


@given(weak_orders())
def test_a_tie_gives_no_pair_and_every_other_two_candidates_give_one(tiers: Tiers) -> None:
    rank, found = judgments.ranks(tiers), edges(tiers)
    for i in range(len(rank)):
        for j in range(len(rank)):
            assert ((i, j) in found) == (rank[i] < rank[j])


@given(weak_orders())
def test_weights_of_a_prompt_sum_to_one_or_to_nothing_when_all_is_tied(tiers: Tiers) -> None:
    total = math.fsum(edges(tiers).values())
    assert total == (0.0 if len(tiers) == 1 else pytest.approx(1.0, abs=1e-12))
    assert len(set(edges(tiers).values())) <= 1  # every pair of a prompt counts alike


@given(weak_orders(), st.randoms(use_true_random=False))
def test_the_order_of_presentation_changes_nothing(tiers: Tiers, random: object) -> None:
    k = sum(map(len, tiers))
    shuffled = list(range(k))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    moved = tuple(
        tuple(shuffled.index(i) for i in reversed(tier)) for tier in tiers
    )  # candidate i now stands elsewhere
    back = {(shuffled[b], shuffled[w]): weight for (b, w), weight in edges(moved).items()}
    assert back == edges(tiers)


@given(weak_orders())
def test_reversing_the_order_swaps_every_pair(tiers: Tiers) -> None:
    assert {(w, b): weight for (b, w), weight in edges(tuple(reversed(tiers))).items()} == edges(tiers)


@given(weak_orders())
def test_ranks_and_tiers_from_scores_are_inverse(tiers: Tiers) -> None:
    rank = judgments.ranks(tiers)
    assert judgments.tiers_from_scores([-float(r) for r in rank]) == tuple(tuple(sorted(t)) for t in tiers)


def test_six_pairs_of_four_candidates_weigh_a_sixth_each() -> None:
    assert edges(((2,), (0,), (3,), (1,))) == {
        (2, 0): 1 / 6,
        (2, 3): 1 / 6,
        (2, 1): 1 / 6,
        (0, 3): 1 / 6,
        (0, 1): 1 / 6,
        (3, 1): 1 / 6,
    }
    assert edges(((0, 1), (2,))) == {(0, 2): 0.5, (1, 2): 0.5}


def test_neighbours_within_the_width_are_tied() -> None:
    assert judgments.tiers_from_scores([0.1, 0.9, 0.85, 0.0], width=0.1) == ((1, 2), (0, 3))


def _judgment(tiers: Tiers, answers: Sequence[str] = (), **more: Any) -> Judgment:
    prompt = Prompt(messages=({"role": "user", "content": "q"},))
    answers = answers or [str(i) for i in range(sum(map(len, tiers)))]
    made = tuple(Candidate(prompt_id=prompt.id, answer=a) for a in answers)
    return Judgment(prompt=prompt, candidates=made, tiers=tiers, **more)


def named(row: judgments.Ranking) -> dict[tuple[str, str], tuple[float, float, float]]:
    """A row's pairs by the text of their answers: weight, margin, certainty."""
    texts = [c.answer for c in row.candidates]
    return {(texts[p.better], texts[p.worse]): (p.weight, p.margin, p.sure) for p in row.pairs}


@given(weak_orders())
def test_a_judgment_that_says_no_more_than_its_order_gives_that_orders_pairs(tiers: Tiers) -> None:
    row = judgments.ranking(_judgment(tiers))
    assert row.pairs == judgments.pairs(tiers)
    assert (row.tiers, row.ratings) == (tiers, ())


@given(weak_orders(), st.integers(0, 3))
def test_answers_of_one_text_are_never_a_pair_and_the_rest_weighs_one(tiers: Tiers, kinds: int) -> None:
    k = sum(map(len, tiers))
    row = judgments.ranking(_judgment(tiers, [str(i % (kinds + 1)) for i in range(k)]))
    texts = [c.answer for c in row.candidates]
    assert all(texts[p.better] != texts[p.worse] for p in row.pairs)
    assert math.fsum(p.weight for p in row.pairs) == (pytest.approx(1.0) if row.pairs else 0.0)


@given(weak_orders(), st.floats(0, 5))
def test_strength_is_spread_over_the_way_from_best_to_last(tiers: Tiers, strength: float) -> None:
    rank = judgments.ranks(tiers)
    for pair in judgments.preferences(_judgment(tiers, strength=strength)):
        share = (rank[pair.worse] - rank[pair.better]) / (len(tiers) - 1)
        assert pair.margin == pytest.approx(strength * share, abs=1e-12)
        if share == 1:
            assert pair.margin == strength


def test_margins_by_hand() -> None:
    # 1 > 0 = 2 > 3, strength 0.6: neighbouring tiers are half the way apart.
    found = named(judgments.ranking(_judgment(((1,), (0, 2), (3,)), strength=0.6)))
    fifth = pytest.approx(0.2)
    assert found == {
        ("1", "0"): (fifth, pytest.approx(0.3), 1.0),
        ("1", "2"): (fifth, pytest.approx(0.3), 1.0),
        ("1", "3"): (fifth, pytest.approx(0.6), 1.0),
        ("0", "3"): (fifth, pytest.approx(0.3), 1.0),
        ("2", "3"): (fifth, pytest.approx(0.3), 1.0),
    }
    rated = judgments.preferences(_judgment(((0,), (1,)), ratings=(4.5, 2.0)))
    assert [p.margin for p in rated] == [2.5]
    both = judgments.preferences(_judgment(((0,), (1,)), ratings=(4.5, 2.0), strength=1.0))
    assert [p.margin for p in both] == [1.0]  # what the rater said of the pair goes before what was said of each


def test_a_scale_of_eight_points_by_hand() -> None:
    seen = [judgments.from_scale(p, 8) for p in range(1, 9)]
    assert [tiers for tiers, _ in seen] == [((0,), (1,))] * 4 + [((1,), (0,))] * 4
    assert [s for _, s in seen] == pytest.approx([1, 5 / 7, 3 / 7, 1 / 7, 1 / 7, 3 / 7, 5 / 7, 1])
    assert judgments.from_scale(4, 7) == (((0, 1),), 0.0)


@given(st.integers(2, 20), st.data())
def test_the_other_end_of_a_scale_swaps_the_answers(points: int, data: st.DataObject) -> None:
    point = data.draw(st.integers(1, points))
    (tiers, strength), (swapped, same) = (judgments.from_scale(p, points) for p in (point, points + 1 - point))
    assert swapped == (tiers if len(tiers) == 1 else tuple(reversed(tiers)))
    assert strength == same


@given(weak_orders(), st.integers(1, 4), st.floats(0.6, 1.0))
def test_pooling_one_opinion_many_times_says_the_same(tiers: Tiers, times: int, sure: float) -> None:
    one = _judgment(tiers, strength=0.5, probability=sure)
    found, wanted = named(judgments.pooled([one] * times)), named(judgments.ranking(one))
    assert found.keys() == wanted.keys()
    for key in found:
        assert found[key] == pytest.approx(wanted[key], abs=1e-12)


@given(st.lists(st.permutations(range(4)), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_pooled_pairs_weigh_one_whatever_the_order_of_judgments_and_swap_when_all_are_reversed(
    orders: list[list[int]], random: Any
) -> None:
    group = [_judgment(tuple((i,) for i in order)) for order in orders]
    found = named(judgments.pooled(group))
    total = math.fsum(weight for weight, _, _ in found.values())
    assert total == (pytest.approx(1.0) if found else 0.0)
    assert all(0.5 < sure <= 1 for _, _, sure in found.values())
    shuffled = list(group)
    random.shuffle(shuffled)
    assert named(judgments.pooled(shuffled)) == found
    swapped = named(judgments.pooled([_judgment(tuple(reversed(j.tiers))) for j in group]))
    assert {(w, b) for b, w in swapped} == set(found)
    for (b, w), row in swapped.items():
        assert found[w, b] == pytest.approx(row, abs=1e-12)


def test_three_raters_who_disagree_by_hand() -> None:
    # a > b > c; b > a > c with a probability of 0.8; a = b > c: a over b is (1 + 0.2 + 0.5) / 3, c is last for all.
    group = [
        _judgment(((0,), (1,), (2,)), "abc"),
        _judgment(((1,), (0,), (2,)), "abc", probability=0.8),
        _judgment(((0, 1), (2,)), "abc"),
    ]
    found = named(judgments.pooled(group))
    third, last = pytest.approx(1 / 3), pytest.approx((1 + 0.8 + 1) / 3)
    assert found == {
        ("a", "b"): (third, 0.0, pytest.approx(1.7 / 3)),
        ("a", "c"): (third, 0.0, last),
        ("b", "c"): (third, 0.0, last),
    }
    split = judgments.pooled([_judgment(((0,), (1,))), _judgment(((1,), (0,)))])
    assert split.pairs == ()  # evenly split: nobody knows which is better


def test_judgments_of_other_answers_to_the_prompt_are_pooled_by_the_answer() -> None:
    found = named(judgments.pooled([_judgment(((0,), (1,)), "xy"), _judgment(((0,), (1,)), "yz")]))
    assert found == {("x", "y"): (0.5, 0.0, 1.0), ("y", "z"): (0.5, 0.0, 1.0)}


@given(weak_orders())
def test_labels_turn_with_the_order_and_a_tie_has_none(tiers: Tiers) -> None:
    found, turned = judgments.labels(tiers), judgments.labels(tuple(reversed(tiers)))
    assert [None if x is None else not x for x in turned] == list(found)
    rank = judgments.ranks(tiers)
    assert all((found[i] == found[j]) for i in range(len(rank)) for j in range(len(rank)) if rank[i] == rank[j])
    assert any(x is not None for x in found) == (len(tiers) > 1)


def test_labels_by_hand() -> None:
    assert judgments.labels(((0,), (1,))) == (True, False)
    assert judgments.labels(((2,), (0,), (1,))) == (None, False, True)
    assert judgments.labels(((0,), (1, 2, 3))) == (True, False, False, False)
    assert judgments.labels(((0, 1), (2,)), all_bad=True) == (False, False, False)
    assert judgments.ranking(_judgment(((0,), (1,)), flags=(False, None))).labels == (False, None)


@given(weak_orders())
def test_ties_and_pairs_together_are_every_two_answers_once(tiers: Tiers) -> None:
    tied = judgments.ties(tiers)
    found = {frozenset(p) for p in tied} | {frozenset((p.better, p.worse)) for p in judgments.pairs(tiers)}
    k = sum(map(len, tiers))
    assert len(found) == k * (k - 1) // 2 == len(tied) + len(judgments.pairs(tiers))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"strength": math.nan}, "finite number of at least 0, got nan"),
        ({"strength": -0.5}, "at least 0, got -0.5"),
        ({"strength": "much"}, "at least 0, got 'much'"),
        ({"ratings": (1.0,)}, "for each of the 2 answers"),
        ({"ratings": (1.0, math.inf)}, "finite number"),
        ({"ratings": (1.0, 2.0)}, "order the answers differently"),
        ({"probability": 0.5}, "above 0.5 and at most 1"),
        ({"probability": 0.3}, "turn the order round"),
        ({"probability": math.nan}, "above 0.5"),
        ({"flags": (True,)}, "true, false or null"),
        ({"flags": (1, 0)}, "true, false or null"),
    ],
)
def test_what_a_judgment_adds_must_make_sense(more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _judgment(((0,), (1,)), **more)


def test_agreement_counts_only_pairs_that_both_order_strictly() -> None:
    # first: 0 > 1 > 2; second: 1 > 0 = 2. Both strict: (0,1) disagree, (1,2) agree; (0,2) is tied for the second.
    assert judgments.agreement([_judgment(((0,), (1,), (2,)))], [_judgment(((1,), (0, 2)))]) == 0.5
    assert math.isnan(judgments.agreement([_judgment(((0, 1),))], [_judgment(((0,), (1,)))]))


@given(weak_orders())
def test_agreement_with_itself_is_whole_and_with_its_reverse_nothing(tiers: Tiers) -> None:
    if len(tiers) > 1:
        assert judgments.agreement([_judgment(tiers)], [_judgment(tiers)]) == 1.0
        assert judgments.agreement([_judgment(tiers)], [_judgment(tuple(reversed(tiers)))]) == 0.0


@pytest.mark.parametrize("tiers", [((0,),), ((0, 0), (1,)), ((0,), (2,)), ((0,), (1,), (2,))])
def test_tiers_must_name_every_candidate_once(tiers: Tiers) -> None:
    prompt = Prompt(messages=({"role": "user", "content": "q"},))
    two = tuple(Candidate(prompt_id=prompt.id, answer=str(i)) for i in range(2))
    with pytest.raises(DataError, match="exactly once"):
        Judgment(prompt=prompt, candidates=two, tiers=tiers)
