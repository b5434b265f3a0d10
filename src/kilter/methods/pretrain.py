"""Pretraining: next-token prediction on a text corpus, from scratch or onwards (domain-adaptive).

loss = -Σ log p(x_t | x_<t) / number of targets          documents are packed and do not see each other
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kilter.methods import Loss, Round, Training, rounds_of

EATS = {"data": "packed-text"}
NEEDS = {"policy": "causal"}
PARAMS = {"policy": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Pretraining; the defaults suit going on with a full model, `recipes/sandbox.yaml` has those of a tiny one."""

    scratch: bool = False
    """Start from random weights of the folder's config.json instead of its weights."""
    row_tokens: int = 128
    """Tokens in a packed row."""
    batch: int = 8
    """Packed rows in one step; small batches learn faster per token here."""
    lr: float = 5e-5
    warmup: int = 50
    weight_decay: float = 0.1
    checkpoint_every: int = 300


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, streams["data"].rows_in(0))


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[Any]:
    yield streams["data"].at(state.round * actors.config.batch, actors.config.batch)


def weights(batch: Any) -> dict[str, float]:
    return {"nll": batch.answer_tokens}


def loss(actors: Any, batch: Any) -> Loss:
    from kilter.models.logprobs import text_logps

    nll = -text_logps(actors.policy, batch).sum()
    return Loss({"nll": nll}, {"tokens": (batch.answer_tokens, 1.0)})
