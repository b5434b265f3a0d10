"""Rejection-sampling fine-tuning: sample several answers to each prompt, keep the best by reward, imitate it.

    loss = -Σ_best answers log p(y_t | x, y_<t) / answer tokens,    best by r - β (log π(y | x) - log π_ref(y | x))

RAFT (Dong et al. 2023, arXiv:2304.06767): in each round the policy learns from the best of its own answers. Nothing in
the loss holds it to its start, so round upon round it climbs the reward, past where the reward is right. With β the
drift of an answer counts against it when the best is chosen. Where the policy is π_ref exp(r/β) / Z, the optimum of
reward less β · KL, all answers to a prompt are equally good, and the choice no longer drives it on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kilter.data.batches import AnswerBatch
from kilter.methods import Loss, Round, rounds_of
from kilter.methods.rollout import Online, reward_needs

EATS = {"data": "prompts", "heldout": "prompts"}
PARAMS = {"policy": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Online):
    """Rejection-sampling fine-tuning."""

    answers: int = 8
    """Answers to each prompt, of which the best is kept."""
    steps: int | None = 30
    """Rounds of sampling and learning."""
    batch: int = 32
    """Prompts in a round."""
    beta: float = 0.0
    """β, what one nat of drift from the reference takes off an answer's reward when the best is chosen; 0 is off."""
    passes: int = 1
    """Passes over a round's best answers."""
    minibatches: int = 2
    """Optimiser steps in one such pass."""
    lr: float = 1e-5
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answers < 2:
            raise ValueError(f"answers is {self.answers}, but the best needs another beside it")


def NEEDS(config: Config) -> dict[str, str]:
    """The reference only where drift counts, or is measured on held-out prompts."""
    reference = {"reference": "causal"} if config.beta or config.heldout else {}
    return {"policy": "causal", **reference, **reward_needs(config)}


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, len(streams["data"]))


def steps_per_round(config: Config) -> int:
    """Optimiser steps in one round, for the learning rate's schedule."""
    return config.passes * min(config.minibatches, config.batch)


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[AnswerBatch]:
    from kilter.methods.advantages import dealt, drift_metrics, refuse_drift, scored
    from kilter.methods.rollout import answer_metrics, judged, roll_out, samples
    from kilter.models.sample import Sampling

    c: Config = actors.config
    items = streams["data"].at(state.round * c.batch, c.batch)
    settings = Sampling(temperature=c.temperature, max_new=c.max_new)
    rollout = roll_out(actors, items, settings, actors.seed, actors.stage, state.round, answers=c.answers)
    rewards, score_B = judged(actors, rollout, state.round)
    metrics = answer_metrics(rollout, rewards, score_B)
    worth_B = score_B
    if c.beta:
        part = scored(actors, rollout, range(len(rollout)))
        metrics |= drift_metrics([part])
        if state.round == 0:
            refuse_drift(metrics["kl_max"])
        worth_B = score_B - c.beta * ((part["old"] - part["ref"]) * part["mask"]).sum(-1).to(score_B)
    groups = rollout.group(c.answers)
    best_G = worth_B[groups].argmax(dim=1, keepdim=True)  # of equal ones the first drawn
    kept = sorted(groups.gather(1, best_G)[:, 0].tolist())
    metrics["reward_kept"] = float(score_B[kept].mean())
    prepared = [_batch(rollout, [kept[i] for i in rows]) for rows in dealt(len(kept), c.minibatches)]
    for number in range(c.passes * len(prepared)):
        batch = prepared[number % len(prepared)]
        yield replace(batch, metrics=metrics, samples=samples(actors, rollout, rewards)) if number == 0 else batch


def _batch(rollout: Any, rows: list[int]) -> AnswerBatch:
    sequences, starts = [rollout.sequences[i] for i in rows], [rollout.starts[i] for i in rows]
    return AnswerBatch(sequences, starts, {}, [rollout.items[i].where for i in rows])


def evaluate(actors: Any, streams: Mapping[str, Any], state: Round) -> dict[str, float]:
    from kilter.methods.heldout import held_out

    return held_out(actors, streams, state, rounds(actors.config, streams), actors.config.beta)


def weights(batch: AnswerBatch) -> dict[str, float]:
    return {"nll": batch.answer_tokens}


def loss(actors: Any, batch: AnswerBatch) -> Loss:
    import torch

    from kilter.models.logprobs import answer_logps

    logps, _ = answer_logps(actors.policy, batch.sequences, batch.starts, tokens=actors.config.micro_tokens)
    return Loss({"nll": -torch.cat(logps).sum()})
