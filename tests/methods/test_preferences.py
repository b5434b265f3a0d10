"""Every loss over preferences: rows worked by hand, float64 references in numpy, gradients in closed form, limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kilter.data import judgments
from kilter.methods import preferences as maths
from kilter.methods.objectives import bradley_terry, dpo_sigmoid

DRAW = np.random.default_rng(11)
LN3 = math.log(3)


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: torch.Tensor, wanted: Any, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=0)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def pairs(n: int = 40, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    return DRAW.normal(size=n) * scale, DRAW.normal(size=n) * scale


def logps(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-probabilities per token, below zero."""
    return -DRAW.exponential(size=n) - 0.01, -DRAW.exponential(size=n) - 0.01


def gradients(loss: Callable[..., torch.Tensor], *values: np.ndarray) -> list[np.ndarray]:
    given = [tensor(v).requires_grad_() for v in values]
    loss(*given).sum().backward()
    return [g.grad.numpy() for g in given if g.grad is not None]


def numeric(loss: Callable[..., torch.Tensor], *values: np.ndarray) -> list[np.ndarray]:
    """Central differences, element by element (each loss is one number per element, or one in all)."""
    step, found = 1e-6, []
    for at, value in enumerate(values):
        slope = np.zeros_like(value)
        for i in range(len(value)):
            up, down = value.copy(), value.copy()
            up[i], down[i] = up[i] + step, down[i] - step
            ends = [float(loss(*(tensor(v) for v in (*values[:at], x, *values[at + 1 :]))).sum()) for x in (up, down)]
            slope[i] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return found


PAIRWISE: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., Any]]] = {
    "margin": (
        lambda w, y: maths.bradley_terry_margin(w, y, tensor(0.7)),
        lambda w, y: np.log1p(np.exp(-(w - y - 0.7))),
    ),
    "davidson": (
        lambda w, y: maths.davidson_decided(w, y, 0.6),
        lambda w, y: -np.log(np.exp(w) / (np.exp(w) + np.exp(y) + 0.6 * np.exp((w + y) / 2))),
    ),
    "davidson tied": (
        lambda w, y: maths.davidson_tied(w, y, 0.6),
        lambda w, y: -np.log(0.6 * np.exp((w + y) / 2) / (np.exp(w) + np.exp(y) + 0.6 * np.exp((w + y) / 2))),
    ),
    "ipo": (lambda w, y: maths.ipo(w, y, 0.2), lambda w, y: (w - y - 2.5) ** 2),
    "hinge": (lambda w, y: maths.hinge(w, y, 0.4), lambda w, y: np.maximum(0, 1 - 0.4 * (w - y))),
    "robust": (
        lambda w, y: maths.robust(w, y, 0.3, 0.1),
        lambda w, y: (-0.9 * np.log(sigmoid(0.3 * (w - y))) + 0.1 * np.log(sigmoid(-0.3 * (w - y)))) / 0.8,
    ),
    "simpo": (
        lambda w, y: maths.simpo(w, y, 2.0, 0.5),
        lambda w, y: -np.log(sigmoid(2 * (w - y) - 0.5)),
    ),
    "orpo": (
        maths.odds_ratio,
        lambda w, y: -np.log(sigmoid(np.log(np.exp(w) / (1 - np.exp(w)) / (np.exp(y) / (1 - np.exp(y)))))),
    ),
    "cpl": (lambda w, y: maths.cpl(w, y, 0.5), lambda w, y: -np.log(np.exp(w) / (np.exp(w) + np.exp(0.5 * y)))),
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_pairwise_losses_against_numpy_with_their_gradients(name: str) -> None:
    found, wanted = PAIRWISE[name]
    better, worse = logps() if name == "orpo" else pairs()
    close(found(tensor(better), tensor(worse)), wanted(better, worse))
    for mine, slope in zip(gradients(found, better, worse), numeric(found, better, worse), strict=True):
        np.testing.assert_allclose(mine, slope, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in PAIRWISE if n not in ("ipo", "orpo")])
