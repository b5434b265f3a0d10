"""A trunk cut in two: its frozen lower blocks, computed once per round, and the upper ones that learn.

With `train_layers: k` only the last k blocks change. What enters them depends on the tokens alone, so the policy, its
reference and a value model with the same lower blocks share it, and every epoch of a round uses it again. The cut goes
through the family's own forward: `lower` stops it at the first upper block, `upper` lets it pass the lower blocks by
and hands the first upper one what was kept; so masks, positions and norms are the family's own.

B rows, T tokens, d width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from kilter.errors import RecipeError
from kilter.models.checkpointing import blocks
from kilter.models.layout import Layout

CACHE_BYTES = 1 << 30
"""Hidden states kept; beyond it the oldest rows are forgotten, and computed again when asked for."""

_PASSING: ContextVar[tuple[int, Tensor | None] | None] = ContextVar("passing", default=None)
"""(first upper block, what to hand to it, or None to stop there) while a cut trunk runs."""


class _Stop(Exception):
    """Carries the hidden states out of a forward that ends at the cut."""

    def __init__(self, h_BTd: Tensor) -> None:
        self.h_BTd = h_BTd


def cut(trunk: Any, top: int) -> int:
    """Make a trunk able to run in two parts, the upper one of `top` blocks; returns the first upper block's number."""
    found = blocks(trunk)
    first = first_of(found, top)
    for number, block in enumerate(found[: first + 1]):
        if "uncut" not in vars(block):  # shared with a trunk that is cut already
            vars(block).update(number=number, uncut=block.forward, forward=MethodType(_forward, block))
    return first


def first_of(found: nn.ModuleList, top: int) -> int:
    """The number of the first of the last `top` blocks."""
    if not 0 < top <= len(found):
        raise RecipeError(f"train_layers is {top}, but the model has {len(found)} layers; give 1 to {len(found)}, or 0")
    return len(found) - top


def share_lower(trunk: Any, other: Any, first: int) -> None:
    """Let two trunks of the same weights hold their embeddings and lower blocks once."""
    mine, theirs = blocks(trunk), blocks(other)
    for number in range(first):
        mine[number] = theirs[number]
    trunk.set_input_embeddings(other.get_input_embeddings())


def _forward(block: Any, hidden_states: Tensor, *given: Any, **named: Any) -> Any:
    plain, passing = block.uncut, _PASSING.get()
    if passing is None:
        return plain(hidden_states, *given, **named)
    first, kept = passing
    if block.number < first:
        return plain(hidden_states, *given, **named) if kept is None else hidden_states
    if kept is None:
        raise _Stop(hidden_states)
    return plain(kept, *given, **named)


class Split:
    """One role's trunk in two parts, and the memory of the lower one."""

    def __init__(self, trunk: Any, first: int, memory: Memory) -> None:
        self.trunk, self.first, self.memory = trunk, first, memory

    @torch.no_grad()
    def lower(self, ids_BT: Tensor, mask: Tensor | None = None, positions_BT: Tensor | None = None) -> Tensor:
        """What enters the first upper block, h_BTd; never with a gradient."""
        token = _PASSING.set((self.first, None))
        try:
            self.trunk(input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, use_cache=False)
        except _Stop as found:
            return found.h_BTd
        finally:
            _PASSING.reset(token)
        raise AssertionError("the forward did not come to its upper blocks")

    def upper(
        self, h_BTd: Tensor, ids_BT: Tensor, mask: Tensor | None = None, positions_BT: Tensor | None = None
    ) -> Any:
        """The trunk's output from what enters its first upper block."""
        token = _PASSING.set((self.first, h_BTd))
        try:
            return self.trunk(input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, use_cache=False)
        finally:
            _PASSING.reset(token)

    def remembered(self, ids_BT: Tensor, mask: Tensor | None = None, positions_BT: Tensor | None = None) -> Tensor:
        """`lower`, from the round's memory where it has these very rows."""
        return self.memory.get(ids_BT, mask, positions_BT, lambda: self.lower(ids_BT, mask, positions_BT))

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        """The whole trunk: in one go with a cache (sampling), else from the remembered lower part."""
        if use_cache or past_key_values is not None:
            return self.trunk(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )
        h_BTd = self.remembered(input_ids, attention_mask, position_ids)
        return self.upper(h_BTd, input_ids, attention_mask, position_ids)

    def __getattr__(self, name: str) -> Any:
        if name == "trunk":  # not there yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.trunk, name)


def split_of(model: Any) -> Split | None:
    """The cut trunk of a view or a model, when it is cut; use it within `acting(model)`."""
    found: Split | None = vars(model).get("split") or vars(model).get("split_trunk")
    return found


