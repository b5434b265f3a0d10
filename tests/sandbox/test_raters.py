"""Simulated raters: each dial does what its sentence says, and nothing depends on the order of work."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data.judgments import agreement
from kilter.data.records import Candidate, Judgment
from kilter.errors import DataError
from kilter.sandbox.oracle import score
from kilter.sandbox.raters import Rater, order_shown, pool, rank
from kilter.sandbox.show import candidates
from kilter.sandbox.tasks import prompts

PROMPTS = list(prompts("rank", 21, 400))
ROWS = [(p, candidates(p, 21)) for p in PROMPTS]
EXACT = Rater(id="exact", noise=0.0, carelessness=0.0, tie_width=0.0)


def tier_of(judgment: Judgment) -> dict[int, int]:
    return {i: t for t, tier in enumerate(judgment.tiers) for i in tier}


def test_without_faults_a_rater_reads_the_oracle():
    for prompt, some in ROWS[:100]:
        judgment = rank(EXACT, prompt, some, key="k")
        tiers = tier_of(judgment)
        golds = [score(prompt, c.answer).gold for c in some]
        for i, a in enumerate(golds):
            for j, b in enumerate(golds):
                if a > b:
                    assert tiers[i] < tiers[j]
                if a == b:
                    assert tiers[i] == tiers[j]


def test_the_same_key_gives_the_same_judgment_whatever_came_before():
    rater = pool(0)[0]
    first = [rank(rater, p, c, key=p.id) for p, c in ROWS[:30]]
    again = [rank(rater, p, c, key=p.id) for p, c in reversed(ROWS[:30])][::-1]
    assert first == again
    other = [rank(rater, p, c, key="other" + p.id) for p, c in ROWS[:30]]
    assert [j.tiers for j in first] != [j.tiers for j in other]


@given(st.integers(0, 99), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_without_position_bias_the_order_of_candidates_changes_nothing(which, shuffler):
    prompt, some = ROWS[which]
    rater = Rater(id="r", position_bias=0.0)
    mixed = list(some)
    shuffler.shuffle(mixed)
    a, b = rank(rater, prompt, some, key="k"), rank(rater, prompt, mixed, key="k")

    def named(judgment: Judgment) -> list[set[str]]:
        return [{judgment.candidates[i].answer for i in tier} for tier in judgment.tiers]

    assert named(a) == named(b)


def test_identical_answers_tie():
    prompt = PROMPTS[0]
    twins = [Candidate(prompt_id=prompt.id, answer="Hello.", generator={"draw": i}) for i in range(3)]
    assert rank(Rater(id="r", carelessness=0.0), prompt, twins, key="k").tiers == ((0, 1, 2),)


def test_noise_lowers_agreement():
    found = []
    for noise in (0.05, 0.19, 0.6):
        a, b = (Rater(id=name, noise=noise) for name in "ab")
        found.append(agreement([rank(a, p, c, p.id) for p, c in ROWS], [rank(b, p, c, p.id) for p, c in ROWS]))
    assert found[0] > found[1] > found[2] > 0.5
    assert found[0] > 0.85


def test_careless_raters_rank_without_reading():
    rater = Rater(id="r", noise=0.0, carelessness=1.0, tie_width=0.0)
    judged = [rank(rater, p, c, p.id) for p, c in ROWS]
    truth = [rank(EXACT, p, c, p.id) for p, c in ROWS]
    assert agreement(judged, truth) == pytest.approx(0.5, abs=0.04)


def top_statistic(rater: Rater, measure) -> float:
    return statistics.mean(measure(rank(rater, p, c, p.id)) for p, c in ROWS)


def test_length_taste_moves_long_answers_up():
    def words(judgment: Judgment) -> float:
        return len(judgment.candidates[judgment.tiers[0][0]].answer.split())

    assert top_statistic(Rater(id="r", length_taste=0.5), words) > top_statistic(Rater(id="r"), words) + 1


def test_position_bias_favours_what_is_shown_first():
    def place(judgment: Judgment) -> float:
        return judgment.order_shown.index(judgment.tiers[0][0])

    assert top_statistic(Rater(id="r", position_bias=0.3), place) < top_statistic(Rater(id="r"), place) - 0.5


def test_lenient_raters_call_fewer_sets_all_bad():
    def flagged(leniency: float) -> int:
        rater = Rater(id="r", leniency=leniency, carelessness=0.0, noise=0.0)
        bad = [rank(rater, p, [x for x in c if score(p, x.answer).gold < 0.5][:2] or c, p.id) for p, c in ROWS]
        return sum(j.all_bad for j in bad)

    assert flagged(-0.2) > flagged(0.0) > flagged(0.2)


def test_wide_ties_make_fewer_tiers():
    def tiers(width: float) -> int:
        return sum(len(rank(Rater(id="r", tie_width=width), p, c, p.id).tiers) for p, c in ROWS)

    assert tiers(0.0) > tiers(0.05) > tiers(0.3)


def test_agreement_counts_only_pairs_that_both_order_strictly():
    prompt = PROMPTS[0]
    some = tuple(Candidate(prompt_id=prompt.id, answer=str(i)) for i in range(3))

    def judged(*tiers: tuple[int, ...]) -> Judgment:
        return Judgment(prompt=prompt, candidates=some, tiers=tiers)

    # 0>1, 0>2, 1>2 against 0>1, 0=2, 2>1: strict in both are (0,1), alike, and (1,2), not alike.
    assert agreement([judged((0,), (1,), (2,))], [judged((0, 2), (1,))]) == 0.5
    assert math.isnan(agreement([judged((0, 1, 2))], [judged((0,), (1,), (2,))]))


def test_a_judgment_says_who_and_in_which_order():
    rater = pool(3)[2]
    prompt, some = ROWS[0]
    judgment = rank(rater, prompt, some, key="k")
    assert judgment.rater == {"id": rater.id, "type": "simulated"}
    assert sorted(judgment.order_shown) == list(range(len(some)))
    assert judgment.order_shown == order_shown(rater, "k", len(some))
    assert Judgment.from_json(judgment.to_json()) == judgment


def test_the_pool_depends_on_its_seed_alone():
    assert pool(1) == pool(1) != pool(2)
    assert len({r.id for r in pool(1)}) == len(pool(1)) >= 6


def test_nothing_to_rank_is_refused():
    with pytest.raises(DataError, match="no candidates"):
        rank(EXACT, PROMPTS[0], [], key="k")


def test_orders_shown_are_spread_evenly():
    first = [order_shown(EXACT, str(random.Random(i).random()), 4)[0] for i in range(2000)]
    for position in range(4):
        assert first.count(position) / 2000 == pytest.approx(0.25, abs=0.04)
