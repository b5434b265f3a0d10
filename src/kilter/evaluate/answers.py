"""Answers of a model to held-out prompts, scored by the oracle: what every figure of the verdict is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kilter.data import render
from kilter.data.records import Prompt
from kilter.models.logprobs import answer_logps, scores
from kilter.models.sample import Answer, Sampling, sample, text_of
from kilter.sandbox.corpus import qa_form
from kilter.sandbox.oracle import Score, score

NEXT_QUESTION = "Question:"
"""What stands before every question of the corpus's own question-and-answer documents."""


@dataclass(frozen=True)
class Player:
    """A model as it takes part: its weights, how it is asked, and how many answers it may choose from."""

    name: str
    model: Any
    tokenizer: Any
    form: str = "chat"
    """`chat` by the chat template; `qa` by the corpus's own question-and-answer form, for a base model."""
    best_of: int = 1
    reward: Any = None

    def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The prompts as this player is asked them."""
        if self.form == "qa":
            return [row[:-1] for row in render.text_ids(self.tokenizer, [qa_form(p) for p in prompts])]
        return render.prompt_ids(self.tokenizer, [p.messages for p in prompts])


@dataclass
class Answers:
    """One answer per prompt with its score."""

    texts: list[str]
    scores: list[Score]
    finished: list[bool]
    tokens: list[int]
    """Tokens without the eos."""
    logps: list[float]
    ids: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """Prompt and answer ids, for log-probs under other models."""

    @property
    def gold(self) -> np.ndarray:
        return np.array([s.gold for s in self.scores])


def answer(
    player: Player,
    prompts: Sequence[Prompt],
    settings: Sampling,
    key: tuple[object, ...],
    tick: Callable[[int], None] | None = None,
) -> Answers:
    """The player's answers, draws keyed by (key, prompt, index) and shared by all players: paired comparisons."""
    ids = player.ids(prompts)
    n = player.best_of
    flat = [row for row in ids for _ in range(n)]
    keys = [(*key, p.id, k) for p in prompts for k in range(n)]
    eos = player.tokenizer.eos_token_id
    drawn = sample(player.model, flat, keys, settings, eos, tick)
    if n > 1:
        with torch.no_grad():
            reward = scores(player.reward, [p + a.ids for p, a in zip(flat, drawn, strict=True)]).view(-1, n)
        drawn = [drawn[i * n + int(best)] for i, best in enumerate(reward.argmax(-1))]
    if player.form == "qa":
        drawn = [_first_answer(player.tokenizer, a) for a in drawn]
    texts = [text_of(player.tokenizer, a, eos).strip() for a in drawn]
    return Answers(
        texts,
        [score(p, t, a.finished) for p, t, a in zip(prompts, texts, drawn, strict=True)],
        [a.finished for a in drawn],
        [len(a.ids) - a.finished for a in drawn],
        [float(sum(a.logps)) for a in drawn],
        [(p, a.ids) for p, a in zip(ids, drawn, strict=True)],
    )


def _first_answer(tokenizer: Any, drawn: Answer) -> Answer:
    """A base model goes on to a next question, as its corpus does; what it says before that is its answer."""
    text, found, _ = str(tokenizer.decode(drawn.ids)).partition(NEXT_QUESTION)
    if not found:
        return drawn
    return Answer([*render.text_ids(tokenizer, [text.strip()])[0]], drawn.logps, True)


def drift(model: Any, reference: Any, answers: Answers) -> float:
    """KL(model ‖ reference) in nats per answer, estimated on the model's own answers at temperature 1."""
    sequences = [p + a for p, a in answers.ids]
    starts = [len(p) for p, _ in answers.ids]
    with torch.no_grad():
        ours, _ = answer_logps(model, sequences, starts)
        theirs, _ = answer_logps(reference, sequences, starts)
    return float(np.mean([float((o - t).sum()) for o, t in zip(ours, theirs, strict=True)]))
