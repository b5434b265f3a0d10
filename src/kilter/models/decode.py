"""Decoding with preallocated keys and values: a group's prompt stands once, finished rows make room for new prompts.

Two stores per layer: prompts by slot and answers by row. A row attends to its slot and to its own tokens; rows of one
slot ask it together. For trunks that take the lean forward (`models.forward`); the arithmetic is that of `models.lean`.
n running rows, S slots, G key heads, r query heads per key head, D head width, P prompt tokens, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilter.models import lean
from kilter.models.layout import lay_out
from kilter.models.lean import Shape

FUSE_BELOW = 100_000_000
"""Parameters of a trunk below which projections that read one input are fused (a copy of those weights)."""


@dataclass
class _Layer:
    """A layer's modules, its fused projections where they are fused, and its stores."""

    module: Any
    qkv: tuple[Tensor, Tensor | None] | None
    gate_up: tuple[Tensor, Tensor | None] | None
    prompt_k: Tensor
    prompt_v: Tensor
    own_k: Tensor
    own_v: Tensor


class Decoder:
    """Rows being decoded together. `admit` appends rows, `step` feeds each its token, `keep` drops the finished."""

    def __init__(self, trunk: Any, shape: Shape, rows: int, lanes: int, prompt_room: int, answer_room: int) -> None:
        weight = trunk.embed_tokens.weight
        self.trunk, self.shape, self.lanes = trunk, shape, lanes
        self.device, self.dtype = weight.device, _compute_dtype(trunk)
        self.slots = -(-rows // lanes)
        make = lambda n, room: torch.zeros(  # noqa: E731
            n, shape.key_heads, room, shape.width, device=self.device, dtype=self.dtype
        )
        fuse = sum(p.numel() for p in trunk.parameters()) < FUSE_BELOW
        self.layers = [
            _Layer(
                layer,
                _fused([getattr(layer.self_attn, f"{n}_proj") for n in "qkv"]) if fuse else None,
                _fused([layer.mlp.gate_proj, layer.mlp.up_proj]) if fuse else None,
                *(make(self.slots, prompt_room) for _ in range(2)),
                *(make(self.slots * lanes, answer_room) for _ in range(2)),
            )
            for layer in trunk.layers
        ]
        positions = torch.arange(prompt_room + answer_room, device=self.device)
        self.cos, self.sin = lean.rotation(trunk, torch.empty(1, 1, device=self.device, dtype=self.dtype), positions)
        self.slot, self.lane = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self.fed = np.zeros(0, dtype=np.int64)
        """Own tokens of each row that stand in the store."""
        self.prompt_length = np.zeros(0, dtype=np.int64)
        """By slot; slots are used from the front without gaps."""

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def room(self) -> int:
        """Prompts that can be admitted."""
        return self.slots - len(self.prompt_length)

    def admit(self, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> Tensor:
        """Prefill prompts into free slots and open `answers[i]` rows each; the hidden states that draw their first."""
        first = len(self.prompt_length)
        layout = lay_out(prompts)
        slot_M = np.repeat(np.arange(first, first + len(prompts)), [len(p) for p in prompts])
        at = torch.from_numpy(slot_M).to(self.device), torch.from_numpy(layout.positions).to(self.device)
        h_Md = self._prefill(layout, at)
        last = np.cumsum([len(p) for p in prompts]) - 1
        self.prompt_length = np.append(self.prompt_length, [len(p) for p in prompts])
        self.slot = np.append(self.slot, np.repeat(np.arange(first, first + len(prompts)), answers))
        self.lane = np.append(self.lane, np.concatenate([np.arange(n) for n in answers]))
        self.fed = np.append(self.fed, np.zeros(sum(answers), dtype=np.int64))
        self._arrange()
        return h_Md[torch.from_numpy(np.repeat(last, answers)).to(self.device)]

    def _prefill(self, layout: Any, at: tuple[Tensor, Tensor]) -> Tensor:
        trunk, shape = self.trunk, self.shape
        h = trunk.embed_tokens(torch.from_numpy(layout.ids).to(self.device))
        cos, sin = self.cos[at[1]], self.sin[at[1]]
        plan = layout.plan(None, self.device)
        for layer in self.layers:
            module = layer.module
            q, k, v = lean.project(module.self_attn, shape, lean.norm(module.input_layernorm, h, shape), cos, sin)
            layer.prompt_k[at[0], :, at[1]], layer.prompt_v[at[0], :, at[1]] = k, v
            h = h + lean.linear(module.self_attn.o_proj, lean.attend(q, k, v, plan, shape))
            h = h + lean.feed(module.mlp, lean.norm(module.post_attention_layernorm, h, shape))
        return lean.norm(trunk.norm, h, shape)

    def step(self, token_n: Tensor) -> Tensor:
        """Feed one token to each of the first `len(token_n)` rows; their final hidden states."""
        h = self.trunk.embed_tokens(token_n)
        position = torch.from_numpy(self.prompt_length[self.slot] + self.fed).to(self.device)
        cos, sin = self.cos[position], self.sin[position]
        fed = torch.from_numpy(self.fed).to(self.device)
        width = int(self.fed.max()) + 1
        mask = None if (self.fed == width - 1).all() else self._unfed(fed, width)
        for layer in self.layers:
            h = self._layer(layer, h, cos, sin, fed, width, mask)
        self.fed = self.fed + 1
        return lean.norm(self.trunk.norm, h, self.shape)

    def _unfed(self, fed: Tensor, width: int) -> Tensor:
        hidden = torch.arange(width, device=self.device)[None] > fed[:, None]
        return torch.zeros(hidden.shape, device=self.device, dtype=self.dtype).masked_fill_(hidden, -torch.inf)[:, None]

    def _layer(
        self, layer: _Layer, h: Tensor, cos: Tensor, sin: Tensor, fed: Tensor, width: int, mask: Tensor | None
    ) -> Tensor:
        module, shape, n = layer.module, self.shape, len(h)
        q, k, v = self._project(layer, lean.norm(module.input_layernorm, h, shape), cos, sin)
        layer.own_k[self.row_at, :, fed], layer.own_v[self.row_at, :, fed] = k, v
        q_nGrD = (q * shape.scaling).view(n, shape.key_heads, -1, shape.width)
        own = torch.matmul(q_nGrD, layer.own_k[:n, :, :width].transpose(-1, -2))
        if mask is not None:
            own += mask[:, None]
        prompt = self._ask(q_nGrD, layer.prompt_k)
        weight = torch.softmax(torch.cat([prompt, own], -1), -1, dtype=_wide(own.dtype)).to(own.dtype)
        size = prompt.shape[-1]
        mixed = torch.matmul(weight[..., size:], layer.own_v[:n, :, :width])
        mixed = mixed + self._answer(weight[..., :size], layer.prompt_v)
        h = h + lean.linear(module.self_attn.o_proj, mixed.reshape(n, -1))
        x = lean.norm(module.post_attention_layernorm, h, shape)
        if layer.gate_up is None:
            return h + lean.feed(module.mlp, x)
        gate, up = F.linear(x, *layer.gate_up).chunk(2, -1)
        return h + lean.linear(module.mlp.down_proj, F.silu(gate) * up)

    def _project(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention, shape = layer.module.self_attn, self.shape
        if layer.qkv is None or hasattr(attention, "q_norm"):
            return lean.project(attention, shape, x, cos, sin)
        heads = F.linear(x, *layer.qkv).view(len(x), -1, shape.width)
        turning = heads[:, : shape.heads + shape.key_heads]
        turned = torch.addcmul(turning * cos, turning.roll(shape.width // 2, -1), sin)
        return turned[:, : shape.heads], turned[:, shape.heads :], heads[:, shape.heads + shape.key_heads :]

    def _ask(self, q_nGrD: Tensor, keys: Tensor) -> Tensor:
        """Scores of each row's queries against its prompt, [n, G, r, P]."""
        width, n = self.prompt_width, len(q_nGrD)
        keys = keys[: len(self.prompt_length), :, :width].transpose(-1, -2)
        if self.single:
            return torch.matmul(q_nGrD, keys) + self.prompt_mask[:, None]
        G, r, D = q_nGrD.shape[1:]
        asked = q_nGrD.new_zeros(len(self.prompt_length), self.lanes, G, r, D)
        asked[self.slot_at, self.lane_at] = q_nGrD
        asked_SGlrD = asked.transpose(1, 2).reshape(len(asked), G, self.lanes * r, D)
        scores = torch.matmul(asked_SGlrD, keys) + self.prompt_mask[:, None]
        return (
            scores.view(len(asked), G, self.lanes, r, width)
            .transpose(1, 2)[self.slot_at, self.lane_at]
            .view(n, G, r, width)
        )

    def _answer(self, weight_nGrP: Tensor, values: Tensor) -> Tensor:
        """What each row reads from its prompt, [n, G, r, D]."""
        width = self.prompt_width
        values = values[: len(self.prompt_length), :, :width]
        if self.single:
            return torch.matmul(weight_nGrP, values)
        G, r = weight_nGrP.shape[1:3]
        given = weight_nGrP.new_zeros(len(values), self.lanes, G, r, width)
        given[self.slot_at, self.lane_at] = weight_nGrP
        read = torch.matmul(given.transpose(1, 2).reshape(len(values), G, self.lanes * r, width), values)
        return read.view(len(values), G, self.lanes, r, -1).transpose(1, 2)[self.slot_at, self.lane_at]

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Go on with these rows alone; their old numbers in the new order. The last ones move into the gaps."""
        n = len(rows)
        order = np.arange(len(self))
        gaps = np.setdiff1d(np.arange(n), rows, assume_unique=True)
        moving = rows[rows >= n]
        self._move(("own_k", "own_v"), moving, gaps, self.fed.max(initial=0) + 1)
        order[gaps] = moving
        order = order[:n]
        self.slot, self.lane, self.fed = self.slot[order], self.lane[order], self.fed[order]
        self._close_slots()
        self._arrange()
        return order

    def _close_slots(self) -> None:
        used = np.unique(self.slot)
        n = len(used)
        if n == len(self.prompt_length):
            return
        gaps = np.setdiff1d(np.arange(n), used, assume_unique=True)
        moving = used[used >= n]
        self._move(("prompt_k", "prompt_v"), moving, gaps, self.prompt_length.max(initial=0))
        new = np.arange(len(self.prompt_length))
        new[moving] = gaps
        self.prompt_length[gaps] = self.prompt_length[moving]
        self.prompt_length = self.prompt_length[:n]
        self.slot = new[self.slot]

    def _move(self, names: tuple[str, ...], source: np.ndarray, target: np.ndarray, width: int) -> None:
        if not len(source):
            return
        to, of = torch.from_numpy(target).to(self.device), torch.from_numpy(source).to(self.device)
        for layer in self.layers:
            for name in names:
                store = getattr(layer, name)[:, :, :width]
                store[to] = store[of]

    def _arrange(self) -> None:
        """What every step reads of the rows' and slots' arrangement; changes only when rows come or go."""
        self.single = self.lanes == 1 and bool((self.slot == np.arange(len(self.slot))).all())
        self.row_at = torch.arange(len(self.slot), device=self.device)
        self.slot_at = torch.from_numpy(self.slot).to(self.device)
        self.lane_at = torch.from_numpy(self.lane).to(self.device)
        self.prompt_width = int(self.prompt_length.max(initial=1))
        hidden = np.arange(self.prompt_width)[None] >= self.prompt_length[:, None]
        mask = np.where(hidden, -np.inf, 0.0)[:, None]
        self.prompt_mask = torch.from_numpy(mask).to(self.device, self.dtype)


def _fused(layers: list[nn.Module]) -> tuple[Tensor, Tensor | None] | None:
    """One weight (and bias) for plain layers that read the same input; None where one is no plain layer."""
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    if len(plain) < len(layers):
        return None
    biases = [layer.bias for layer in plain]
    bias = torch.cat([b for b in biases if b is not None]) if all(b is not None for b in biases) else None
    if bias is None and any(b is not None for b in biases):
        return None
    return torch.cat([layer.weight for layer in plain]), bias


def _compute_dtype(trunk: Any) -> torch.dtype:
    dtype: torch.dtype = trunk.norm.weight.dtype
    return dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
