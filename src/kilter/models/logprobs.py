"""Log-probabilities of answers and scalar scores: padding is not computed, a shared prompt is computed once.

N sequences, R answer tokens (right-padded), M positions that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kilter.data.batches import TextBatch
from kilter.models.forward import device_of, hidden_at, shares
from kilter.models.head import token_logps
from kilter.models.layout import lay_out, of_packed
from kilter.models.load import scalar_head

FORWARD_TOKENS = 4096
"""Tokens per forward pass of ragged sequences."""


def text_logps(model: Any, batch: TextBatch) -> Tensor:
    """log p of every trained token of a packed batch, as one vector."""
    layout, real = of_packed(batch.ids_BT, batch.segments_BT, batch.positions_BT)
    targets = np.flatnonzero(batch.trained_BT.numpy()[real])
    device = device_of(model)
    h_Md = hidden_at(model, layout, targets - 1)
    return token_logps(model, h_Md, torch.from_numpy(layout.ids[targets]).to(device), entropy=False)[0]


def answer_logps(
    model: Any,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    temperature: float = 1.0,
    tokens: int = FORWARD_TOKENS,
    entropy: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Per sequence, log p of each answer token (from `starts` to the end), and (when asked for) the entropy there."""
    entropies: list[Tensor | None] = [None] * len(sequences)

    def run(members: list[int], h_Md: Tensor) -> Sequence[Tensor]:
        answers = [sequences[i][starts[i] :] for i in members]
        targets = torch.tensor([t for answer in answers for t in answer], device=h_Md.device)
        logps, spread = token_logps(model, h_Md, targets, temperature, entropy)
        sizes = [len(a) for a in answers]
        for i, part in zip(members, spread.split(sizes), strict=True):
            entropies[i] = part
        return torch.split(logps, sizes)

    logps = _over(model, sequences, starts, tokens, lambda i: (starts[i] - 1, len(sequences[i]) - 1), run)
    return logps, [e for e in entropies if e is not None]


def sequence_logps(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int], tokens: int = FORWARD_TOKENS
) -> Tensor:
    """log p of each whole answer, logps_N."""
    return torch.stack([row.sum() for row in answer_logps(model, sequences, starts, tokens=tokens)[0]])


def scores(
    model: Any, sequences: Sequence[Sequence[int]], tokens: int = FORWARD_TOKENS, starts: Sequence[int] | None = None
) -> Tensor:
    """A reward model's score of each sequence, read at its last token: reward_N.

    With `starts`, answers to one prompt share it.
    """
    head = getattr(model, scalar_head(model))
    run = lambda _, h_Md: head(h_Md)[:, :1].unbind()  # noqa: E731
    found = _over(model, sequences, starts, tokens, lambda i: (len(sequences[i]) - 1, len(sequences[i])), run)
    return torch.cat(found)


def token_values(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int], tokens: int = FORWARD_TOKENS
) -> list[Tensor]:
    """A value model's estimate before each answer token is drawn."""
    head = getattr(model, scalar_head(model))

    def run(members: list[int], h_Md: Tensor) -> Sequence[Tensor]:
        values: Tensor = head(h_Md)[:, 0]
        return torch.split(values, [len(sequences[i]) - starts[i] for i in members])

    return _over(model, sequences, starts, tokens, lambda i: (starts[i] - 1, len(sequences[i]) - 1), run)


def pad_rows(rows: Sequence[Tensor], fill: float = 0.0) -> Tensor:
    """Ragged vectors as one right-padded matrix."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def _over(
    model: Any,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int] | None,
    tokens: int,
    span: Callable[[int], tuple[int, int]],
    run: Callable[[list[int], Tensor], Sequence[Tensor]],
) -> list[Tensor]:
    """Read tokens `span(i)` of every sequence, a few prompts at a time; what is behind the span is not computed."""
    results: list[Tensor | None] = [None] * len(sequences)
    share = starts is not None and shares(model, sequences)
    for members in _chunks(sequences, starts, tokens):
        ends = [span(i)[1] for i in members]
        layout = lay_out(
            [sequences[i][:end] for i, end in zip(members, ends, strict=True)],
            [min(starts[i], end) for i, end in zip(members, ends, strict=True)] if starts is not None else None,
            share,
        )
        read = np.concatenate([layout.index[n][slice(*span(i))] for n, i in enumerate(members)])
        for i, value in zip(members, run(members, hidden_at(model, layout, read)), strict=True):
            results[i] = value
    return [r for r in results if r is not None]


def _chunks(sequences: Sequence[Sequence[int]], starts: Sequence[int] | None, tokens: int) -> list[list[int]]:
    """Sequences in groups of at most `tokens` tokens (at least one), those that share a prompt side by side."""
    order = list(range(len(sequences)))
    if starts is not None:
        first: dict[tuple[int, ...], int] = {}
        family = [
            first.setdefault(tuple(s[:start]), i) for i, (s, start) in enumerate(zip(sequences, starts, strict=True))
        ]
        order.sort(key=lambda i: family[i])
    groups: list[list[int]] = []
    filled = 0
    for i in order:
        if groups and filled + len(sequences[i]) <= tokens:
            groups[-1].append(i)
            filled += len(sequences[i])
        else:
            groups.append([i])
            filled = len(sequences[i])
    return groups
