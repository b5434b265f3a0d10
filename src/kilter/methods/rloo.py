"""REINFORCE leave-one-out: `grpo` with the settings of its variant `rloo`.

    loss = -Σ_answers A log π(y|x) / answers
    A = r - mean of the other answers' r,    r = reward - β log π(y|x) / π_ref(y|x)

Ahmadian et al. 2024 (arXiv:2402.14740).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kilter.methods import grpo
from kilter.methods.grpo import (
    EATS,
    NEEDS,
    PARAMS,
    State,
    batches,
    evaluate,
    loss,
    rounds,
    steps_per_round,
    weights,
)

__all__ = [
    "EATS",
    "NEEDS",
    "PARAMS",
    "Config",
    "State",
    "batches",
    "evaluate",
    "loss",
    "rounds",
    "steps_per_round",
    "weights",
]


@dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
    """REINFORCE leave-one-out."""

    variant: Literal["grpo", "dr-grpo", "dapo", "rloo", "reinforce++"] = "rloo"
    answers: int = 4
