"""Group policy gradients: several answers to each prompt, each judged against the others; no value model.

    loss = -Σ_answers Σ_tokens w · min(ρA, clip(ρ)A) / W   +   β Σ_answers Σ_tokens w · KL(π, π_ref) / W

What the published variants differ in is a row of `VARIANTS`; every entry of it is also a field:

    grpo         A = (r - mean) / std of the group; mean over each answer's tokens; KL in the loss
                 (Shao et al. 2024, arXiv:2402.03300)
    dr-grpo      A = r - mean; tokens by the constant `max_new`; no KL       (Liu et al. 2025, arXiv:2503.20783)
    dapo         wider upper clip; all tokens weigh alike; groups of equal rewards drawn anew; overlong answers
                 punished softly; no KL                                      (Yu et al. 2025, arXiv:2503.14476)
    rloo         A = r - mean of the other answers; whole answers as actions; KL in the reward, no clip
                 (Ahmadian et al. 2024, arXiv:2402.14740)
    reinforce++  token rewards with KL, no group baseline, whitened over the round  (Hu et al. 2025, arXiv:2501.03262)

When a round takes one optimiser step, ρ is taken against the step's own log-probs, detached: exactly one, with the
gradient of the policy. The pass for old log-probs is then left out, unless the KL in the reward needs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kilter.data.batches import AnswerBatch
from kilter.methods import Loss, rounds_of
from kilter.methods.groups import group_advantages, importance_weight, overlong_penalty
from kilter.methods.objectives import clipped_surrogate, kl_estimate
from kilter.methods.rollout import Online, reward_needs

EATS = {"data": "prompts", "heldout": "prompts"}
PARAMS = {"policy": "lr"}


@dataclass(frozen=True)
class Variant:
    """What one published method states; a field of the same name overrides it."""

    baseline: str
    scale: str
    normalise: str
    clip_low: float
    clip_high: float
    beta: float
    kl_in: str
    kl_estimator: str
    dynamic: bool
    overlong: float


VARIANTS = {
    "grpo": Variant("group", "group", "answer", 0.2, 0.2, 0.04, "loss", "k3", False, 0.0),
    "dr-grpo": Variant("group", "none", "length", 0.2, 0.2, 0.0, "loss", "k3", False, 0.0),
    "dapo": Variant("group", "group", "token", 0.2, 0.28, 0.0, "loss", "k3", True, 0.2),
    "rloo": Variant("leave-one-out", "none", "sequence", 0.0, 0.0, 0.05, "reward", "k1", False, 0.0),
    "reinforce++": Variant("none", "batch", "token", 0.2, 0.2, 0.01, "token-reward", "k1", False, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class Config(Online):
    """Group policy gradients."""

    variant: Literal["grpo", "dr-grpo", "dapo", "rloo", "reinforce++"] = "grpo"
    """The published method whose settings hold where the fields below are unset."""
    answers: int = 8
    """Answers to each prompt."""
    baseline: Literal["variant", "group", "leave-one-out", "none"] = "variant"
    """What is subtracted from a reward: its group's mean, the mean of the group's others, or nothing."""
    scale: Literal["variant", "group", "batch", "none"] = "variant"
    """Advantages divided by their group's spread, whitened over all tokens of the round, or left as they are."""
    normalise: Literal["variant", "answer", "token", "length", "sequence"] = "variant"
    """Tokens are averaged within each answer, over the whole batch, by the constant `max_new`, or summed per answer."""
    clip_low: float | None = None
    """ε below ratio 1; 0 with clip_high 0 does not clip."""
    clip_high: float | None = None
    """ε above ratio 1."""
    beta: float | None = None
    """β, the price of one nat of drift from the reference; at 0 none is loaded (but for the KL of held-out prompts)."""
    kl_in: Literal["variant", "loss", "reward", "token-reward"] = "variant"
    """Where the drift is paid: in the loss, in an answer's reward, or in the rewards of its tokens."""
    kl_estimator: Literal["variant", "k1", "k2", "k3"] = "variant"
    """How a token's drift is estimated: log-ratio, half its square, or the one that is never negative."""
    dynamic: bool | None = None
    """Draw further prompts in place of those whose answers all got the same reward."""
    refills: int = 3
    """How often further prompts are drawn in a round, when `dynamic` is on."""
    overlong: float | None = None
    """Last share of `max_new` over which an answer's length is punished, by up to 1; 0 is off."""
    importance_cap: float = 0.0
    """Weigh tokens by min(cap, π_trainer / π_sampler), for samplers of other numerics; 0 is off."""
    steps: int | None = 30
    """Rounds of sampling and learning."""
    batch: int = 16
    """Prompts in a round."""
    passes: int = 1
    """Passes over a round's answers."""
    minibatches: int = 1
    """Optimiser steps in one such pass."""
    lr: float = 1e-6
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        s = chosen(self)
        if self.answers < 2 and (s.baseline != "none" or s.scale == "group"):
            raise ValueError(f"answers is {self.answers}, but a group needs at least 2 (or baseline none, scale batch)")
        if s.beta and s.kl_in == "loss" and s.kl_estimator == "k1":
            raise ValueError("kl_estimator k1 in the loss has no gradient that penalises drift; take k2 or k3")
        if s.beta and s.kl_in == "token-reward" and s.scale == "group":
            raise ValueError("kl_in token-reward with scale group would mix their units; take scale batch or none")
        if not 0 <= s.overlong < 1:
            raise ValueError(f"overlong is {s.overlong:g}, but must be a share from 0 to below 1")
        for name, value in (("clip_low", s.clip_low), ("clip_high", s.clip_high), ("beta", s.beta)):
            if value < 0:
                raise ValueError(f"{name} is {value:g}, but must not be below 0")
        for name in ("refills", "importance_cap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must not be below 0")


