"""PPO with a value model and a per-token KL penalty to the model it starts from.

A round: sample answers, score them, penalise -β KL(π, π_ref) at every token, estimate advantages by GAE, whiten
them over the round, then take a few epochs of clipped steps on policy and value model.

    loss = Σ_tokens -min(ρA, clip(ρ)A) / tokens   +   c_v Σ_tokens ½ max((V-R)², (V_clip-R)²) / tokens
           + c_ptx · (-Σ_corpus log p / corpus tokens)

Schulman et al. 2017 (arXiv:1707.06347), Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022 (arXiv:2203.02155).

Its simpler relatives are settings of it. A2C (Mnih et al. 2016, arXiv:1602.01783) takes one unclipped step a round:
ppo_epochs 1, minibatches 1, clip_ratio 0, value_clip 0. REINFORCE (Williams 1992) has no value model either:
also critic none, whiten_advantages false, and baseline mean or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kilter.data.batches import RolloutBatch
from kilter.methods import Loss
from kilter.methods.objectives import adapted_kl_coef, clipped_surrogate, clipped_value_loss
from kilter.methods.rollout import Online, reward_needs

EATS = {"data": "prompts", "corpus": "packed-text", "heldout": "prompts"}


@dataclass(frozen=True, kw_only=True)
class Config(Online):
    """Proximal policy optimisation."""

    value: str = ""
    """Where the value model starts: empty means from the reward model, or the policy where that is no model; else
    `policy`, or a stage, folder or hub id."""
    critic: Literal["value", "none"] = "value"
    """`none` does without a value model: advantages are the rewards still to come (REINFORCE)."""
    baseline: Literal["mean", "none"] = "mean"
    """What is subtracted from them where there is no value model: the round's mean, or nothing."""
    whiten_advantages: bool = True
    """Shift and scale a round's advantages to mean 0 and spread 1."""
    steps: int | None = 30
    """Rounds of sampling and learning."""
    batch: int = 128
    """Prompts, each answered once, in a round."""
    ppo_epochs: int = 2
    """Passes over a round's answers."""
    minibatches: int = 2
    """Optimiser steps in one such pass."""
    kl_stop: float = 0.0
    """Ends a round's steps once KL(old ‖ new) per token of the next mini-batch is above this; 0 never does."""
    kl_coef: float = 0.3
    """β, the price of one nat of drift from the reference (the reward's spread is one)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """How a token's drift is estimated: log-ratio, half its square, or the one that is never negative."""
    kl_target: float = 0.0
    """Nats per answer that the adaptive controller steers to; 0 keeps β fixed."""
    kl_horizon: float = 5.0
    """Rounds over which the controller mends a deviation."""
    clip_ratio: float = 0.2
    """ε of the policy's clip; 0 does not clip."""
    value_clip: float = 0.5
    """ε of the value's clip; 0 does not clip."""
    value_coef: float = 1.0
    """Weight of the value loss."""
    value_lr: float = 1e-5
    """Peak learning rate of the value model."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """λ of GAE."""
    whiten_rewards: bool = False
    """Scale a round's token rewards to a spread of one, around their mean."""
    corpus: str = ""
    """Text rows for pretraining-gradient mixing (ptx); empty for none."""
    corpus_rows: int = 2
    """Packed corpus rows beside each optimiser step, when a corpus is given."""
    corpus_coef: float = 0.25
    """Weight of the ptx term."""
    row_tokens: int = 128
    """Tokens in a packed corpus row."""
    lr: float = 1e-6
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic == "none" and self.baseline == "none" and self.whiten_advantages:
            raise ValueError("baseline none with whiten_advantages: whitening subtracts the mean; set one of the two")
        if self.critic == "none" and self.value:
            raise ValueError(f"value is {self.value!r}, but critic is none: leave one of the two out")


@dataclass
class State:
    """The next round and the KL controller's coefficient (unset until the first round)."""

    round: int = 0
    kl_coef: float | None = None


@dataclass(frozen=True)
class PpoBatch:
    """A mini-batch of answers, and packed corpus rows beside it."""

    answers: RolloutBatch | None
    corpus: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """The round's answers with their rewards, kept in samples.jsonl."""

    @property
    def wheres(self) -> list[str]:
        """The rows that it comes from."""
        return [w for b in (self.answers, self.corpus) if b for w in b.wheres]

    def split(self, tokens: int) -> list[PpoBatch]:
        parts = [PpoBatch(b) for b in self.answers.split(tokens)] if self.answers else []
        return parts + ([PpoBatch(None, b) for b in self.corpus.split(tokens)] if self.corpus else [])


def NEEDS(config: Config) -> dict[str, str]:
    """The value model only where there is a critic, the reward model only where the reward is one."""
    return {
        "policy": "causal",
        "reference": "causal",
        **reward_needs(config),
        **({"value": "value"} if config.critic == "value" else {}),
    }


def PARAMS(config: Config) -> dict[str, str]:
    return {"policy": "lr"} | ({"value": "value_lr"} if config.critic == "value" else {})


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    from kilter.methods import rounds_of

    return rounds_of(config, len(streams["data"]))


