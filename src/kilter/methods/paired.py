"""Ranked prompts → flat pairs, and the reference's log-probabilities: what methods over preferences begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kilter.data.batches import LabelledBatch, RankedBatch
from kilter.errors import RecipeError, RunError
from kilter.models.logprobs import sequence_logps


@dataclass(frozen=True)
class Flat:
    """All pairs of a batch side by side; positions are into its sequences."""

    better: list[int]
    worse: list[int]
    weight_P: Tensor
    """A prompt's weights sum to its share, which is one unless it is given."""
    margin_P: Tensor
    sure_P: Tensor


def flat(batch: RankedBatch, like: Tensor, shares: Sequence[float] | None = None) -> Flat:
    """The pairs of a batch, as tensors of the kind of `like`; `shares` weighs its prompts."""
    every = [
        (p, share) for pairs, share in zip(batch.pairs, shares or [1.0] * len(batch.pairs), strict=True) for p in pairs
    ]
    return Flat(
        [p.better for p, _ in every],
        [p.worse for p, _ in every],
        like.new_tensor([p.weight * share for p, share in every]),
        like.new_tensor([p.margin for p, _ in every]),
        like.new_tensor([p.sure for p, _ in every]),
    )


def require_pairs(stage: str, stream: Any, orders: bool = False) -> None:
    """Refuse rankings that decide nothing, and with `orders` soft labels, which whole orders can't take."""
    if not any(item.pairs for item in stream.items):
        raise RecipeError(
            f"{stage}: none of the {len(stream.items)} rankings has a decided pair of answers, so there is nothing to "
            "learn from them"
        )
    soft = next((item for item in stream.items if orders and any(p.sure < 1 for p in item.pairs)), None)
    if soft is not None:
        raise RecipeError(
            f"{stage}: {soft.where} gives a probability, which only the losses over pairs can take; choose one of them"
        )


def reference_logps(actors: Any, parts: Sequence[RankedBatch | LabelledBatch], first: bool) -> Tensor:
    """Log-probability of every answer under the reference, taken in the parts that training will use.

    Before the first step the policy is its reference: through the same parts its log-probabilities are exactly these,
    and a single nat of difference stops the run.
    """
    with torch.no_grad():
        reference_N = torch.cat([sequence_logps(actors.reference, p.sequences, p.starts) for p in parts])
        if first:
            policy_N = torch.cat([sequence_logps(actors.policy, p.sequences, p.starts) for p in parts])
            drift = float((policy_N - reference_N).abs().max())
            if drift != 0.0:
                raise RunError(f"before the first step the policy already differs from its reference by {drift:g} nats")
    return reference_N


def answer_lengths(batch: RankedBatch | LabelledBatch) -> list[int]:
    """Tokens of each answer."""
    return [len(s) - start for s, start in zip(batch.sequences, batch.starts, strict=True)]
