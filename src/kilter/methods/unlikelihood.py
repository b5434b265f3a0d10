"""Unlikelihood on preferences: make the better answer likely and the worse one's tokens unlikely.

    loss = Σ_prompts 1/|pairs| Σ_pairs ( -mean_t log p(y_w,t) - α mean_t log (1 - p(y_l,t)) ) / prompts

The baseline of the DPO paper (Rafailov et al. 2023, arXiv:2305.18290) with the token-level unlikelihood of Welleck et
al. 2019, arXiv:1908.04319, over the worse answer. Means are over an answer's tokens, so that a prompt weighs one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """Unlikelihood on preferences."""

    alpha: float = 0.5
    """Weight of the worse answers' unlikelihood."""
    batch: int = 8
    """Prompts, with all their answers, in one step."""
    lr: float = 1e-6
    warmup: int = 0
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha}, but must not be below 0")


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    from kilter.methods.paired import require_pairs

    require_pairs("unlikelihood", streams["data"])
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
    likely_N = torch.stack([-row.mean() for row in rows])
    unlikely_N = torch.stack([-maths.log_not(row).mean() for row in rows])
    f = flat(batch, likely_N)
    right_P = likely_N[f.better] + c.alpha * unlikely_N[f.worse]
    wrong_P = likely_N[f.worse] + c.alpha * unlikely_N[f.better]  # what a soft label leaves for the other way round
    return Loss(
        {"preference": (f.weight_P * (f.sure_P * right_P + (1 - f.sure_P) * wrong_P)).sum()},
        {
            "accuracy": ((f.weight_P * (likely_N[f.better] < likely_N[f.worse])).sum().detach(), batch.decided),
            "nll_better": ((f.weight_P * likely_N[f.better]).sum().detach(), batch.decided),
            "nll_worse": ((f.weight_P * likely_N[f.worse]).sum().detach(), batch.decided),
        },
    )