def steps_per_round(config: Config) -> int:
    """Optimiser steps in one round, for the learning rate's schedule."""
    return config.ppo_epochs * min(config.minibatches, config.batch)


def batches(actors: Any, streams: Mapping[str, Any], state: State) -> Iterator[PpoBatch]:
    from kilter.methods import advantages as room
    from kilter.methods.rollout import answer_metrics, judged, roll_out, samples
    from kilter.models.sample import Sampling

    c: Config = actors.config
    coef = c.kl_coef if state.kl_coef is None else state.kl_coef
    items = streams["data"].at(state.round * c.batch, c.batch)
    settings = Sampling(temperature=c.temperature, max_new=c.max_new)
    rollout = roll_out(actors, items, settings, actors.seed, actors.stage, state.round)
    rewards, score_B = judged(actors, rollout, state.round)
    minis = room.dealt(len(rollout), c.minibatches)
    parts = [room.scored(actors, rollout, rows) for rows in minis]
    metrics = {**answer_metrics(rollout, rewards, score_B), **room.drift_metrics(parts)}
    metrics |= {"sampler_gap": room.sampler_gap(rollout, minis, parts), "kl_coef": coef}
    if state.round == 0:
        room.refuse_drift(metrics["kl_max"])
    found = room.estimated(parts, [score_B[rows] for rows in minis], coef, c)
    prepared = [_batch(s, [rollout.items[i].where for i in rows]) for s, rows in zip(found, minis, strict=True)]
    state.kl_coef = adapted_kl_coef(coef, metrics["kl"], c.kl_target, c.kl_horizon) if c.kl_target else coef
    for epoch in range(c.ppo_epochs):
        for number, batch in enumerate(prepared):
            step = epoch * len(prepared) + number
            corpus = _corpus(streams, c, state.round, step)
            if step == 0:
                yield PpoBatch(batch, corpus, metrics, samples(actors, rollout, rewards))
                continue
            moved = {}
            if c.kl_stop:  # steps have been taken since the answers were drawn: are they still worth learning from?
                kl = room.approx_kl(actors, batch.sequences, batch.starts, batch.old_logps_BR, batch.mask_BR)
                if kl > c.kl_stop:
                    return
                moved = {"approx_kl": kl}
            yield PpoBatch(batch, corpus, moved)


def evaluate(actors: Any, streams: Mapping[str, Any], state: State) -> dict[str, float]:
    from kilter.methods.heldout import held_out

    return held_out(actors, streams, state, rounds(actors.config, streams), actors.config.kl_coef)


def _batch(s: dict[str, Any], wheres: list[str]) -> RolloutBatch:
    return RolloutBatch(
        s["sequences"],
        s["starts"],
        *(s[n] for n in ("mask", "old", "ref", "values", "advantages", "returns")),
        wheres=wheres,
    )


def _corpus(streams: Mapping[str, Any], c: Config, round_: int, step: int) -> Any:
    if not c.corpus:
        return None
    per_round = c.ppo_epochs * c.minibatches
    return streams["corpus"].at((round_ * per_round + step) * c.corpus_rows, c.corpus_rows)


def weights(batch: PpoBatch) -> dict[str, float]:
    tokens = batch.answers.answer_tokens if batch.answers else 0
    return {"policy": tokens, "value": tokens, "corpus": batch.corpus.answer_tokens if batch.corpus else 0}


def loss(actors: Any, batch: PpoBatch) -> Loss:
    from kilter.models.logprobs import text_logps

    c: Config = actors.config
    if batch.answers is None:
        return Loss({"corpus": -c.corpus_coef * text_logps(actors.policy, batch.corpus).sum()})
    found = _answer_loss(actors, batch.answers, c)
    if batch.corpus is not None:
        found.terms["corpus"] = -c.corpus_coef * text_logps(actors.policy, batch.corpus).sum()
    return found


def _answer_loss(actors: Any, rows: RolloutBatch, c: Config) -> Loss:
    from kilter.methods.advantages import fit
    from kilter.models.logprobs import answer_logps, pad_rows, token_values

    mask, tokens = rows.mask_BR, rows.answer_tokens
    logps, _ = answer_logps(actors.policy, rows.sequences, rows.starts, c.temperature, c.micro_tokens)
    logps_BR = fit(pad_rows(logps), mask)
    surrogate_BR, clipped_BR = clipped_surrogate(logps_BR, rows.old_logps_BR, rows.advantages_BR, c.clip_ratio)
    terms = {"policy": (surrogate_BR * mask).sum()}
    metrics: dict[str, tuple[Any, float]] = {
        "clip_share": ((clipped_BR * mask).sum().detach(), tokens),
        "ratio_gap": (((logps_BR - rows.old_logps_BR).abs() * mask).sum().detach(), tokens),
    }
    if actors.value is not None:
        values = token_values(actors.value, rows.sequences, rows.starts, c.micro_tokens)
        values_BR = fit(pad_rows(values), mask)
        value_BR = clipped_value_loss(values_BR, rows.old_values_BR, rows.returns_BR, c.value_clip)
        terms["value"] = c.value_coef * (value_BR * mask).sum()
        metrics["value_error"] = (((values_BR - rows.returns_BR) ** 2 * mask).sum().detach(), tokens)
    return Loss(terms, metrics)
