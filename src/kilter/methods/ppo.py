"""PPO with a value model and a per-token KL penalty to the model it starts from.

A round: sample answers, score them, penalise -β (log π - log π_ref) at every token, estimate advantages by GAE, whiten
them over the round, then take a few epochs of clipped steps on policy and value model.

    loss = Σ_tokens -min(ρA, clip(ρ)A) / tokens   +   c_v Σ_tokens ½ max((V-R)², (V_clip-R)²) / tokens
           + c_ptx · (-Σ_corpus log p / corpus tokens)

Schulman et al. 2017 (arXiv:1707.06347), Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022 (arXiv:2203.02155).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kilter.data.batches import RolloutBatch, budget_groups
from kilter.errors import RunError
from kilter.methods import Loss, Training
from kilter.methods.objectives import (
    adapted_kl_coef,
    clipped_surrogate,
    clipped_value_loss,
    gae,
    kl_penalised_rewards,
    whiten,
)

EATS = {"data": "prompts", "corpus": "packed-text"}
NEEDS = {"policy": "causal", "reference": "causal", "reward": "reward", "value": "value"}
PARAMS = {"policy": "lr", "value": "value_lr"}


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Proximal policy optimisation."""

    reward: str
    """The reward model: a stage, a folder or a hub id of a one-label sequence classifier."""
    value: str = ""
    """Where the value model starts; empty means from the reward model."""
    steps: int | None = 30
    """Rounds of sampling and learning."""
    batch: int = 128
    """Prompts, each answered once, in a round."""
    ppo_epochs: int = 2
    """Passes over a round's answers."""
    minibatches: int = 2
    """Optimiser steps in one such pass."""
    kl_coef: float = 0.3
    """β, the price of one nat of drift from the reference (the reward's spread is one)."""
    kl_target: float = 0.0
    """Nats per answer that the adaptive controller steers to; 0 keeps β fixed."""
    kl_horizon: float = 5.0
    """Rounds over which the controller mends a deviation."""
    clip_ratio: float = 0.2
    """ε of the policy's clip."""
    value_clip: float = 0.5
    """ε of the value's clip."""
    value_coef: float = 1.0
    """Weight of the value loss."""
    value_lr: float = 1e-5
    """Peak learning rate of the value model."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """λ of GAE."""
    whiten_rewards: bool = False
    """Divide a round's token rewards by their spread."""
    reward_clip: float = 4.0
    """Largest absolute reward, in spreads; 0 does not clip."""
    eos_penalty: float = 1.0
    """Subtracted from the reward of an answer that never ended."""
    max_new: int = 64
    """Longest answer in tokens."""
    temperature: float = 1.0
    """Temperature of sampling; log-probs are taken at the same one."""
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


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    from kilter.methods import rounds_of

    return rounds_of(config, len(streams["data"]))


def steps_per_round(config: Config) -> int:
    """Optimiser steps in one round, for the learning rate's schedule."""
    return config.ppo_epochs * min(config.minibatches, config.batch)


def batches(actors: Any, streams: Mapping[str, Any], state: State) -> Iterator[PpoBatch]:
    import torch

    from kilter.methods.rollout import reward_scores, roll_out, samples
    from kilter.models.sample import Sampling

    c: Config = actors.config
    coef = c.kl_coef if state.kl_coef is None else state.kl_coef
    items = streams["data"].at(state.round * c.batch, c.batch)
    settings = Sampling(temperature=c.temperature, max_new=c.max_new)
    rollout = roll_out(actors, items, settings, actors.seed, actors.stage, state.round)
    raw_B, score_B = reward_scores(actors, rollout, c.reward_clip)
    if state.round == 0 and len(score_B) > 1 and float(score_B.min()) == float(score_B.max()):
        raise RunError(
            f"stage {actors.stage}: every answer of the first round got the same score ({float(raw_B[0]):g} before "
            f"clipping), so there is nothing to learn; is {actors.config.reward} a trained reward model?"
        )
    finished_B = torch.tensor([a.finished for a in rollout.answers])
    score_B = score_B.cpu() - c.eos_penalty * (~finished_B).float()
    minis = _minibatches(actors, rollout.sequences, rollout.starts, c)
    scored = [_score(actors, [rollout.sequences[i] for i in rows], [rollout.starts[i] for i in rows]) for rows in minis]
    metrics = _round_metrics(rollout, minis, scored, score_B)
    if state.round == 0 and metrics["kl_max"] != 0.0:
        raise RunError(f"before the first step the policy differs from its reference by {metrics['kl_max']:g} nats")
    batches_ = [
        replace(batch, wheres=[rollout.items[i].where for i in rows])
        for batch, rows in zip(_advantages(scored, [score_B[rows] for rows in minis], coef, c), minis, strict=True)
    ]
    state.kl_coef = adapted_kl_coef(coef, metrics["kl"], c.kl_target, c.kl_horizon) if c.kl_target else coef
    metrics["kl_coef"] = coef
    for epoch in range(c.ppo_epochs):
        for number, batch in enumerate(batches_):
            step = epoch * len(batches_) + number
            first = epoch == 0 and number == 0
            corpus = _corpus(streams, c, state.round, step)
            shown = (metrics, samples(actors, rollout, raw_B)) if first else ()
            yield PpoBatch(batch, corpus, *shown)


def _corpus(streams: Mapping[str, Any], c: Config, round_: int, step: int) -> Any:
    if not c.corpus:
        return None
    per_round = c.ppo_epochs * c.minibatches
    return streams["corpus"].at((round_ * per_round + step) * c.corpus_rows, c.corpus_rows)


