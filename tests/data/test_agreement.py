"""Agreement against published worked examples, by hand, and with raters whose agreement is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import by

from kilter.data import agreement
from kilter.errors import UserError

N = math.nan
# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section D: four observers, twelve units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
).T
# Fleiss (1971) as usually worked: fourteen raters, ten subjects, five categories.
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


@pytest.mark.parametrize(("metric", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_worked_example(metric: str, alpha: float) -> None:
    assert agreement.krippendorff_alpha(KRIPPENDORFF, metric) == pytest.approx(alpha, abs=0.0005)


def test_fleiss_worked_example() -> None:
    table = np.array([[v for v, n in enumerate(row) for _ in range(n)] for row in FLEISS], dtype=float)
    assert agreement.fleiss_kappa(table) == pytest.approx(0.210, abs=0.0005)


def test_cohens_kappa_by_hand() -> None:
    # 20 both yes, 5 and 10 mixed, 15 both no: observed 0.7, chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4
    first = [1.0] * 25 + [0.0] * 25
    second = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    assert agreement.cohen_kappa(first, second) == pytest.approx(0.4)
    assert agreement.cohen_kappa([*first, N], [*second, 1.0]) == pytest.approx(0.4)


# What irrCAC 0.4.4 gives for the same table.
@pytest.mark.parametrize(("weights", "ac"), [("nominal", 0.77544), ("ordinal", 0.89894), ("interval", 0.91400)])
def test_gwets_coefficients_of_the_same_table(weights: str, ac: float) -> None:
    assert agreement.gwet_ac2(KRIPPENDORFF, weights) == pytest.approx(ac, abs=0.00001)


def test_gwets_ac1_by_hand_and_why_it_is_taken() -> None:
    # 18 of 20 both yes, two mixed: kappa falls below 0 though nine in ten agree; AC1 = (0.9 - c) / (1 - c), where
    # c = 2 * 0.95 * 0.05 = 0.095
    table = np.array([[1, 1]] * 18 + [[1, 0], [0, 1]], dtype=float)
    assert agreement.cohen_kappa(table[:, 0], table[:, 1]) < 0
    assert agreement.gwet_ac2(table, "nominal") == pytest.approx((0.9 - 0.095) / (1 - 0.095))


def test_values_that_nobody_chose_can_be_stated() -> None:
    table = np.array([[1, 1], [1, 1], [1, 0]], dtype=float)
    two, three = (agreement.gwet_ac2(table, "nominal", v) for v in ((0, 1), (-1, 0, 1)))
    assert two < three  # with more to choose from, chance agreement is rarer
    with pytest.raises(UserError, match="value 1 is none of those"):
        agreement.gwet_ac2(table, "nominal", (0, 2))


def test_raw_agreement_counts_a_tie_as_an_answer() -> None:
    table = np.array([[1, 1, 0], [1, -1, N], [0, 0, N]], dtype=float)
    # unit 1: one of three pairs alike; unit 2: none of one; unit 3: one of one
    assert agreement.raw(table) == pytest.approx(2 / 5)
    assert agreement.raw(table, strict=True) == pytest.approx(1 / 2)


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0, N]), min_size=3, max_size=3), min_size=2, max_size=8))
def test_who_the_raters_are_changes_nothing_and_one_mind_is_whole(rows: list[list[float]]) -> None:
    table = np.array(rows)
    measures = (
        agreement.raw,
        agreement.fleiss_kappa,
        agreement.krippendorff_alpha,
        agreement.gwet_ac2,
    )
    for measure in measures:
        assert measure(table[:, [2, 0, 1]]) == pytest.approx(measure(table), nan_ok=True)
        assert measure(table[::-1]) == pytest.approx(measure(table), nan_ok=True)
        same = np.repeat(table[:, :1], 3, 1)
        assert math.isnan(value := measure(same)) or value == pytest.approx(1.0)


def test_pairs_of_overlapping_judgments_become_units() -> None:
    rows = [by("r1", ((0,), (1,), (2,))), by("r2", ((0, 1), (2,))), by("r3", ((1,), (0,)), text="alone")]
    found = agreement.units_of(rows)
    assert found.raters == ("r1", "r2", "r3")
    assert found.table.shape == (3, 3)
    assert sorted(map(tuple, np.abs(found.table[:, :2]).tolist())) == [(1, 0), (1, 1), (1, 1)]
    assert np.isnan(found.table[:, 2]).all()
    assert agreement.raw(found.table) == pytest.approx(2 / 3)
    assert agreement.raw(found.table, strict=True) == 1.0


def test_nothing_shared_is_no_agreement_at_all() -> None:
    found = agreement.units_of([by("r1", ((0,), (1,))), by("r2", ((0,), (1,)), text="other")])
    assert math.isnan(agreement.raw(found.table))
    assert math.isnan(agreement.krippendorff_alpha(found.table))
    assert math.isnan(agreement.fleiss_kappa(found.table))
    assert math.isnan(agreement.gwet_ac2(found.table))
    assert all(map(math.isnan, agreement.interval(found, agreement.raw)))


def test_guessing_raters_have_an_alpha_of_none_and_the_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    rows = [
        by(f"r{r}", ((0,), (1,)) if rng.random() < 0.5 else ((1,), (0,)), text=str(n))
        for n in range(300)
        for r in range(3)
    ]
    found = agreement.units_of(rows)
    low, high = agreement.interval(found, agreement.krippendorff_alpha, draws=200)
    assert low < 0.0 < high
    assert high - low < 0.2
    assert agreement.interval(found, agreement.krippendorff_alpha, draws=200) == (low, high)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'ordinal'"):
        agreement.krippendorff_alpha(KRIPPENDORFF, "ordinall")
    with pytest.raises(UserError, match="did you mean 'nominal'"):
        agreement.gwet_ac2(KRIPPENDORFF, "nominall")