class Memory:
    """Hidden states of a round's rows, shared by the roles whose lower blocks are the same weights.

    A row is known by its tokens, and by its mask and positions where they are not plain. It is forgotten when a round
    begins, so that a resumed run computes what an uninterrupted one would have.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.bytes, self.computed = limit, 0, 0
        self.rows: OrderedDict[tuple[bytes, ...], Tensor] = OrderedDict()

    def forget(self) -> None:
        """Begin a round."""
        self.rows.clear()
        self.bytes = 0

    def get(
        self, ids_BT: Tensor, mask: Tensor | None, positions_BT: Tensor | None, compute: Callable[[], Tensor]
    ) -> Tensor:
        """The rows' hidden states; computed together when one of them is missing or too short."""
        keys = _keys(ids_BT, mask, positions_BT)
        width = ids_BT.shape[1]
        found = [self.rows.get(k) for k in keys]
        kept = [h for h in found if h is not None and h.shape[0] >= width]
        if len(kept) == len(keys):
            return torch.stack([h[:width] for h in kept])
        h_BTd = compute()
        self._keep(keys, h_BTd)
        return h_BTd

    def runs(self, layout: Layout, compute: Callable[[], Tensor]) -> Tensor:
        """The same for a flat layout, h_Md: a run is known by its tokens and those of its root."""
        words = [layout.ids[r.begin : r.end].tobytes() for r in layout.runs]
        keys: list[tuple[bytes, ...]] = [
            (b"run", words[r.root] if r.root >= 0 else b"", own) for r, own in zip(layout.runs, words, strict=True)
        ]
        found = [self.rows.get(k) for k in keys]
        kept = [h for h in found if h is not None]
        if len(kept) == len(keys):
            return torch.cat(kept)
        h_Md = compute()
        self._keep(keys, h_Md.split([len(r) for r in layout.runs]))
        return h_Md

    def _keep(self, keys: list[tuple[bytes, ...]], states: Iterable[Tensor]) -> None:
        self.computed += len(keys)
        for key, h_Td in zip(keys, states, strict=True):
            old = self.rows.pop(key, None)
            self.bytes += _size(h_Td) - (0 if old is None else _size(old))
            self.rows[key] = h_Td
        while self.bytes > self.limit and self.rows:
            self.bytes -= _size(self.rows.popitem(last=False)[1])


@contextmanager
def unremembered(split: Split | None) -> Iterator[None]:
    """Let a cut trunk run without looking into its memory or adding to it."""
    if split is None:
        yield
        return
    kept, split.memory = split.memory, Memory()
    try:
        yield
    finally:
        split.memory = kept


def _size(h_Td: Tensor) -> int:
    return h_Td.numel() * h_Td.element_size()


def _keys(ids_BT: Tensor, mask: Tensor | None, positions_BT: Tensor | None) -> list[tuple[bytes, ...]]:
    """What a row's hidden states depend on.

    Under plain causal attention a row's padding (token 0 at the end) only adds positions, so it is no part of the key:
    a row kept with as much padding or more holds everything that is asked for.
    """
    ids = ids_BT.cpu().numpy()
    B, T = ids.shape
    positions = None if positions_BT is None else positions_BT.expand(B, T).cpu().numpy()
    plain = mask is None and (positions is None or bool((positions == range(T)).all()))
    if plain:
        ends = [int(row.nonzero()[0].max()) + 1 if row.any() else 0 for row in ids]
        return [(row[:end].tobytes(),) for row, end in zip(ids, ends, strict=True)]
    masks = [b""] * B if mask is None else [sha256(m.tobytes()).digest() for m in _plain_numbers(mask, B)]
    places = [b""] * B if positions is None else [p.tobytes() for p in positions]
    return list(zip([row.tobytes() for row in ids], masks, places, strict=True))


def _plain_numbers(mask: Tensor, rows: int) -> Any:
    """A mask as 0 and 1 per row: 2-D and boolean ones are so already, an additive one allows where it is 0."""
    allowed = mask == 0 if mask.is_floating_point() else mask.bool()
    return allowed.expand(rows, *allowed.shape[1:]).cpu().numpy()


def learn_top(model: nn.Module, trunk: Any, first: int) -> None:
    """Let the upper blocks, what stands behind them, and an untied head learn; the rest of a model is frozen."""
    model.requires_grad_(False)
    found = blocks(trunk)
    for block in found[first:]:
        block.requires_grad_(True)
    holder = next(m for m in trunk.modules() if any(child is found for child in m.children()))
    children = list(holder.children())
    for child in children[children.index(found) + 1 :]:
        child.requires_grad_(True)
    inside = {id(p) for p in trunk.parameters()}
    for p in model.parameters():
        if id(p) not in inside:
            p.requires_grad_(True)
