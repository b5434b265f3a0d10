"""Perplexity on held-out corpus text: what alignment costs in plain language modelling (the alignment tax)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from kilter.data.batches import packed
from kilter.data.render import text_ids
from kilter.data.streams import TextItem
from kilter.models.logprobs import text_logps

ROW = 256


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """exp of the mean negative log-likelihood per token, each document by itself."""
    items = [TextItem(ids[:ROW], [True] * len(ids[:ROW]), "") for ids in text_ids(tokenizer, texts)]
    items = [i for i in items if len(i) > 1]
    total = count = 0.0
    with torch.no_grad():
        for begin in range(0, len(items), 64):
            some = items[begin : begin + 64]
            logps = text_logps(model, packed([[i] for i in some], max(map(len, some)), tokenizer.pad_token_id))
            total -= float(logps.double().sum())
            count += len(logps)
    return math.exp(total / count)
