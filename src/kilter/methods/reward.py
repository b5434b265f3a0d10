"""Reward model from rankings: every answer once through the model, all pairs of a prompt as one element of weight one.

    loss = Σ_prompts 1/|pairs| Σ_pairs -log σ(r_w - r_l) / prompts   +   c Σ r² / answers

InstructGPT (Ouyang et al. 2022, arXiv:2203.02155, eq. 1), with a small pull of the scores towards zero, which keeps
their mean centred without changing any comparison much. An all-tied ranking has no pair and weighs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kilter.data.batches import RankedBatch
from kilter.methods import Loss, Round, Training, rounds_of
from kilter.methods.objectives import bradley_terry

EATS = {"data": "rankings"}
NEEDS = {"reward": "reward"}
PARAMS = {"reward": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Reward model training."""

    center_coef: float = 1e-3
    """Weight of the squared score, which keeps the mean reward near zero."""
    batch: int = 16
    """Prompts, with all their answers, in one step."""
    lr: float = 1e-5
    warmup: int = 10
    checkpoint_every: int = 50


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, len(streams["data"]))


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[RankedBatch]:
    c = actors.config
    yield RankedBatch.of(streams["data"].at(state.round * c.batch, c.batch))


def weights(batch: RankedBatch) -> dict[str, float]:
    return {"ranking": batch.decided, "center": len(batch.sequences)}


def loss(actors: Any, batch: RankedBatch) -> Loss:
    from kilter.models.logprobs import scores

    reward_N = scores(actors.reward, batch.sequences)
    flat = [p for pairs in batch.pairs for p in pairs]
    weight_P = reward_N.new_tensor([p.weight for p in flat])
    better_P, worse_P = reward_N[[p.better for p in flat]], reward_N[[p.worse for p in flat]]
    return Loss(
        {
            "ranking": (weight_P * bradley_terry(better_P, worse_P)).sum(),
            "center": actors.config.center_coef * (reward_N**2).sum(),
        },
        {
            "accuracy": ((weight_P * (better_P > worse_P)).sum().detach(), batch.decided),
            "margin": ((weight_P * (better_P - worse_P)).sum().detach(), batch.decided),
            "reward_mean": (reward_N.detach().sum(), len(reward_N)),
        },
    )


def notes(actors: Any, streams: Mapping[str, Any]) -> dict[str, float]:
    """Mean and spread of the finished model's scores over (at most 2,000 of) the answers it learned from.

    They stand in kilter.json beside the weights; reinforcement learning subtracts and divides by them.
    """
    import torch

    from kilter.models.logprobs import scores

    sequences = [s for item in streams["data"].items for s in item.sequences][:2000]
    with torch.no_grad():
        reward_N = scores(actors.reward, sequences).double()
    return {"reward_mean": float(reward_N.mean()), "reward_std": float(reward_N.std())}