def test_pairwise_losses_are_finite_far_from_home(name: str) -> None:
    found = PAIRWISE[name][0]
    for lead in (-3000.0, 3000.0):
        given = torch.tensor([lead], requires_grad=True)
        loss = found(given, torch.tensor([0.0]))
        loss.sum().backward()
        assert bool(torch.isfinite(loss).all())
        assert given.grad is not None
        assert bool(torch.isfinite(given.grad).all())


def test_rows_worked_by_hand() -> None:
    # lead ln 3 with a margin of ln 3: σ(0) = 1/2.
    close(maths.bradley_terry_margin(tensor([LN3]), tensor([0.0]), tensor([LN3])), [math.log(2)])
    # Davidson, ν = 1, scores ln 4 and 0: shares 4, 1 and a tie's √4 = 2, of 7 in all.
    close(maths.davidson_decided(tensor([math.log(4)]), tensor([0.0]), 1.0), [math.log(7 / 4)])
    close(maths.davidson_decided(tensor([0.0]), tensor([math.log(4)]), 1.0), [math.log(7)])
    close(maths.davidson_tied(tensor([math.log(4)]), tensor([0.0]), 1.0), [math.log(7 / 2)])
    # two equal answers tie with ν / (2 + ν)
    close(maths.davidson_tied(tensor([3.0]), tensor([3.0]), 0.5), [-math.log(0.5 / 2.5)])
    # IPO, β = 0.25: the lead should be 2; a lead of 0.5 costs 2.25.
    close(maths.ipo(tensor([1.0, 2.0]), tensor([0.5, 0.0]), 0.25), [2.25, 0.0])
    # hinge, β = 0.5: leads 1, 2, 3, -1 cost 0.5, 0, 0, 1.5.
    close(maths.hinge(tensor([1.0, 2.0, 3.0, -1.0]), tensor([0.0] * 4), 0.5), [0.5, 0.0, 0.0, 1.5])
    # robust, ε = 0.25, βΔ = ln 3: (0.25 · ln(1/4) - 0.75 · ln(3/4)) / 0.5 = (-0.3465735903 + 0.2157615543) / 0.5
    close(maths.robust(tensor([LN3]), tensor([0.0]), 1.0, 0.25), [-0.2616240720], 1e-9)
    # SimPO, β = 2, γ = ln 3, means -1 and -1 - ln 3: 2 ln 3 - ln 3 = ln 3, -ln(3/4).
    close(maths.simpo(tensor([-1.0]), tensor([-1.0 - LN3]), 2.0, LN3), [-math.log(3 / 4)])
    # ORPO, p = 3/4 and 1/2: odds 3 and 1, -ln(3/4).
    close(maths.odds_ratio(tensor([math.log(3 / 4)]), tensor([math.log(1 / 2)])), [-math.log(3 / 4)])
    # CPL, λ = 1/2, A_w = 0, A_l = -2 ln 3: 1 / (1 + 1/3) = 3/4.
    close(maths.cpl(tensor([0.0]), tensor([-2 * LN3]), 0.5), [-math.log(3 / 4)])
    # tokens -1, -2, -4, γ = 1/2: -1 - 1 - 1.
    close(maths.discounted(tensor([-1.0, -2.0, -4.0]), 0.5), -3.0)
    close(maths.discounted(tensor([-1.0, -2.0, -4.0]), 1.0), -7.0)
    # LD-DPO, α = 1/4, the other answer has two tokens: -1 - 2 - 4/4.
    close(maths.desensitised(tensor([-1.0, -2.0, -4.0]), 2, 0.25), -4.0)
    close(maths.desensitised(tensor([-1.0]), 1, 0.25), -1.0)
    # 1 - 3/4
    close(maths.log_not(tensor([math.log(3 / 4)])), [math.log(1 / 4)])


def test_plackett_luce_on_orders_worked_by_hand() -> None:
    # Scores ln 1, ln 2, ln 3. The order 2 > 1 > 0: 3/6 · 2/3 = 1/3.
    worth = tensor([0.0, math.log(2), LN3])
    close(maths.plackett_luce(worth, [[2], [1], [0]]), math.log(3))
    # 2 and 1 tied above 0: 3/4 · 2/3 = 1/2, two choices against 0 alone.
    close(maths.plackett_luce(worth, [[1, 2], [0]]), math.log(2))
    # 2 above the tied 0 and 1: 3 / (3 + 1 + 2) = 1/2, one choice.
    close(maths.plackett_luce(worth, [[2], [0, 1]]), math.log(2))
    close(maths.plackett_luce(worth, [[0, 1, 2]]), 0.0)
    assert [maths.choices(t) for t in ([[2], [1], [0]], [[1, 2], [0]], [[2], [0, 1]], [[0, 1, 2]])] == [2, 2, 1, 0]


