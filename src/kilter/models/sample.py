"""Sampling answers: batched, cached, finished rows dropped, every draw keyed by what it is for.

The draw for token t of an answer depends only on the answer's key, never on its neighbours in the batch or on a shared
generator, so that a resumed run draws what the uninterrupted one would have drawn.
B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from kilter.data.streams import draw
from kilter.errors import UserError
from kilter.models.load import backbone
from kilter.models.logprobs import device_of

ROWS = 512
"""Rows decoded together."""
KEEP_SHARE = 0.75
"""The batch is compacted when fewer than this share of its rows are still running."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; stored with every answer."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability; 1 keeps all."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    max_new: int = 64
    """Answers are cut off after so many tokens."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new < 1:
            raise UserError(
                f"sampling {self} is out of range: temperature >= 0, 0 < top_p <= 1, top_k >= 0, max_new >= 1"
            )


@dataclass(frozen=True)
class Answer:
    """What was drawn: ids (with eos when finished) and their log-probs under the distribution drawn from."""

    ids: list[int]
    logps: list[float]
    finished: bool


def filtered(logits_BV: Tensor, settings: Sampling) -> Tensor:
    """Log-probabilities of the distribution that is really drawn from (temperature, top-k, top-p, renormalised)."""
    logps = torch.log_softmax(logits_BV.float() / (settings.temperature or 1.0), dim=-1)
    if settings.top_k:
        kth = logps.topk(min(settings.top_k, logps.shape[-1]), dim=-1).values[:, -1:]
        logps = torch.log_softmax(logps.masked_fill(logps < kth, -torch.inf), dim=-1)
    if settings.top_p < 1:
        ranked, index = logps.sort(dim=-1, descending=True)
        before = ranked.exp().cumsum(-1) - ranked.exp()
        drop = (before >= settings.top_p).scatter(-1, index, before >= settings.top_p)
        logps = torch.log_softmax(logps.masked_fill(drop, -torch.inf), dim=-1)
    return logps


def choose(logps_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Inverse-CDF draw: the first token whose cumulative probability reaches u in (0, 1]."""
    cdf_BV = logps_BV.exp().double().cumsum(-1)
    return (cdf_BV < uniform_B[:, None] * cdf_BV[:, -1:]).sum(-1).clamp(max=logps_BV.shape[-1] - 1)


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[object]],
    settings: Sampling,
    eos: int,
    tick: Callable[[int], None] | None = None,
) -> list[Answer]:
    """One answer per prompt; `keys[i]` names draw i. `tick(n)` is told of every n finished answers."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[Answer | None] = [None] * len(prompts)
    for begin in range(0, len(order), ROWS):
        members = order[begin : begin + ROWS]
        drawn = _decode(model, [prompts[i] for i in members], [keys[i] for i in members], settings, eos)
        for i, answer in zip(members, drawn, strict=True):
            answers[i] = answer
        if tick:
            tick(len(members))
    return [a for a in answers if a is not None]


@torch.no_grad()
def stream(model: Any, prompt: Sequence[int], key: Sequence[object], settings: Sampling, eos: int) -> Iterator[int]:
    """One answer token by token, as `sample` draws it for the same key."""
    uniforms = _uniforms([key], settings.max_new).to(device_of(model)) if settings.temperature else None
    state = _Running(model, [prompt], device_of(model))
    logits = state.prefill()
    for t in range(settings.max_new):
        logps = filtered(logits, settings)
        token = logps.argmax(-1) if uniforms is None else choose(logps, uniforms[:, t])
        yield int(token)
        if int(token) == eos or t + 1 == settings.max_new:
            return
        logits = state.step(token)


def _uniforms(keys: Sequence[Sequence[object]], n: int) -> Tensor:
    """u_BT in (0, 1], one keyed row per answer."""
    return torch.from_numpy(1.0 - np.stack([draw(*key).random(n) for key in keys]))


def _decode(
    model: Any, prompts: list[Sequence[int]], keys: list[Sequence[object]], settings: Sampling, eos: int
) -> list[Answer]:
    device = device_of(model)
    rows = len(prompts)
    uniforms = _uniforms(keys, settings.max_new).to(device) if settings.temperature else None
    ids: list[list[int]] = [[] for _ in prompts]
    logps: list[list[float]] = [[] for _ in prompts]
    done = [False] * rows
    state = _Running(model, prompts, device)
    logits = state.prefill()
    alive = torch.arange(rows, device=device)
    for t in range(settings.max_new):
        all_logps = filtered(logits, settings)
        if uniforms is None:
            token = all_logps.argmax(-1)
        else:
            token = choose(all_logps, uniforms[alive, t])
        picked = all_logps.gather(1, token[:, None])[:, 0].tolist()
        for row, tok, logp in zip(alive.tolist(), token.tolist(), picked, strict=True):
            if not done[row]:
                ids[row].append(tok)
                logps[row].append(logp)
                done[row] = tok == eos
        running = torch.tensor([not done[r] for r in alive.tolist()], device=device)
        left = int(running.sum())
        if left == 0 or t + 1 == settings.max_new:
            break
        if left < KEEP_SHARE * len(alive):
            keep = running.nonzero()[:, 0]
            alive, token = alive[keep], token[keep]
            state.keep(keep)
        logits = state.step(token)
    return [Answer(i, p, d) for i, p, d in zip(ids, logps, done, strict=True)]


class _Running:
    """A batch being decoded through the model's own forward: left-padded prompts and a growing cache."""

    def __init__(self, model: Any, prompts: list[Sequence[int]], device: torch.device) -> None:
        self.model, self.cache = model, DynamicCache()
        width = max(map(len, prompts))
        self.ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.position = self.mask.sum(-1)

    def prefill(self) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self.ids, positions)

    def step(self, token_B: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(token_B), 1)], dim=1)
        logits = self._forward(token_B[:, None], self.position[:, None])
        self.position = self.position + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        mask = None if bool(self.mask.all()) else self.mask
        out = backbone(self.model)(
            input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, past_key_values=self.cache, use_cache=True
        )
        return head_logits(self.model, out.last_hidden_state[:, -1])


def head_logits(model: Any, h_Bd: Tensor) -> Tensor:
    """Next-token logits as the model's own forward would give them."""
    logits: Tensor = model.get_output_embeddings()(h_Bd)
    scale = getattr(model.config, "logit_scale", None) or 1.0 / (getattr(model.config, "logits_scaling", None) or 1.0)
    logits = logits * scale if scale != 1.0 else logits
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def text_of(tokenizer: Any, answer: Answer, eos: int) -> str:
    """The answer's text, without the eos that ended it."""
    ids = answer.ids[:-1] if answer.finished and answer.ids and answer.ids[-1] == eos else answer.ids
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text
