"""Rows being decoded through a model's own forward: with its cache where that is proven, else whole rows each time.

Left-padded rows over a growing cache are right for attention with a mask. Recurrent trunks (Mamba, RecurrentGemma, …)
carry padding into their state, or keep a cache of another kind; which holds is found out once per trunk, by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from kilter.models.forward import BOUNDS, device_of, own_forward
from kilter.models.layout import lay_out
from kilter.models.load import backbone
from kilter.models.lora import acting
from kilter.models.trunk import split_of, unremembered


class Running(Protocol):
    """Rows that are decoded together; each call gives the states that the next tokens are drawn from, h_Bd."""

    def prefill(self) -> Tensor: ...

    def step(self, token_B: Tensor) -> Tensor: ...

    def keep(self, rows: Tensor) -> None: ...


def begun(model: Any, prompts: Sequence[Sequence[int]]) -> Running:
    """Rows of these prompts, decoded the quickest way that this trunk has been shown to allow."""
    trunk = backbone(model)
    if "_kilter_cached" not in trunk.__dict__:
        with acting(model), unremembered(split_of(model)):
            trunk.__dict__["_kilter_cached"] = _cache_is_right(trunk)
    return Cached(trunk, prompts) if trunk.__dict__["_kilter_cached"] else Whole(trunk, prompts)


@torch.no_grad()
def _cache_is_right(trunk: Any) -> bool:
    draw = np.random.default_rng(1)
    vocabulary = int(trunk.get_input_embeddings().weight.shape[0])
    prompts = [draw.integers(0, vocabulary, n).tolist() for n in (6, 3, 1)]
    tokens = torch.from_numpy(draw.integers(0, vocabulary, (3, len(prompts)))).to(device_of(trunk))
    plain, quick = Whole(trunk, prompts), Cached(trunk, prompts)
    wanted = [plain.prefill(), *(plain.step(t) for t in tokens)]
    try:
        found = [quick.prefill(), *(quick.step(t) for t in tokens)]
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # a cache of another kind than this one
    bound = BOUNDS.get(wanted[0].dtype, 1e-2)
    return all(float((f - w).abs().max()) <= bound * float(w.abs().max()) for f, w in zip(found, wanted, strict=True))


class Cached:
    """Left-padded prompts and a growing cache of keys and values."""

    def __init__(self, trunk: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.trunk, self.cache = trunk, DynamicCache()
        width, device = max(map(len, prompts)), device_of(trunk)
        self.ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.position = self.mask.sum(-1)

    def prefill(self) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self.ids, positions)

    def step(self, token_B: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(token_B), 1)], dim=1)
        h_Bd = self._forward(token_B[:, None], self.position[:, None])
        self.position = self.position + 1
        return h_Bd

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        mask = None if bool(self.mask.all()) else self.mask
        out = self.trunk(
            input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, past_key_values=self.cache, use_cache=True
        )
        states: Tensor = out.last_hidden_state[:, -1]
        return states


class Whole:
    """Whole rows at every step, padded behind, where no causal trunk looks: slow, and right for all of them."""

    def __init__(self, trunk: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.trunk, self.rows = trunk, [list(p) for p in prompts]

    def prefill(self) -> Tensor:
        layout = lay_out(self.rows)
        return own_forward(self.trunk, layout, np.array([tokens[-1] for tokens in layout.index]))

    def step(self, token_B: Tensor) -> Tensor:
        for row, token in zip(self.rows, token_B.tolist(), strict=True):
            row.append(token)
        return self.prefill()

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]