def test_top_one_by_hand() -> None:
    worth = tensor([0.0, math.log(2), LN3])
    close(maths.top_one(worth, [2]), math.log(2))  # 3/6
    close(maths.top_one(worth, [0, 1]), math.log(2))  # either of two: 3/6
    close(maths.top_one(worth, [0, 1, 2]), 0.0)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7), st.integers(0, 1000))
def test_plackett_luce_is_the_product_of_its_choices(places: list[int], seed: int) -> None:
    tiers = [[i for i, p in enumerate(places) if p == place] for place in sorted(set(places))]
    worth = np.random.default_rng(seed).normal(size=len(places)) * 2
    wanted = 0.0
    for i, j_worth in enumerate(worth):
        below = [worth[j] for j in range(len(places)) if places[j] > places[i]]
        if below:
            wanted -= np.log(np.exp(j_worth) / (np.exp(j_worth) + np.sum(np.exp(below))))
    close(maths.plackett_luce(tensor(worth), tiers), wanted, 1e-9)
    moved = maths.plackett_luce(tensor(worth + 3.0), tiers)  # only differences of scores count
    close(moved, wanted, 1e-9)


def test_plackett_luce_of_two_is_bradley_terry_and_sums_to_one_over_all_orders_of_three() -> None:
    better, worse = pairs()
    for w, y in zip(better, worse, strict=True):
        close(maths.plackett_luce(tensor([w, y]), [[0], [1]]), float(bradley_terry(tensor(w), tensor(y))), 1e-12)
    worth = tensor(DRAW.normal(size=3))
    orders = [[[a], [b], [c]] for a, b, c in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))]
    assert sum(math.exp(-float(maths.plackett_luce(worth, o))) for o in orders) == pytest.approx(1.0, abs=1e-12)


def test_the_gradient_of_plackett_luce_is_softmax_less_choice() -> None:
    worth = DRAW.normal(size=4)
    found = gradients(lambda w: maths.plackett_luce(w, [[3], [1], [0, 2]]), worth)[0]
    first, second = np.exp(worth) / np.exp(worth).sum(), np.exp(worth) * [1, 1, 1, 0] / np.exp(worth[:3]).sum()
    np.testing.assert_allclose(found, first + second - [0, 1, 0, 1], atol=1e-12)


def test_davidson_without_ties_is_bradley_terry_and_its_outcomes_sum_to_one() -> None:
    better, worse = (tensor(x) for x in pairs())
    close(maths.davidson_decided(better, worse, 0.0), bradley_terry(better, worse).numpy(), 1e-12)
    close(maths.davidson_decided(better, worse, 1e-12), bradley_terry(better, worse).numpy(), 1e-9)
    won, lost = maths.davidson_decided(better, worse, 0.8), maths.davidson_decided(worse, better, 0.8)
    tied = maths.davidson_tied(better, worse, 0.8)
    close((-won).exp() + (-lost).exp() + (-tied).exp(), np.ones(40), 1e-12)
    close(tied, maths.davidson_tied(worse, better, 0.8).numpy(), 0)


def test_the_gradient_of_dpo_weighs_a_pair_by_how_wrong_it_is() -> None:
    better, worse = pairs()
    found = gradients(lambda w, y: dpo_sigmoid(w, y, 0.3), better, worse)
    wrong = sigmoid(-0.3 * (better - worse))
    np.testing.assert_allclose(found[0], -0.3 * wrong, atol=1e-12)
    np.testing.assert_allclose(found[1], 0.3 * wrong, atol=1e-12)


