"""Every objective against a row worked by hand and an independent float64 reference in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from kilter.methods import objectives

DRAW = np.random.default_rng(7)


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def close(found: torch.Tensor, wanted: Any, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=0)


def test_bradley_terry_on_a_row_worked_by_hand() -> None:
    # r_w - r_l = ln 3 -> σ = 3/4, -ln(3/4) = 0.2876820724;  0 -> ln 2 = 0.6931471806;  -ln 3 -> -ln(1/4) = 1.3862943611
    better, worse = tensor([math.log(3), 1.0, 0.0]), tensor([0.0, 1.0, math.log(3)])
    close(objectives.bradley_terry(better, worse), [0.2876820724, 0.6931471806, 1.3862943611], 1e-9)


def test_bradley_terry_against_numpy_and_where_sigmoid_underflows() -> None:
    better, worse = DRAW.normal(size=50) * 5, DRAW.normal(size=50) * 5
    close(objectives.bradley_terry(tensor(better), tensor(worse)), softplus(worse - better))
    close(objectives.bradley_terry(tensor([-800.0]), tensor([0.0])), [800.0])
    assert float(objectives.bradley_terry(torch.tensor([-800.0]), torch.tensor([0.0]))) == 800.0


def test_dpo_on_a_row_worked_by_hand() -> None:
    # β = 0.5, gains 2 ln 3 and 0: margin = ln 3. ε = 0: -ln(3/4) = 0.2876820724.
    # ε = 0.1: 0.9 · 0.2876820724 + 0.1 · (-ln(1/4) = 1.3862943611) = 0.2589138652 + 0.1386294361 = 0.3975433013
    better, worse = tensor([2 * math.log(3)]), tensor([0.0])
    close(objectives.dpo_sigmoid(better, worse, beta=0.5), [0.2876820724], 1e-9)
    close(objectives.dpo_sigmoid(better, worse, beta=0.5, smoothing=0.1), [0.3975433013], 1e-9)


def test_dpo_against_numpy_and_its_gradient() -> None:
    better, worse = DRAW.normal(size=40) * 4, DRAW.normal(size=40) * 4
    for smoothing in (0.0, 0.2):
        margin = 0.3 * (better - worse)
        given = tensor(better).requires_grad_()
        found = objectives.dpo_sigmoid(given, tensor(worse), 0.3, smoothing)
        close(found, (1 - smoothing) * softplus(-margin) + smoothing * softplus(margin))
        found.sum().backward()
        # d/d better = β (σ(βΔ) - (1 - ε))
        close(given.grad, 0.3 * (1 / (1 + np.exp(-margin)) - (1 - smoothing)), 1e-12)


def test_kl_penalised_rewards_on_rows_worked_by_hand() -> None:
    # β = 0.5. Row 0, three tokens: -0.5·(0.2, -0.4, 0.6) = (-0.1, 0.2, -0.3), and the score 2 at the last: 1.7.
    # Row 1, one token: -0.5·1 = -0.5 and the score -1: -1.5; its padding stays 0 although its numbers differ.
    logps = tensor([[-1.0, -1.4, -0.4], [-1.0, 9.0, 9.0]])
    ref = tensor([[-1.2, -1.0, -1.0], [-2.0, 5.0, 5.0]])
    mask = tensor([[1, 1, 1], [1, 0, 0]])
    found = objectives.kl_penalised_rewards(tensor([2.0, -1.0]), logps, ref, mask, 0.5)
    close(found, [[-0.1, 0.2, 1.7], [-1.5, 0, 0]], 1e-12)


def test_kl_estimators_on_a_row_worked_by_hand() -> None:
    # d = log π - log π_ref = ln 2, -ln 2, 0:  ½ d² = 0.2402265070;  exp(-d) - 1 + d = 0.1931471806, 0.3068528194, 0
    logps, ref = tensor([[math.log(0.5), math.log(0.25), -1.0]]), tensor([[math.log(0.25), math.log(0.5), -1.0]])
    close(objectives.kl_estimate(logps, ref, "k1"), [[0.6931471806, -0.6931471806, 0.0]], 1e-9)
    close(objectives.kl_estimate(logps, ref, "k2"), [[0.2402265070, 0.2402265070, 0.0]], 1e-9)
    close(objectives.kl_estimate(logps, ref, "k3"), [[0.1931471806, 0.3068528194, 0.0]], 1e-9)


def test_k1_and_k3_are_unbiased_over_a_whole_vocabulary() -> None:
    p, q = DRAW.dirichlet(np.ones(9)), DRAW.dirichlet(np.ones(9))
    exact = float((p * np.log(p / q)).sum())
    for kind in ("k1", "k3"):
        found = objectives.kl_estimate(tensor(np.log(p)), tensor(np.log(q)), kind)
        assert float((tensor(p) * found).sum()) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_penalised_rewards_by_each_estimator(kind: str) -> None:
    logps, ref, mask = tensor([[-1.0, -1.4]]), tensor([[-1.2, -1.0]]), tensor([[1, 1]])
    drift = objectives.kl_estimate(logps, ref, kind)[0].tolist()
    found = objectives.kl_penalised_rewards(tensor([2.0]), logps, ref, mask, 0.5, kind)
    close(found, [[-0.5 * drift[0], 2.0 - 0.5 * drift[1]]], 1e-12)


def test_gae_on_rows_worked_by_hand() -> None:
    # γ = 0.9, λ = 0.5, rewards (1, 0, 2), values (0.5, 1, 1.5); V after the end is 0.
    # δ2 = 2 - 1.5 = 0.5;  δ1 = 0 + 0.9·1.5 - 1 = 0.35;  δ0 = 1 + 0.9·1 - 0.5 = 1.4
    # A2 = 0.5;  A1 = 0.35 + 0.45·0.5 = 0.575;  A0 = 1.4 + 0.45·0.575 = 1.65875;  returns = A + V
    rewards, values, mask = tensor([[1.0, 0.0, 2.0]]), tensor([[0.5, 1.0, 1.5]]), tensor([[1.0, 1.0, 1.0]])
    advantages, returns = objectives.gae(rewards, values, mask, 0.9, 0.5)
    close(advantages, [[1.65875, 0.575, 0.5]], 1e-12)
    close(returns, [[2.15875, 1.575, 2.0]], 1e-12)


def test_gae_of_one_token_is_reward_less_value() -> None:
    advantages, returns = objectives.gae(tensor([[3.0]]), tensor([[1.25]]), tensor([[1.0]]), 0.99, 0.95)
    close(advantages, [[1.75]], 1e-12)
    close(returns, [[3.0]], 1e-12)


def test_gae_of_ragged_rows_equals_each_row_alone_whatever_stands_in_the_padding() -> None:
    lengths, width = [1, 3, 6, 4], 6
    rewards, values = DRAW.normal(size=(4, width)), DRAW.normal(size=(4, width))
    mask = (np.arange(width)[None] < np.array(lengths)[:, None]).astype(float)
    rewards *= mask  # kl_penalised_rewards gives none in the padding; values there are whatever the model said
    advantages, returns = objectives.gae(tensor(rewards), tensor(values), tensor(mask), 0.97, 0.9)
    for row, n in enumerate(lengths):
        running, wanted = 0.0, np.zeros(width)
        for t in reversed(range(n)):
            after = values[row, t + 1] if t + 1 < n else 0.0
            running = rewards[row, t] + 0.97 * after - values[row, t] + 0.97 * 0.9 * running
            wanted[t] = running
        close(advantages[row], wanted, 1e-12)
        close(returns[row], np.where(mask[row] > 0, wanted + values[row], 0), 1e-12)


def test_gae_with_lambda_one_gives_the_discounted_return() -> None:
    rewards, values = DRAW.normal(size=(1, 5)), DRAW.normal(size=(1, 5))
    _, returns = objectives.gae(tensor(rewards), tensor(values), tensor(np.ones((1, 5))), 0.8, 1.0)
    wanted = [sum(0.8 ** (k - t) * rewards[0, k] for k in range(t, 5)) for t in range(5)]
    close(returns, [wanted], 1e-12)


def test_whiten_on_a_row_worked_by_hand() -> None:
    # 1, 2, 3 counted, 100 masked: mean 2, variance (1 + 0 + 1) / 2 = 1
    values, mask = tensor([[1.0, 2.0], [3.0, 100.0]]), tensor([[1.0, 1.0], [1.0, 0.0]])
    close(objectives.whiten(values, mask), [[-1.0, 0.0], [1.0, 0.0]], 1e-7)
    close(objectives.whiten(values, mask, shift=False), [[2 - 1.0, 2.0], [2 + 1.0, 0.0]], 1e-7)


def test_whiten_of_a_constant_is_only_shifted() -> None:
    values, mask = tensor([[4.0, 4.0]]), tensor([[1.0, 1.0]])
    close(objectives.whiten(values, mask), [[0.0, 0.0]], 0)
    close(objectives.whiten(values, mask, shift=False), [[4.0, 4.0]], 0)


def test_clipped_surrogate_on_rows_worked_by_hand() -> None:
    # ε = 0.2. Ratios 1.5, 0.5, 1.5, 0.5, 1.1 with advantages 1, 1, -1, -1, 2:
    # min(1.5, 1.2) = 1.2 clipped;  min(0.5, 0.8) = 0.5;  min(-1.5, -1.2) = -1.5;  min(-0.5, -0.8) = -0.8 clipped;  2.2
    ratios, advantages = np.array([[1.5, 0.5, 1.5, 0.5, 1.1]]), tensor([[1.0, 1.0, -1.0, -1.0, 2.0]])
    loss, clipped = objectives.clipped_surrogate(tensor(np.log(ratios)), tensor(np.zeros((1, 5))), advantages, 0.2)
    close(loss, [[-1.2, -0.5, 1.5, 0.8, -2.2]], 1e-12)
    assert clipped.tolist() == [[True, False, False, True, False]]


def test_clipped_surrogate_has_no_gradient_where_clipped_and_the_policy_gradient_at_ratio_one() -> None:
    logps = tensor([[math.log(1.5), math.log(0.5), 0.0]]).requires_grad_()
    loss, _ = objectives.clipped_surrogate(logps, tensor([[0.0, 0.0, 0.0]]), tensor([[1.0, -1.0, 0.7]]), 0.2)
    loss.sum().backward()
    close(logps.grad, [[0.0, 0.0, -0.7]], 1e-12)


def test_a_wider_upper_clip_on_rows_worked_by_hand() -> None:
    # ε 0.2 below and 0.28 above: ratio 1.25 stays, 1.5 is cut to 1.28, 0.5 with A = -1 to 0.8
    ratios, advantages = np.array([[1.25, 1.5, 0.5]]), tensor([[1.0, 1.0, -1.0]])
    found, clipped = objectives.clipped_surrogate(
        tensor(np.log(ratios)), tensor(np.zeros((1, 3))), advantages, 0.2, 0.28
    )
    close(found, [[-1.25, -1.28, 0.8]], 1e-12)
    assert clipped.tolist() == [[False, True, True]]


def test_without_a_clip_the_surrogate_is_the_policy_gradient_wherever_the_ratio_is() -> None:
    logps = tensor([[math.log(3.0), math.log(0.1)]]).requires_grad_()
    found, clipped = objectives.clipped_surrogate(logps, tensor([[0.0, 0.0]]), tensor([[2.0, -1.0]]), 0.0)
    close(found, [[-6.0, 0.1]], 1e-12)
    assert not clipped.any()
    found.sum().backward()
    close(logps.grad, [[-6.0, 0.1]], 1e-12)


def test_value_loss_without_a_clip_is_half_the_square() -> None:
    found = objectives.clipped_value_loss(tensor([[2.0]]), tensor([[-5.0]]), tensor([[0.5]]), 0.0)
    close(found, [[1.125]], 1e-12)


def test_clipped_value_loss_on_rows_worked_by_hand() -> None:
    # ε = 0.5, V_old = 1. V = 2, R = 0: clipped to 1.5: ½ max(4, 2.25) = 2.  V = 2, R = 3: ½ max(1, 2.25) = 1.125.
    # V = 1.2, R = 1: inside the clip: ½ · 0.04 = 0.02
    found = objectives.clipped_value_loss(
        tensor([[2.0, 2.0, 1.2]]), tensor([[1.0] * 3]), tensor([[0.0, 3.0, 1.0]]), 0.5
    )
    close(found, [[2.0, 1.125, 0.02]], 1e-12)


def test_clipped_value_loss_against_numpy() -> None:
    v, old, returns = (DRAW.normal(size=(3, 7)) for _ in range(3))
    near = old + np.clip(v - old, -0.3, 0.3)
    wanted = 0.5 * np.maximum((v - returns) ** 2, (near - returns) ** 2)
    close(objectives.clipped_value_loss(tensor(v), tensor(old), tensor(returns), 0.3), wanted, 1e-12)


@pytest.mark.parametrize(
    ("kl", "wanted"),
    [
        (6.0, 0.2),  # on target: unchanged
        (6.6, 0.202),  # 10 % above: 0.2 · (1 + 0.1 / 10)
        (60.0, 0.204),  # far above: the error is clipped to 0.2
        (-3.0, 0.196),  # below: clipped to -0.2
    ],
)
def test_kl_controller(kl: float, wanted: float) -> None:
    assert objectives.adapted_kl_coef(0.2, kl, target=6.0, horizon=10.0) == pytest.approx(wanted, abs=1e-12)