def _minibatches(actors: Any, sequences: list[list[int]], starts: list[int], c: Config) -> list[list[int]]:
    """Rows of each mini-batch: dealt like cards from the length-sorted rollout, so that all are alike."""
    return [list(range(m, len(sequences), c.minibatches)) for m in range(min(c.minibatches, len(sequences)))]


def _score(actors: Any, sequences: list[list[int]], starts: list[int]) -> dict[str, Any]:
    """Old, reference log-probs, entropy and values of a mini-batch, in the micro-batches that training will use."""
    import torch

    from kilter.models.logprobs import answer_logps, pad_rows, token_values

    out: dict[str, Any] = {"sequences": sequences, "starts": starts}
    c = actors.config
    found: dict[str, list[Any]] = {"old": [], "ref": [], "values": [], "entropy": []}
    for micro in budget_groups([len(s) for s in sequences], c.micro_tokens):
        part = [sequences[i] for i in micro], [starts[i] for i in micro]
        with torch.no_grad():
            old, entropy = answer_logps(actors.policy, *part, c.temperature, c.micro_tokens, entropy=True)
            ref, _ = answer_logps(actors.reference, *part, c.temperature, c.micro_tokens)
            values = token_values(actors.value, *part, c.micro_tokens)
        for name, rows in (("old", old), ("ref", ref), ("values", values), ("entropy", entropy)):
            found[name] += rows
    out["mask"] = pad_rows([torch.ones_like(r) for r in found["old"]])
    return out | {name: pad_rows(rows) for name, rows in found.items()}


def _round_metrics(
    rollout: Any, minis: list[list[int]], scored: list[dict[str, Any]], score_B: Any
) -> dict[str, float]:
    import torch

    drift_B = torch.cat([((s["old"] - s["ref"]) * s["mask"]).sum(-1) for s in scored])
    tokens = float(sum(s["mask"].sum() for s in scored))
    gaps = [
        abs(float(s["old"][row, t]) - logp)
        for s, rows in zip(scored, minis, strict=True)
        for row, i in enumerate(rows)
        for t, logp in enumerate(rollout.answers[i].logps)
    ]
    return {
        "reward": float(score_B.mean()),
        "reward_std": float(score_B.std()) if len(score_B) > 1 else 0.0,
        "kl": float(drift_B.mean()),
        "kl_max": float(max((s["old"] - s["ref"]).abs().max() for s in scored)),
        "entropy": float(sum((s["entropy"] * s["mask"]).sum() for s in scored)) / tokens,
        "length": tokens / len(score_B) - sum(a.finished for a in rollout.answers) / len(score_B),
        "eos": sum(a.finished for a in rollout.answers) / len(score_B),
        "sampler_gap": max(gaps),
    }


def _advantages(scored: list[dict[str, Any]], score_parts: list[Any], coef: float, c: Config) -> list[RolloutBatch]:
    """GAE per mini-batch, whitened over the whole round."""
    import torch

    parts = []
    all_rewards = [
        kl_penalised_rewards(score.to(s["old"]), s["old"], s["ref"], s["mask"], coef)
        for s, score in zip(scored, score_parts, strict=True)
    ]
    if c.whiten_rewards:
        flat = torch.cat([r[s["mask"].bool()] for r, s in zip(all_rewards, scored, strict=True)])
        spread = flat.std(unbiased=False)
        all_rewards = [r / spread for r in all_rewards] if spread > 0 else all_rewards
    for s, rewards in zip(scored, all_rewards, strict=True):
        advantages, returns = gae(rewards, s["values"], s["mask"], c.gamma, c.lam)
        parts.append(
            RolloutBatch(
                s["sequences"], s["starts"], s["mask"], s["old"], s["ref"], s["values"] * s["mask"], advantages, returns
            )
        )
    flat_A = torch.cat([p.advantages_BR[p.mask_BR.bool()] for p in parts])
    white = whiten(flat_A, torch.ones_like(flat_A))
    sizes = [p.answer_tokens for p in parts]
    return [
        replace(p, advantages_BR=torch.zeros_like(p.advantages_BR).masked_scatter(p.mask_BR.bool(), w))
        for p, w in zip(parts, white.split(sizes), strict=True)
    ]


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
    from kilter.models.logprobs import answer_logps, pad_rows, token_values

    logps, _ = answer_logps(actors.policy, rows.sequences, rows.starts, c.temperature, c.micro_tokens)
    logps_BR = _fit(pad_rows(logps), rows.mask_BR)
    values_BR = _fit(pad_rows(token_values(actors.value, rows.sequences, rows.starts, c.micro_tokens)), rows.mask_BR)
    surrogate_BR, clipped_BR = clipped_surrogate(logps_BR, rows.old_logps_BR, rows.advantages_BR, c.clip_ratio)
    value_BR = clipped_value_loss(values_BR, rows.old_values_BR, rows.returns_BR, c.value_clip)
    mask, tokens = rows.mask_BR, rows.answer_tokens
    return Loss(
        {"policy": (surrogate_BR * mask).sum(), "value": c.value_coef * (value_BR * mask).sum()},
        {
            "clip_share": ((clipped_BR * mask).sum().detach(), tokens),
            "ratio_gap": (((logps_BR - rows.old_logps_BR).abs() * mask).sum().detach(), tokens),
            "value_error": (((values_BR - rows.returns_BR) ** 2 * mask).sum().detach(), tokens),
        },
    )


def _fit(rows_BR: Any, mask_BR: Any) -> Any:
    """Pad columns up to the mask's width: a micro-batch's longest answer may be shorter than the mini-batch's."""
    import torch

    return torch.nn.functional.pad(rows_BR, (0, mask_BR.shape[1] - rows_BR.shape[1]))
