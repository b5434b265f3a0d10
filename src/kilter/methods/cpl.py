"""Contrastive preference learning: preferences compare advantages, and the policy's log-probabilities are those.

    loss = Σ_prompts 1/|pairs| Σ_pairs -log (e^{A_w} / (e^{A_w} + e^{λ A_l})) / prompts,    A = β Σ_t γ^t log π(y_t)

Hejna et al. 2023, arXiv:2310.13639: under maximum entropy the optimal advantage of a token is β log π, so no reward,
value or reference is needed. λ below one (the bias) makes the loss prefer pairs that stand within the data: with λ = 1
it can fall by making both answers unlikely. γ = 1 counts all tokens of an answer alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kilter.data.batches import RankedBatch
from kilter.methods import Loss, Round, Training, rounds_of
from kilter.methods import preferences as maths

EATS = {"data": "rankings"}
NEEDS = {"policy": "causal"}
PARAMS = {"policy": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Contrastive preference learning."""

    beta: float = 0.1
    """Temperature: what a log-probability is worth as an advantage."""
    bias: float = 0.5
    """λ: how much the worse answer's advantage counts; 1 is the loss without its regulariser."""
    gamma: float = 1.0
    """Discount from token to token."""
    batch: int = 8
    """Prompts, with all their answers, in one step."""
    lr: float = 1e-6
    warmup: int = 0
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}, but must be above 0")
        for name in ("bias", "gamma"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0 and at most 1")


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    from kilter.methods.paired import require_pairs

    require_pairs("cpl", streams["data"])
    return rounds_of(config, len(streams["data"]))


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[RankedBatch]:
    c = actors.config
    yield RankedBatch.of(streams["data"].at(state.round * c.batch, c.batch))


def weights(batch: RankedBatch) -> dict[str, float]:
    return {"preference": batch.decided}


def loss(actors: Any, batch: RankedBatch) -> Loss:
    import torch

    from kilter.methods.paired import flat
    from kilter.models.logprobs import answer_logps

    c = actors.config
    rows = answer_logps(actors.policy, batch.sequences, batch.starts)[0]
    advantage_N = c.beta * torch.stack([maths.discounted(row, c.gamma) for row in rows])
    f = flat(batch, advantage_N)
    better_P, worse_P = advantage_N[f.better], advantage_N[f.worse]
    losses_P = maths.either_way(partial(maths.cpl, bias=c.bias), better_P, worse_P, f.sure_P)
    return Loss(
        {"preference": (f.weight_P * losses_P).sum()},
        {
            "accuracy": ((f.weight_P * (better_P > worse_P)).sum().detach(), batch.decided),
            "advantage_better": ((f.weight_P * better_P).sum().detach(), batch.decided),
            "advantage_worse": ((f.weight_P * worse_P).sum().detach(), batch.decided),
        },
    )
