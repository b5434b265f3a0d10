"""Online DPO: sample several answers to each prompt, let the reward order them, take DPO steps on that order.

    loss = Σ_prompts 1/|pairs| Σ_pairs -log σ(β (g_w - g_l)) / prompts,    g = log π(y|x) - log π_ref(y|x)

Direct alignment from online feedback (Guo et al. 2024, arXiv:2402.04792), with the reward in the annotator's place. The
reference is the model that training starts from and stays. Answers of equal reward make no pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kilter.data.batches import RankedBatch
from kilter.data.judgments import pairs, tiers_from_scores
from kilter.data.streams import RankedItem
from kilter.methods import Loss, Round, rounds_of
from kilter.methods.objectives import dpo_sigmoid
from kilter.methods.rollout import Online, reward_needs

EATS = {"data": "prompts", "heldout": "prompts"}
PARAMS = {"policy": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Online):
    """Online direct preference optimisation."""

    answers: int = 4
    """Answers to each prompt."""
    pairs: Literal["extremes", "all"] = "extremes"
    """Compare the best answer with the worst, or all answers of different reward (together of weight one)."""
    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    label_smoothing: float = 0.0
    """Assumed share of wrong orders (conservative DPO)."""
    steps: int | None = 30
    """Rounds of sampling and learning."""
    batch: int = 32
    """Prompts in a round."""
    passes: int = 1
    """Passes over a round's pairs."""
    minibatches: int = 1
    """Optimiser steps in one such pass."""
    lr: float = 1e-6
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answers < 2:
            raise ValueError(f"answers is {self.answers}, but a comparison needs at least 2")


@dataclass(frozen=True)
class OrderedBatch(RankedBatch):
    """Ranked answers, and on a round's first batch the answers as they were drawn."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    """The round's answers with their rewards, kept in samples.jsonl."""


def NEEDS(config: Config) -> dict[str, str]:
    return {"policy": "causal", "reference": "causal", **reward_needs(config)}


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, len(streams["data"]))


def steps_per_round(config: Config) -> int:
    """Optimiser steps in one round, for the learning rate's schedule."""
    return config.passes * min(config.minibatches, config.batch)


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[OrderedBatch]:
    from kilter.methods.advantages import dealt
    from kilter.methods.rollout import answer_metrics, judged, roll_out, samples
    from kilter.models.sample import Sampling

    c: Config = actors.config
    items = streams["data"].at(state.round * c.batch, c.batch)
    settings = Sampling(temperature=c.temperature, max_new=c.max_new)
    rollout = roll_out(actors, items, settings, actors.seed, actors.stage, state.round, answers=c.answers)
    rewards, score_B = judged(actors, rollout, state.round)
    ordered = [_ordered(rollout, rows, score_B[rows].tolist(), c.pairs) for rows in rollout.group(c.answers).tolist()]
    prepared = [_referred(actors, [ordered[i] for i in rows], state) for rows in dealt(len(ordered), c.minibatches)]
    metrics = {
        **answer_metrics(rollout, rewards, score_B),
        "tied_prompts": float(sum(not item.pairs for item in ordered)),
    }
    for number in range(c.passes * len(prepared)):
        batch = prepared[number % len(prepared)]
        yield replace(batch, metrics=metrics, samples=samples(actors, rollout, rewards)) if number == 0 else batch


def _ordered(rollout: Any, rows: list[int], scores: list[float], which: str) -> RankedItem:
    """One prompt's answers in the order of their rewards; of equal best or worst ones the first drawn is taken."""
    if which == "extremes":
        best, worst = max(range(len(rows)), key=scores.__getitem__), min(range(len(rows)), key=scores.__getitem__)
        taken = [best] if best == worst else [best, worst]
        rows, scores = [rows[i] for i in taken], [scores[i] for i in taken]
    item = rollout.items[rows[0]]
    sequences, starts = [rollout.sequences[i] for i in rows], [rollout.starts[i] for i in rows]
    return RankedItem(item.prompt, sequences, starts, pairs(tiers_from_scores(scores)), item.where)


def _referred(actors: Any, items: list[RankedItem], state: Round) -> OrderedBatch:
    """A batch with the reference's log-probs, taken in the parts that training will use, so that step 0 is exact."""
    import torch

    from kilter.methods.advantages import refuse_drift
    from kilter.models.logprobs import sequence_logps

    batch = RankedBatch.of(items)
    parts = batch.split(actors.config.micro_tokens)
    with torch.no_grad():
        reference = torch.cat([sequence_logps(actors.reference, p.sequences, p.starts) for p in parts])
        if state.round == 0:
            policy = torch.cat([sequence_logps(actors.policy, p.sequences, p.starts) for p in parts])
            refuse_drift(float((policy - reference).abs().max()))
    return OrderedBatch(batch.sequences, batch.starts, batch.pairs, batch.sizes, batch.wheres, reference)


def evaluate(actors: Any, streams: Mapping[str, Any], state: Round) -> dict[str, float]:
    from kilter.methods.heldout import held_out

    return held_out(actors, streams, state, rounds(actors.config, streams), actors.config.beta)


def weights(batch: RankedBatch) -> dict[str, float]:
    return {"preference": batch.decided}


def loss(actors: Any, batch: RankedBatch) -> Loss:
    from kilter.models.logprobs import sequence_logps

    c: Config = actors.config
    assert batch.reference_N is not None  # `batches` has put it there
    gain_N = sequence_logps(actors.policy, batch.sequences, batch.starts) - batch.reference_N
    flat = [p for found in batch.pairs for p in found]
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
