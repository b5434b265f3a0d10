"""A gate passes only what is the same work: each test has a hand-made pair of measurements just inside and outside."""

from __future__ import annotations

import copy
import math
from typing import Any

import gates
import pytest


def test_distance_is_relative_above_one_and_absolute_below() -> None:
    assert gates.distance([100.001], [100.0]) == pytest.approx(1e-5)
    assert gates.distance([0.001], [0.0]) == pytest.approx(1e-3)
    assert gates.distance([1.0, -4.0], [1.0, -2.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([math.nan], [1.0]), ([1.0], [math.inf]), ([math.inf],) * 2]
)
def test_distance_is_infinite_for_what_can_not_be_compared(ours: list[float], theirs: list[float]) -> None:
    assert gates.distance(ours, theirs) == math.inf


def test_losses_must_agree_at_every_step() -> None:
    rival = {"losses": [7.0, 6.9, 6.8]}
    assert gates.losses({"losses": [7.0, 6.90005, 6.8]}, rival).passed
    late = gates.losses({"losses": [7.0, 6.9, 6.8001]}, rival)
    assert not late.passed
    assert late.error == pytest.approx(1e-4 / 6.8)
    assert not gates.losses({"losses": [7.0, 6.9]}, rival).passed
    assert late.name == "losses of 3 steps"


def test_losses_take_the_first_log_probs_in() -> None:
    rival = {"losses": [0.69], "chosen": [-100.0], "rejected": [-90.0]}
    assert gates.losses({"losses": [0.69], "chosen": [-100.0005], "rejected": [-90.0]}, rival).passed
    assert not gates.losses({"losses": [0.69], "chosen": [-100.0], "rejected": [-90.01]}, rival).passed
    assert not gates.losses({"losses": [0.69]}, rival).passed  # log-probs that one side does not give are no match


def test_reduced_precision_may_err_as_much_as_the_rival_and_no_more() -> None:
    exact, rival = {"losses": [1.0, 1.0, 9.0]}, {"losses": [1.0, 1.01]}
    assert gates.reduced({"losses": [1.01, 1.0]}, rival, exact).passed
    worse = gates.reduced({"losses": [1.0, 1.02]}, rival, exact)
    assert not worse.passed
    assert "1.0e-02" in worse.name
    assert not gates.reduced({"losses": [math.nan, 1.0]}, {"losses": [math.nan, 1.0]}, exact).passed


def test_greedy_ids_must_all_be_equal() -> None:
    rival = {"ids": [[1, 2], [3, 4]]}
    assert gates.ids({"ids": [[1, 2], [3, 4]]}, rival).passed
    wrong = gates.ids({"ids": [[1, 2], [3, 5]]}, rival)
    assert (wrong.passed, wrong.error) == (False, 0.25)
    assert not gates.ids({"ids": [[1, 2]]}, rival).passed
    assert not gates.ids({"ids": []}, {"ids": []}).passed


ROUND: dict[str, Any] = {
    "returns": [[0.5, 0.25]],
    "logprobs": [[-7.0, -6.0]],
    "values": [[0.1, 0.2]],
    "policy": [0.0, -0.05],
    "value": [0.02],
}
RIVAL: dict[str, Any] = {
    "first": {
        "returns": [[0.5, 0.25]],
        "logprobs": [[-7.0, -6.0]],
        "values": [[0.1, 0.2]],
        "means": [0.04, 0.0, 0.0, 0.0, 0.9, 0.0, -0.05, 0.0],
    }
}


def test_a_ppo_round_that_agrees_passes() -> None:
    gate = gates.ppo_round(ROUND, RIVAL)
    assert gate.passed
    assert gate.error < 1e-12


@pytest.mark.parametrize(
    ("name", "at", "by"),
    [("returns", 0, 2e-5), ("logprobs", 0, 1e-4), ("values", 0, 2e-5), ("policy", 1, 2e-5), ("value", 0, 2e-5)],
)
def test_every_part_of_a_ppo_round_can_fail_it(name: str, at: int, by: float) -> None:
    ours = copy.deepcopy(ROUND)
    row = ours[name] if name in ("policy", "value") else ours[name][0]
    row[at] += by
    assert not gates.ppo_round(ours, RIVAL).passed


def test_a_policy_gradient_is_compared_by_advantages_and_length() -> None:
    rival = {"first": {"advantages": [1.0, -1.0], "gradient": 2.0}}
    assert gates.policy_gradient({"advantages": [1.0, -1.0], "gradient": 2.00001}, rival).passed
    assert not gates.policy_gradient({"advantages": [1.0, -1.0], "gradient": 2.001}, rival).passed
    assert not gates.policy_gradient({"advantages": [1.0, 1.0], "gradient": 2.0}, rival).passed
    nothing = {"advantages": [0.0], "gradient": 0.0}
    assert not gates.policy_gradient(nothing, {"first": nothing}).passed
