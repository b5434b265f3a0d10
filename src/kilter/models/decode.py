"""Decoding with preallocated keys and values: a group's prompt stands once, finished rows make room for new prompts.

Where every prompt has one answer, or all of it is small, a row's prompt and answer stand in one store; else there are
two, prompts by slot and answers by row, and rows of one slot ask it together. A prompt goes through the layers once in
either case. For trunks that take the lean forward
(`models.forward`): by the packed weights of `models.packed` where it knows them, else by the arithmetic of
`models.lean`, which is also what the packed way is tested against.
n running rows, S slots, G key heads, r query heads per key head, D head width, P prompt tokens, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kilter.models import lean, packed
from kilter.models.layout import lay_out
from kilter.models.lean import Shape
from kilter.models.packed import Packed, product

PACK_BELOW = 100_000_000
"""Parameters of a trunk below which its weights are packed (a copy of them)."""
PACK_ROWS = 4
"""Rows from which packing pays."""
JOIN_BYTES = 8 << 20
"""Keys and values up to this size stand by row, shared prompts too: reading them again is cheaper than more calls."""
PREFILL_TOKENS = 1024
"""Prompt tokens that go through the layers together: few enough for a core's cache."""


@dataclass
class _Layer:
    """A layer's modules, its packed weights where there are any, and its stores.

    A store is [2, rows or slots, G, room, D]: keys, then values. Rows and heads of either are one dimension to a
    batched product, so that none is copied for it.
    """

    module: Any
    packed: Packed | None
    own: Tensor
    prompt: Tensor


@dataclass(frozen=True)
class _Step:
    """What all layers of a step share."""

    at: Tensor | int
    """Where in its store each row's token goes; one number where that is the same for all."""
    width: int
    """Own entries that any row may see."""
    mask: Tensor | None
    turn: tuple[Tensor, Tensor] | Tensor
    scores: Tensor
    """Room for them, [n, G, r, P + width]."""


