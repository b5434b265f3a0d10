"""Direct preference optimisation on whole rankings: all pairs of a prompt as one element of weight one.

    loss = Σ_prompts 1/|pairs| Σ_pairs -log σ(β (g_w - g_l)) / prompts,    g = log π(y|x) - log π_ref(y|x)

Rafailov et al. 2023, arXiv:2305.18290. The reference is the model that training starts from; its log-probs are taken
in the same batches as the policy's, so that before the first step every g is exactly zero, and that is checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kilter.data.batches import RankedBatch
from kilter.errors import RunError
from kilter.methods import Loss, Round, Training, rounds_of
from kilter.methods.objectives import dpo_sigmoid

EATS = {"data": "rankings"}
NEEDS = {"policy": "causal", "reference": "causal"}
PARAMS = {"policy": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Direct preference optimisation."""

    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    label_smoothing: float = 0.0
    """Assumed share of flipped labels (conservative DPO)."""
    batch: int = 8
    """Prompts, with all their answers, in one step."""
    lr: float = 1e-6
    warmup: int = 0
    checkpoint_every: int = 50


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, len(streams["data"]))


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[RankedBatch]:
    import torch

    from kilter.models.logprobs import sequence_logps

    c = actors.config
    batch = RankedBatch.of(streams["data"].at(state.round * c.batch, c.batch))
    parts = batch.split(c.micro_tokens)  # the composition that training will use, so that step 0 is exact
    with torch.no_grad():
        reference = torch.cat([sequence_logps(actors.reference, p.sequences, p.starts) for p in parts])
        if state.round == 0:
            policy = torch.cat([sequence_logps(actors.policy, p.sequences, p.starts) for p in parts])
            drift = float((policy - reference).abs().max())
            if drift != 0.0:
                raise RunError(f"before the first step the policy already differs from its reference by {drift:g} nats")
    yield dataclasses.replace(batch, reference_N=reference)


def weights(batch: RankedBatch) -> dict[str, float]:
    return {"preference": batch.decided}


def loss(actors: Any, batch: RankedBatch) -> Loss:
    from kilter.models.logprobs import sequence_logps

    c = actors.config
    assert batch.reference_N is not None  # `batches` has put it there
    gain_N = sequence_logps(actors.policy, batch.sequences, batch.starts) - batch.reference_N
    flat = [p for pairs in batch.pairs for p in pairs]
    weight_P = gain_N.new_tensor([p.weight for p in flat])
    better_P, worse_P = gain_N[[p.better for p in flat]], gain_N[[p.worse for p in flat]]
    losses_P = dpo_sigmoid(better_P, worse_P, c.beta, c.label_smoothing)
    return Loss(
        {"preference": (weight_P * losses_P).sum()},
        {
            "accuracy": ((weight_P * (better_P > worse_P)).sum().detach(), batch.decided),
            "gain_better": ((weight_P * better_P).sum().detach(), batch.decided),
            "gain_worse": ((weight_P * worse_P).sum().detach(), batch.decided),
        },
    )
