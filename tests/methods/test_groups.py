"""Advantages within groups and the best of n: rows worked by hand, and loops in float64 written from the papers."""

from __future__ import annotations

import math
import statistics
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from kilter.methods import groups

DRAW = np.random.default_rng(11)


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: torch.Tensor, wanted: Any, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(wanted), atol=atol, rtol=0)


def test_group_baseline_on_a_row_worked_by_hand() -> None:
    # rewards 1, 2, 6: mean 3, deviations -2, -1, 3; variance with n - 1: (4 + 1 + 9) / 2 = 7
    rewards = tensor([[1.0, 2.0, 6.0]])
    close(groups.group_advantages(rewards, "group", "none"), [[-2.0, -1.0, 3.0]])
    spread = math.sqrt(7) + 1e-4
    close(groups.group_advantages(rewards, "group", "group"), [[-2 / spread, -1 / spread, 3 / spread]])


def test_leave_one_out_on_a_row_worked_by_hand() -> None:
    # others' means: (2 + 6) / 2 = 4, (1 + 6) / 2 = 3.5, (1 + 2) / 2 = 1.5
    close(groups.group_advantages(tensor([[1.0, 2.0, 6.0]]), "leave-one-out", "none"), [[-3.0, -1.5, 4.5]])


def test_no_baseline_leaves_rewards() -> None:
    close(groups.group_advantages(tensor([[1.0, 1.0], [-2.0, 3.0]]), "none", "none"), [[1.0, 1.0], [-2.0, 3.0]])


@pytest.mark.parametrize("baseline", ["group", "leave-one-out"])
@pytest.mark.parametrize("scale", ["none", "group"])
def test_groups_against_a_loop(baseline: str, scale: str) -> None:
    rewards = DRAW.normal(size=(6, 5)) * 3
    wanted = np.zeros_like(rewards)
    for g, row in enumerate(rewards.tolist()):
        for k, r in enumerate(row):
            others = row if baseline == "group" else row[:k] + row[k + 1 :]
            wanted[g, k] = r - statistics.fmean(others)
            if scale == "group":
                wanted[g, k] /= statistics.stdev(row) + 1e-4
    close(groups.group_advantages(tensor(rewards), baseline, scale), wanted)


@pytest.mark.parametrize("baseline", ["group", "leave-one-out"])
@pytest.mark.parametrize("scale", ["none", "group"])
def test_equal_rewards_give_exactly_zero_in_float32_too(baseline: str, scale: str) -> None:
    rewards = torch.full((3, 7), 0.1)
    assert torch.equal(groups.group_advantages(rewards, baseline, scale), torch.zeros(3, 7))


def test_overlong_answers_on_rows_worked_by_hand() -> None:
    # limit 20, last quarter: free up to 15, then -1/5 a token, -1 at 20
    lengths = tensor([3.0, 15.0, 16.0, 18.0, 20.0])
    close(groups.overlong_penalty(lengths, 20, 0.25), [0.0, 0.0, -0.2, -0.6, -1.0])
    close(groups.overlong_penalty(lengths, 20, 0.0), [0.0] * 5)


def test_importance_weights_are_cut_off_and_not_differentiated() -> None:
    logps = tensor([[math.log(0.5), math.log(0.2)]]).requires_grad_()
    found = groups.importance_weight(logps, tensor([[math.log(0.1), math.log(0.4)]]), 2.0)
    close(found, [[2.0, 0.5]])
    assert not found.requires_grad


def test_drift_of_best_of_n() -> None:
    assert groups.best_of_n_kl(1) == 0.0
    assert groups.best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_expected_best_is_the_mean_over_all_subsets(n: int) -> None:
    rewards = [0.3, -1.0, 2.5, 2.5, 0.0, 7.0]
    wanted = statistics.fmean(max(subset) for subset in combinations(rewards, n))
    assert groups.expected_best(rewards, n) == pytest.approx(wanted, abs=1e-12)