class Decoder:
    """Rows being decoded together. `admit` appends rows, `step` feeds each its token, `keep` drops the finished."""

    def __init__(
        self, trunk: Any, shape: Shape, rows: int, lanes: int, prompt_room: int, answer_room: int, pack: bool = True
    ) -> None:
        weight = trunk.embed_tokens.weight
        self.trunk, self.shape, self.lanes = trunk, shape, lanes
        self.device, self.dtype = weight.device, _compute_dtype(trunk)
        self.slots = -(-rows // lanes)
        size = self.slots * lanes * (prompt_room + answer_room) * 2 * shape.key_heads * shape.width
        self.joined = lanes == 1 or size * len(trunk.layers) * self.dtype.itemsize <= JOIN_BYTES
        make = lambda n, room: torch.zeros(  # noqa: E731
            2, n, shape.key_heads, room, shape.width, device=self.device, dtype=self.dtype
        )
        pack = pack and rows >= PACK_ROWS and sum(p.numel() for p in trunk.parameters()) < PACK_BELOW
        found = packed.pack(trunk, shape, rows) if pack else None
        self.packed = found is not None
        own_room, prompt_room = (prompt_room + answer_room, 0) if self.joined else (answer_room, prompt_room)
        self.layers = [
            _Layer(
                layer,
                found[i] if found else None,
                make(self.slots * lanes, own_room),
                make(self.slots, prompt_room),
            )
            for i, layer in enumerate(trunk.layers)
        ]
        positions = torch.arange(prompt_room + own_room, device=self.device)
        self.cos, self.sin = lean.rotation(trunk, torch.empty(1, 1, device=self.device, dtype=self.dtype), positions)
        self.little = packed.little(weight.shape[1], shape.eps, weight)
        self.turns = packed.turns(self.cos, self.sin) if found else None
        self.slot, self.lane = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self.fed = np.zeros(0, dtype=np.int64)
        """Own tokens of each row that stand in the store."""
        self.prompt_length = np.zeros(0, dtype=np.int64)
        """By slot; slots are used from the front without gaps. With one store, every row is a slot."""

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def room(self) -> int:
        """Prompts that can be admitted."""
        return self.slots - -(-len(self.prompt_length) // (self.lanes if self.joined else 1))

    def admit(self, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> Tensor:
        """Prefill prompts into free slots and open `answers[i]` rows each; the hidden states that draw their first."""
        first = len(self.prompt_length)
        lengths = np.array([len(p) for p in prompts])
        chunk = np.cumsum(lengths) // PREFILL_TOKENS
        parts = np.split(np.arange(len(prompts)), np.flatnonzero(np.diff(chunk)) + 1)
        states = [self._prefill([prompts[i] for i in part], first + int(part[0])) for part in parts]
        asked = np.repeat(np.arange(len(prompts)), answers)
        if self.joined:
            self._spread(first, asked, int(lengths.max()))
        self.prompt_length = np.append(self.prompt_length, lengths[asked] if self.joined else lengths)
        self.slot = np.append(self.slot, first + (np.arange(len(asked)) if self.joined else asked))
        self.lane = np.append(self.lane, np.concatenate([np.arange(n) for n in answers]))
        self.fed = np.append(self.fed, np.zeros(sum(answers), dtype=np.int64))
        self._arrange()
        h_Sd = torch.cat(states) if len(states) > 1 else states[0]
        return h_Sd[torch.from_numpy(asked).to(self.device)]

    def _spread(self, first: int, asked: np.ndarray, width: int) -> None:
        """Give each of its answers' rows a prompt that stands in one of the first of them."""
        if len(asked) == asked[-1] + 1:
            return
        of = torch.from_numpy(first + asked).to(self.device)
        for layer in self.layers:
            layer.own[:, first : first + len(asked), :, :width] = layer.own[:, of, :, :width]

    def _prefill(self, prompts: Sequence[Sequence[int]], first: int) -> Tensor:
        """Put prompts into slots from `first` on; the hidden states at their last tokens."""
        trunk, shape = self.trunk, self.shape
        layout = lay_out(prompts)
        h = trunk.embed_tokens(torch.from_numpy(layout.ids).to(self.device))
        positions = torch.from_numpy(layout.positions).to(self.device)
        ends = np.cumsum([len(p) for p in prompts])
        last = torch.from_numpy(ends - 1).to(self.device)
        plan = layout.plan(None, self.device)
        for number, layer in enumerate(self.layers):
            module = layer.module
            if layer.packed is None:
                x = lean.norm(module.input_layernorm, h, shape)
                q, k, v = lean.project(module.self_attn, shape, x, self.cos[positions], self.sin[positions])
            else:
                x = packed.normal(h, self.little)
                q, kv = packed.heads_of(layer.packed, shape, x, self._turn(positions))
                k, v = kv.chunk(2, 1)
            self._store_prompts(layer, first, ends, k, v)
            if layer.packed is None:
                h = h + lean.linear(module.self_attn.o_proj, lean.attend(q, k, v, plan, shape))
                h = h + lean.feed(module.mlp, lean.norm(module.post_attention_layernorm, h, shape))
                continue
            if number + 1 < len(self.layers):
                layer.packed.out.onto(h, lean.attend(q, k, v, plan, replace(shape, scaling=1.0)))
            else:  # from here on only what is read
                h, q = h[last], q[last]
                layer.packed.out.onto(h, self._last(layer, q, first, np.diff(ends, prepend=0)))
            packed.feed(layer.packed, h, packed.normal(h, self.little))
        return lean.norm(trunk.norm, h if len(h) == len(prompts) else h[last], shape)

    def _turn(self, positions: Tensor) -> Tensor:
        assert self.turns is not None
        return self.turns[positions][:, None].expand(-1, self.shape.heads + self.shape.key_heads, -1).contiguous()

    def _store_prompts(self, layer: _Layer, first: int, ends: np.ndarray, k: Tensor, v: Tensor) -> None:
        store = layer.own if self.joined else layer.prompt
        begin = 0
        for slot, end in enumerate(ends.tolist(), first):
            store[0, slot, :, : end - begin] = k[begin:end].transpose(0, 1)
            store[1, slot, :, : end - begin] = v[begin:end].transpose(0, 1)
            begin = end

    def _last(self, layer: _Layer, q_SHD: Tensor, first: int, lengths: np.ndarray) -> Tensor:
        """Attention of prompts' last tokens over the stores, [S, H·D]."""
        width = int(lengths.max())
        store = (layer.own if self.joined else layer.prompt)[:, first : first + len(q_SHD), :, :width]
        keys, values = store.unbind()
        q_SGrD = q_SHD.view(len(q_SHD), self.shape.key_heads, -1, self.shape.width)
        scores = q_SHD.new_empty(*q_SGrD.shape[:3], width)
        product(q_SGrD, keys.transpose(-1, -2), scores)
        if (lengths < width).any():
            scores += self._behind(lengths, width)
        mixed = torch.empty_like(q_SGrD)
        product(torch.softmax(scores, -1), values, mixed)
        return mixed.view(len(mixed), -1)

    def _behind(self, lengths: np.ndarray, width: int) -> Tensor:
        """Minus infinity behind each row's length, [n, 1, 1, width]."""
        hidden = np.where(np.arange(width)[None] >= lengths[:, None], -np.inf, 0.0)[:, None, None]
        return torch.from_numpy(hidden).to(self.device, self.dtype)

    def step(self, token_n: Tensor) -> Tensor:
        """Feed every row its token; their final hidden states."""
        h = self.trunk.embed_tokens(token_n)
        step = self._begin()
        for layer in self.layers:
            h = (
                self._layer(layer, h, step)
                if layer.packed is None
                else self._packed_layer(layer, layer.packed, h, step)
            )
        self.fed = self.fed + 1
        return lean.norm(self.trunk.norm, h, self.shape)

    def _begin(self) -> _Step:
        positions = self.prompt_length[self.slot] + self.fed
        at = positions if self.joined else self.fed
        width = int(at.max()) + 1
        even = bool((at == width - 1).all())
        mask = None if even else self._behind(at + 1, width)
        if self.prompt_mask is not None or (mask is not None and not self.joined):
            none = torch.zeros(1, 1, 1, 1, device=self.device, dtype=self.dtype)
            before = none.expand(len(self), 1, 1, self.prompt_width) if self.prompt_mask is None else self.prompt_mask
            mask = torch.cat([before, none.expand(len(self), 1, 1, width) if mask is None else mask], -1)
        place = torch.from_numpy(positions).to(self.device)
        G, r = self.shape.key_heads, self.shape.heads // self.shape.key_heads
        return _Step(
            width - 1 if even else torch.from_numpy(at).to(self.device),
            width,
            mask,
            (self.cos[place], self.sin[place]) if self.turns is None else self._turn(place),
            torch.empty(len(self), G, r, self.prompt_width + width, device=self.device, dtype=self.dtype),
        )

    def _layer(self, layer: _Layer, h: Tensor, step: _Step) -> Tensor:
        """By the layer's own modules: the plain way."""
        module, shape = layer.module, self.shape
        x = lean.norm(module.input_layernorm, h, shape)
        q, k, v = lean.project(module.self_attn, shape, x, *step.turn)
        h = h + lean.linear(module.self_attn.o_proj, self._attend(layer, q * shape.scaling, torch.cat([k, v], 1), step))
        return h + lean.feed(module.mlp, lean.norm(module.post_attention_layernorm, h, shape))

    def _packed_layer(self, layer: _Layer, weights: Packed, h: Tensor, step: _Step) -> Tensor:
        """By its packed weights, in place."""
        assert isinstance(step.turn, Tensor)
        q, kv = packed.heads_of(weights, self.shape, packed.normal(h, self.little), step.turn)
        weights.out.onto(h, self._attend(layer, q, kv, step))
        packed.feed(weights, h, packed.normal(h, self.little))
        return h

    def _attend(self, layer: _Layer, q: Tensor, kv: Tensor, step: _Step) -> Tensor:
        """Store the rows' new keys and values and attend to all they see, [n, H·D]; queries are scaled."""
        n, size = len(q), self.prompt_width
        if isinstance(step.at, int):
            layer.own[:, :n, :, step.at] = kv.view(n, 2, -1, self.shape.width).transpose(0, 1)
        else:
            layer.own[:, self.row_at, :, step.at] = kv.view(n, 2, -1, self.shape.width)
        keys, values = layer.own[:, :n, :, : step.width].unbind()
        q_nGrD, scores = q.view(n, self.shape.key_heads, -1, self.shape.width), step.scores
        product(q_nGrD, keys.transpose(-1, -2), scores[..., size:] if size else scores)
        if size:
            prompt_keys, prompt_values = layer.prompt[:, : len(self.prompt_length), :, :size].unbind()
            scores[..., :size] = self._ask(q_nGrD, prompt_keys)
        if step.mask is not None:
            scores += step.mask
        weight = torch.softmax(scores, -1, dtype=_wide(scores.dtype)).to(scores.dtype)
        mixed = torch.empty(n, *q_nGrD.shape[1:], device=self.device, dtype=self.dtype)
        product(weight[..., size:] if size else weight, values, mixed)
        if size:
            mixed += self._answer(weight[..., :size], prompt_values)
        return mixed.view(n, -1)

    def _ask(self, q_nGrD: Tensor, keys: Tensor) -> Tensor:
        """Scores of each row's queries against its prompt, [n, G, r, P]."""
        asked = self._by_slot(q_nGrD)
        scores = asked.new_empty(*asked.shape[:3], self.prompt_width)
        product(asked, keys.transpose(-1, -2), scores)
        return self._by_row(scores, q_nGrD.shape[2])

    def _answer(self, weight_nGrP: Tensor, values: Tensor) -> Tensor:
        """What each row reads from its prompt, [n, G, r, D]."""
        given = self._by_slot(weight_nGrP)
        read = given.new_empty(*given.shape[:3], self.shape.width)
        product(given, values, read)
        return self._by_row(read, weight_nGrP.shape[2])

    def _by_slot(self, x_nGrX: Tensor) -> Tensor:
        """Rows of a slot side by side, [S, G, lanes·r, X]."""
        S, (G, r, width) = len(self.prompt_length), x_nGrX.shape[1:]
        if not self.full:
            laid = x_nGrX.new_zeros(S, self.lanes, G, r, width)
            laid[self.slot_at, self.lane_at] = x_nGrX
            x_nGrX = laid
        return x_nGrX.reshape(S, self.lanes, G, r, width).transpose(1, 2).reshape(S, G, self.lanes * r, width)

    def _by_row(self, x_SGqX: Tensor, r: int) -> Tensor:
        """The way back, [n, G, r, X]."""
        S, G, _, width = x_SGqX.shape
        laid = x_SGqX.view(S, G, self.lanes, r, width).transpose(1, 2)
        return laid.reshape(-1, G, r, width) if self.full else laid[self.slot_at, self.lane_at]

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Go on with these rows alone; their old numbers in the new order. The last ones move into the gaps."""
        n = len(rows)
        order = np.arange(len(self))
        gaps = np.setdiff1d(np.arange(n), rows, assume_unique=True)
        moving = rows[rows >= n]
        held = self.fed + self.prompt_length[self.slot] if self.joined else self.fed
        self._move("own", moving, gaps, held.max(initial=0) + 1)
        order[gaps] = moving
        order = order[:n]
        self.slot, self.lane, self.fed = self.slot[order], self.lane[order], self.fed[order]
        if self.joined:
            self.prompt_length, self.slot = self.prompt_length[self.slot], np.arange(n)
        else:
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
        self._move("prompt", moving, gaps, self.prompt_length.max(initial=0))
        new = np.arange(len(self.prompt_length))
        new[moving] = gaps
        self.prompt_length[gaps] = self.prompt_length[moving]
        self.prompt_length = self.prompt_length[:n]
        self.slot = new[self.slot]

    def _move(self, name: str, source: np.ndarray, target: np.ndarray, width: int) -> None:
        if not len(source):
            return
        to, of = torch.from_numpy(target).to(self.device), torch.from_numpy(source).to(self.device)
        for layer in self.layers:
            store = getattr(layer, name)[:, :, :, :width]
            store[:, to] = store[:, of]

    def _arrange(self) -> None:
        """What every step reads of the rows' and slots' arrangement; changes only when rows come or go."""
        self.row_at = torch.arange(len(self.slot), device=self.device)
        self.prompt_width, self.prompt_mask = 0, None
        if self.joined:
            return
        self.slot_at = torch.from_numpy(self.slot).to(self.device)
        self.lane_at = torch.from_numpy(self.lane).to(self.device)
        place = self.slot * self.lanes + self.lane
        self.full = len(place) == len(self.prompt_length) * self.lanes and bool((place == np.arange(len(place))).all())
        """Every slot has all its rows, in order."""
        self.prompt_width = int(self.prompt_length.max(initial=1))
        if (self.prompt_length < self.prompt_width).any():
            self.prompt_mask = self._behind(self.prompt_length[self.slot], self.prompt_width)


def _compute_dtype(trunk: Any) -> torch.dtype:
    dtype: torch.dtype = trunk.norm.weight.dtype
    return dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