def chosen(config: Config) -> Variant:
    """The variant's row with the fields that were set."""
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(Variant)}
    return dataclasses.replace(
        VARIANTS[config.variant], **{k: v for k, v in given.items() if v is not None and v != "variant"}
    )


@dataclass
class State:
    """The next round, and how many prompts were drawn before it (more than rounds · batch where some were replaced)."""

    round: int = 0
    drawn: int = 0


def NEEDS(config: Config) -> dict[str, str]:
    """The reference only where drift is paid for, or measured on held-out prompts."""
    reference = {"reference": "causal"} if chosen(config).beta or config.heldout else {}
    return {"policy": "causal", **reference, **reward_needs(config)}


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, len(streams["data"]))


def steps_per_round(config: Config) -> int:
    """Optimiser steps in one round, for the learning rate's schedule."""
    return config.passes * min(config.minibatches, config.batch)


def batches(actors: Any, streams: Mapping[str, Any], state: State) -> Iterator[AnswerBatch]:
    from kilter.methods.advantages import dealt, drift_metrics, over_the_round, refuse_drift, scored
    from kilter.methods.rollout import answer_metrics, samples

    c: Config = actors.config
    s = chosen(c)
    rollout, rewards, score_B, silent = _gathered(actors, streams, state)
    by_group = rollout.group(c.answers)
    minis = [sorted(by_group[rows].flatten().tolist()) for rows in dealt(len(by_group), c.minibatches)]
    in_reward = bool(s.beta) and s.kl_in != "loss"
    old = steps_per_round(c) > 1 or in_reward or (state.round == 0 and actors.reference is not None)
    parts = [scored(actors, rollout, rows, old) for rows in minis]
    metrics = {**answer_metrics(rollout, rewards, score_B), "silent_groups": float(silent)}
    if old and actors.reference is not None:
        drift = drift_metrics(parts)
        if state.round == 0:
            refuse_drift(drift["kl_max"])
    advantage_B = _answer_advantages(s, score_B, by_group, minis, parts if in_reward else None)
    for part, rows in zip(parts, minis, strict=True):
        part["advantages"] = advantage_B[rows, None].to(part["mask"]) * part["mask"]
        if in_reward and s.kl_in == "token-reward":
            paid = s.beta * kl_estimate(part["old"], part["ref"], s.kl_estimator) * part["mask"]
            part["advantages"] = part["advantages"] - paid.flip(-1).cumsum(-1).flip(-1) * part["mask"]
    parts = over_the_round(parts, centre=False, scale=s.scale == "batch")
    prepared = [_batch(c, rollout, rows, part) for rows, part in zip(minis, parts, strict=True)]
    for _ in range(c.passes):
        for batch in prepared:
            if metrics:
                yield dataclasses.replace(batch, metrics=metrics, samples=samples(actors, rollout, rewards))
                metrics = {}
            else:
                yield batch


def _gathered(actors: Any, streams: Mapping[str, Any], state: State) -> tuple[Any, Any, Any, int]:
    """A round's answers, their rewards and how many groups taught nothing; dynamic sampling draws these anew."""
    from kilter.methods.rollout import joined, judged, roll_out
    from kilter.models.sample import Sampling

    c: Config = actors.config
    s = chosen(c)
    settings = Sampling(temperature=c.temperature, max_new=c.max_new)
    kept: list[tuple[Any, Any, Any, list[int]]] = []
    wanted, silent = c.batch, 0
    for attempt in range(1 + (c.refills if s.dynamic else 0)):
        items = streams["data"].at(state.drawn, wanted)
        state.drawn += wanted
        key = (actors.seed, actors.stage, state.round, attempt)
        rollout = roll_out(actors, items, settings, *key, answers=c.answers)
        rewards, score_B = judged(actors, rollout, state.round if not attempt else -1)
        score_B = score_B + overlong_penalty(rollout.length_B, c.max_new, s.overlong)
        groups = rollout.group(c.answers)
        speaks_G = score_B[groups].amax(1) != score_B[groups].amin(1)
        silent += int((~speaks_G).sum())
        last = not s.dynamic or attempt == c.refills
        rows = groups if last else groups[speaks_G]
        kept.append((rollout, rewards, score_B, rows.flatten().tolist()))
        wanted -= len(rows)
        if not wanted:
            break
    rollout, rewards, score_B = kept[0][:3] if len(kept) == 1 else joined(kept)
    return rollout, rewards, score_B, silent