def test_limits_of_the_pairwise_family() -> None:
    better, worse = (tensor(x) for x in pairs())
    plain = dpo_sigmoid(better, worse, 0.3)
    close(dpo_sigmoid(better, worse, 0.3, 0.0), plain.numpy(), 0)
    close(maths.robust(better, worse, 0.3, 0.0), plain.numpy(), 1e-14)
    close(maths.simpo(better, worse, 0.3, 0.0), plain.numpy(), 1e-14)
    close(maths.cpl(0.3 * better, 0.3 * worse, 1.0), plain.numpy(), 1e-14)
    close(maths.bradley_terry_margin(better, worse, tensor(0.0)), bradley_terry(better, worse).numpy(), 0)
    # the conservative form is the soft label 1 - ε
    soft = maths.either_way(lambda w, y: dpo_sigmoid(w, y, 0.3), better, worse, tensor([0.8] * 40))
    close(soft, dpo_sigmoid(better, worse, 0.3, 0.2).numpy(), 1e-12)


def test_the_robust_loss_of_flipped_labels_is_in_the_mean_the_loss_of_true_ones() -> None:
    better, worse = (tensor(x) for x in pairs())
    flipped = 0.8 * maths.robust(better, worse, 0.3, 0.2) + 0.2 * maths.robust(worse, better, 0.3, 0.2)
    close(flipped, dpo_sigmoid(better, worse, 0.3).numpy(), 1e-12)


def test_a_soft_label_is_the_cross_entropy_with_it_and_a_half_asks_for_equal_scores() -> None:
    better, worse = pairs()
    sure = DRAW.uniform(0.5, 1, size=40)
    wanted = -sure * np.log(sigmoid(better - worse)) - (1 - sure) * np.log(sigmoid(worse - better))
    close(maths.either_way(bradley_terry, tensor(better), tensor(worse), tensor(sure)), wanted)
    whole = maths.either_way(bradley_terry, tensor(better), tensor(worse), tensor(np.ones(40)))
    assert torch.equal(whole, bradley_terry(tensor(better), tensor(worse)))
    slope = gradients(
        lambda w, y: maths.either_way(bradley_terry, w, y, tensor([0.5])), np.array([1.0]), np.array([1.0])
    )
    assert [float(x[0]) for x in slope] == [0.0, 0.0]


def test_the_pairs_of_a_ranking_weigh_what_one_pair_weighs() -> None:
    worth = tensor(np.zeros(5))  # with equal scores every pair costs ln 2, and so does the prompt
    found = judgments.pairs([[3], [0, 1], [2, 4]])
    total = sum(p.weight * float(bradley_terry(worth[p.better], worth[p.worse])) for p in found)
    assert total == pytest.approx(math.log(2))
    assert len(found) == len(list(combinations(range(5), 2))) - 2


def test_kto_by_hand_and_against_numpy() -> None:
    # β = 1, z = 0: a good answer of gain ln 3 costs 1 - 3/4, a bad one 2 · (1 - 1/4) with λ_U = 2.
    good = torch.tensor([True, False])
    close(maths.kto(tensor([LN3, LN3]), good, 0.0, 1.0, 1.0, 2.0), [0.25, 1.5])
    # measured from z = ln 3 both stand at σ(0)
    close(maths.kto(tensor([LN3, LN3]), good, LN3, 1.0, 1.0, 2.0), [0.5, 1.0])
    gain, labels = DRAW.normal(size=60) * 5, DRAW.integers(0, 2, size=60).astype(bool)
    wanted = np.where(labels, 1.2 * (1 - sigmoid(0.3 * (gain - 0.4))), 0.7 * (1 - sigmoid(0.3 * (0.4 - gain))))
    found = lambda g: maths.kto(g, torch.tensor(labels), 0.4, 0.3, 1.2, 0.7)  # noqa: E731
    close(found(tensor(gain)), wanted)
    # the gradient is ∓ λ β σ (1 - σ): answers far on either side teach little
    inner = sigmoid(0.3 * (gain - 0.4))
    slope = np.where(labels, -1.2, 0.7) * 0.3 * inner * (1 - inner)
    np.testing.assert_allclose(gradients(found, gain)[0], slope, atol=1e-12)


def test_the_odds_of_a_certain_token_stay_finite() -> None:
    given = torch.zeros(3, requires_grad=True)
    loss = maths.log_not(given).sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())
