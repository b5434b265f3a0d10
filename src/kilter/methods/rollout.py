"""Prompts → sampled answers → scores: what every online method begins a round with.

Scores are centred and scaled by what the reward model noted about itself, and clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kilter.data.streams import PromptItem
from kilter.errors import RunError
from kilter.models.logprobs import scores
from kilter.models.sample import Answer, Sampling, sample, text_of


@dataclass(frozen=True)
class Rollout:
    """Sampled answers, longest first (so that padding is small wherever they are cut into batches)."""

    items: list[PromptItem]
    answers: list[Answer]
    sequences: list[list[int]]
    starts: list[int]
    settings: Sampling


def roll_out(actors: Any, items: Sequence[PromptItem], settings: Sampling, *key: object) -> Rollout:
    """One answer per prompt from the policy; draw i is keyed by (key, prompt id, i-th occurrence of the prompt)."""
    seen: dict[str, int] = {}
    keys = []
    for item in items:
        index = seen.get(item.prompt.id, 0)
        seen[item.prompt.id] = index + 1
        keys.append((*key, item.prompt.id, index))
    drawn = sample(actors.policy, [i.ids for i in items], keys, settings, actors.tokenizer.eos_token_id)
    order = sorted(range(len(items)), key=lambda i: -(len(items[i].ids) + len(drawn[i].ids)))
    return Rollout(
        [items[i] for i in order],
        [drawn[i] for i in order],
        [items[i].ids + drawn[i].ids for i in order],
        [len(items[i].ids) for i in order],
        settings,
    )


def reward_scores(actors: Any, rollout: Rollout, clip: float) -> tuple[Tensor, Tensor]:
    """The reward model's scores (raw, and centred, scaled and clipped) of every answer; NaN stops the run."""
    with torch.no_grad():
        raw_B = scores(actors.reward, rollout.sequences, starts=rollout.starts).float()
    if not bool(torch.isfinite(raw_B).all()):
        row = int((~torch.isfinite(raw_B)).nonzero()[0])
        raise RunError(
            f"the reward model scored an answer to {rollout.items[row].where} (prompt {rollout.items[row].prompt.id}) "
            f"as {float(raw_B[row])}; the run stops before the step and the last checkpoint is kept"
        )
    mean, std = actors.notes.get("reward_mean", 0.0), actors.notes.get("reward_std", 1.0) or 1.0
    scaled_B = (raw_B - mean) / std
    return raw_B, scaled_B.clamp(-clip, clip) if clip else scaled_B


def samples(actors: Any, rollout: Rollout, reward_B: Tensor) -> list[dict[str, Any]]:
    """The rollout as rows for samples.jsonl: who was asked what, what came out, what the reward model gave."""
    eos = actors.tokenizer.eos_token_id
    return [
        {
            "prompt": item.prompt.to_json(),
            "answer": text_of(actors.tokenizer, answer, eos),
            "finished": answer.finished,
            "tokens": len(answer.ids),
            "logprob": round(sum(answer.logps), 5),
            "reward": round(float(reward), 6),
        }
        for item, answer, reward in zip(rollout.items, rollout.answers, reward_B, strict=True)
    ]
