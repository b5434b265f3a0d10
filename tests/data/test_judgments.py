"""The laws of the algebra of judgments, over every way to rank two to nine answers."""

from __future__ import annotations

import math

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


def _judgment(tiers: Tiers) -> Judgment:
    prompt = Prompt(messages=({"role": "user", "content": "q"},))
    k = sum(map(len, tiers))
    return Judgment(
        prompt=prompt, candidates=tuple(Candidate(prompt_id=prompt.id, answer=str(i)) for i in range(k)), tiers=tiers
    )


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
