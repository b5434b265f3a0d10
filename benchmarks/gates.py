"""What must hold before a ratio is printed: pure functions of two measurements, each with its error and its bound.

Errors are relative where the true number is above one and absolute below: |a - b| / max(1, |b|), the largest of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOSS = 1e-5
"""fp32 training: losses of every step, and the log-probs that DPO starts from."""
ROUND = 1e-5
"""PPO on fixed rollouts: returns, advantages, losses."""
LOGPS = 1e-5
"""Log-probs and values that the round is made of, each side's own forward pass."""
GRADIENT = 1e-5
"""GRPO and RLOO on fixed rollouts: the advantages, and the norm of the first step's gradient."""


@dataclass(frozen=True)
class Gate:
    """A correctness test and how it went."""

    name: str
    error: float
    passed: bool


def distance(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Largest |a - b| / max(1, |b|); infinite when lengths differ, a number is not finite, or there is none at all."""
    a, b = list(ours), list(theirs)
    if len(a) != len(b) or not a or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return max(abs(x - y) / max(1.0, abs(y)) for x, y in zip(a, b, strict=True))


def losses(ours: Mapping[str, Any], rival: Mapping[str, Any]) -> Gate:
    """The same loss at every step, and the same log-probs at the start where both sides give them."""
    error = distance(ours["losses"], rival["losses"])
    name = f"losses of {len(ours['losses'])} steps"
    if "chosen" in ours or "chosen" in rival:
        name += ", first log-probs"
        error = max(error, *(distance(ours.get(k, ()), rival.get(k, ())) for k in ("chosen", "rejected")))
    return Gate(name, error, error <= LOSS)


def reduced(ours: Mapping[str, Any], rival: Mapping[str, Any], exact: Mapping[str, Any]) -> Gate:
    """bf16 on a side: our losses are no farther from the fp32 ones than the rival's."""
    steps = min(len(m["losses"]) for m in (ours, rival, exact))
    error, allowed = (distance(m["losses"][:steps], exact["losses"][:steps]) for m in (ours, rival))
    passed = math.isfinite(error) and error <= allowed
    return Gate(f"losses of {steps} steps against fp32 (rival's error {allowed:.1e})", error, passed)


def ids(ours: Mapping[str, Any], rival: Mapping[str, Any]) -> Gate:
    """Greedy ids are equal; the error is the share that differs."""
    a, b = (flat(m["ids"]) for m in (ours, rival))
    wrong = sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
    error = wrong / max(1, len(b))
    return Gate(f"{len(b)} greedy ids equal", error, wrong == 0 and bool(b))


def ppo_round(ours: Mapping[str, Any], rival: Mapping[str, Any]) -> Gate:
    """On the rival's rollouts: returns, advantages, the policy's loss in every epoch and the value's in the first.

    Both sides' log-probs and values must agree too; whitened advantages enter through the losses.
    """
    theirs = rival["first"]
    means = theirs["means"]  # four a step: squared value error, its clipped share, policy loss, its clipped share
    values = flat(theirs["values"])
    error = max(
        distance(flat(ours["returns"]), flat(theirs["returns"])),
        distance(
            [r - v for r, v in zip(flat(ours["returns"]), flat(ours["values"]), strict=True)],
            [r - v for r, v in zip(flat(theirs["returns"]), values, strict=True)],
        ),
        distance(ours["policy"], means[2::4]),
        distance(ours["value"], [0.5 * m for m in means[0::4]][:1]),
    )
    inputs = max(distance(flat(ours["logprobs"]), flat(theirs["logprobs"])), distance(flat(ours["values"]), values))
    return Gate("returns, advantages, losses of one round", error, error <= ROUND and inputs <= LOGPS)


def policy_gradient(ours: Mapping[str, Any], rival: Mapping[str, Any]) -> Gate:
    """On the rival's rollouts: the same advantages, and a first gradient of the same norm."""
    theirs = rival["first"]
    error = max(
        distance(ours["advantages"], theirs["advantages"]),
        abs(ours["gradient"] / theirs["gradient"] - 1) if theirs["gradient"] else math.inf,
    )
    return Gate("advantages, gradient of one round", error, error <= GRADIENT)


def flat(rows: Sequence[Sequence[Any]]) -> list[Any]:
    return [value for row in rows for value in row]