def _answer_advantages(s: Variant, score_B: Any, by_group: Any, minis: list[list[int]], parts: Any) -> Any:
    """One advantage per answer; with the KL in the reward, the whole answer's drift is paid before the baseline."""
    import torch

    if parts is not None and s.kl_in == "reward":
        score_B = score_B.clone()
        for part, rows in zip(parts, minis, strict=True):
            drift = (kl_estimate(part["old"], part["ref"], s.kl_estimator) * part["mask"]).sum(-1)
            score_B[rows] -= s.beta * drift.to(score_B)
    found = torch.zeros_like(score_B)
    return found.index_put((by_group,), group_advantages(score_B[by_group], s.baseline, s.scale))


def _batch(c: Config, rollout: Any, rows: list[int], part: dict[str, Any]) -> AnswerBatch:
    import torch

    from kilter.models.logprobs import pad_rows

    s, mask = chosen(c), part["mask"]
    sampled = pad_rows([torch.tensor(rollout.answers[i].logps, dtype=mask.dtype) for i in rows]).to(mask.device)
    lengths_B1 = mask.sum(-1, keepdim=True)
    per_token = {"answer": 1 / lengths_B1, "length": torch.full_like(lengths_B1, 1 / c.max_new)}
    columns = {
        "mask": mask,
        "advantages": part["advantages"],
        "sampled": sampled,
        "weight": per_token.get(s.normalise, torch.ones_like(lengths_B1)) * mask,
        "counts": torch.full_like(lengths_B1[:, 0], 1.0) if s.normalise != "token" else lengths_B1[:, 0],
    }
    if steps_per_round(c) > 1:
        columns["old"] = part["old"]
    if "ref" in part:
        columns["ref"] = part["ref"]
    return AnswerBatch(part["sequences"], part["starts"], columns, [rollout.items[i].where for i in rows])


def evaluate(actors: Any, streams: Mapping[str, Any], state: State) -> dict[str, float]:
    from kilter.methods.heldout import held_out

    return held_out(actors, streams, state, rounds(actors.config, streams), chosen(actors.config).beta)


def weights(batch: AnswerBatch) -> dict[str, float]:
    whole = float(batch.columns["counts"].sum())
    return {"policy": whole, "kl_penalty": whole}


def loss(actors: Any, batch: AnswerBatch) -> Loss:
    from kilter.methods.advantages import fit
    from kilter.models.logprobs import answer_logps, pad_rows

    c: Config = actors.config
    s, given = chosen(c), batch.columns
    mask, weight_BR, tokens = given["mask"], given["weight"], batch.answer_tokens
    logps, entropy = answer_logps(actors.policy, batch.sequences, batch.starts, c.temperature, c.micro_tokens, True)
    logps_BR = fit(pad_rows(logps), mask)
    old_BR = given.get("old", logps_BR.detach())
    surrogate_BR, clipped_BR = clipped_surrogate(logps_BR, old_BR, given["advantages"], s.clip_low, s.clip_high)
    metrics: dict[str, tuple[Any, float]] = {
        "clip_share": ((clipped_BR * mask).sum().detach(), tokens),
        "ratio_gap": (((logps_BR - old_BR).abs() * mask).sum().detach(), tokens),
        "sampler_gap": (((old_BR - given["sampled"]).abs() * mask).sum().detach(), tokens),
        "entropy": (sum(e.sum() for e in entropy), tokens),
    }
    if c.importance_cap:
        trust_BR = importance_weight(old_BR, given["sampled"], c.importance_cap)
        surrogate_BR = surrogate_BR * trust_BR
        metrics["importance"] = ((trust_BR * mask).sum(), tokens)
    terms = {"policy": (surrogate_BR * weight_BR).sum()}
    if "ref" in given:
        drift_BR = (logps_BR - given["ref"]) * mask
        metrics["kl"] = (drift_BR.sum().detach(), len(batch.sequences))
        if s.beta and s.kl_in == "loss":
            terms["kl_penalty"] = s.beta * (kl_estimate(logps_BR, given["ref"], s.kl_estimator) * weight_BR).sum()
    return Loss(terms, metrics)
