"""Ragged sequences as one flat run of tokens in which a prompt that several answers share stands once.

A layout is a forest of depth two: a root is a whole sequence or a shared prompt, a branch is one answer to it. Every
token sees its own run up to itself and, in a branch, its whole root; positions go on where the root ends. So each
token's hidden state is exactly what it would be alone, and no padding is computed outside of attention.
M flat tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

SHARE_FROM = 0.06
"""Share of tokens that a common prompt must save before a batch is laid out as a tree: branches cost one more pass."""
ATTENTION_AREA = 1 << 22
"""Padded queries times keys in one attention call."""
REMEMBERED = 4
"""Layouts that are kept with their plans."""
BLOCK = 128
"""Queries of a row that attend at once, where attention is worked out by tiles."""
ATTENTION_WASTE = 8000
"""Queries times keys of padding that cost about as much as one more attention call."""


@dataclass(frozen=True)
class Run:
    """Consecutive flat tokens `begin` to `end`; a branch names its root."""

    begin: int
    end: int
    root: int = -1

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Block:
    """Consecutive queries of a group's rows, and which keys they may see: all from the first but the hidden ones."""

    begin: int
    end: int
    upto: int
    """Keys from here on are seen by none of them."""
    low: int
    """Keys before here are seen by all of them."""
    hidden_b1qk: Tensor
    """Between the two: 0 where a query sees a key, minus infinity elsewhere; one row may stand for all."""


@dataclass(frozen=True)
class Group:
    """Runs that attend in one call: where their queries and keys stand, and what they may see."""

    queries_bq: Tensor
    """Where every query stands; padding repeats one, and its result is read by nobody."""
    keys_bk: Tensor
    mask: Tensor | None
    """True where a query sees a key, [b, 1, q, k]; None means plain causal attention."""
    slots: Tensor
    """Where each query's result stands within b·q, in the order of `reads`."""
    reads: Tensor
    """Flat tokens whose results are wanted, in the order of `slots`."""

    @cached_property
    def blocks(self) -> list[Block]:
        """The queries, some at a time, each with the keys that any of them sees."""
        width, device = self.queries_bq.shape[1], self.queries_bq.device
        seen_bqk = None if self.mask is None else self.mask[:, 0].cpu().numpy()
        found = []
        for begin in range(0, width, BLOCK):
            end = min(begin + BLOCK, width)
            if seen_bqk is None:
                low, upto = begin, end
                shown = np.tri(end - begin, dtype=bool)[None]
            else:
                part = seen_bqk[:, begin:end]
                upto = int(np.flatnonzero(part.any((0, 1)))[-1]) + 1
                gaps = np.flatnonzero(~part[..., :upto].all((0, 1)))
                low = int(gaps[0]) if len(gaps) else upto
                shown = part[..., low:upto]
            hidden = np.where(shown, np.float32(0), np.float32(-np.inf))[:, None]
            found.append(Block(begin, end, upto, low, torch.from_numpy(hidden).to(device)))
        return found

    def query_rows(self, heads: int) -> Tensor:
        """Rows of the flat queries [M·H, D] by row, head and query."""
        return self._rows("queries", self.queries_bq, [range(heads)], heads)

    def key_rows(self, heads: int, pairs: int) -> Tensor:
        """Rows of the flat keys and values [M·2G, D]: all keys by row, query head and key, then all values."""
        repeat = heads // (pairs // 2)
        keys = [h // repeat for h in range(heads)]
        return self._rows("keys", self.keys_bk, [keys, [pairs // 2 + k for k in keys]], pairs)

    def _rows(self, name: str, at_bt: Tensor, parts: Sequence[Sequence[int]], each: int) -> Tensor:
        known: dict[tuple[str, int], Tensor] = self.__dict__.setdefault("_known", {})
        if (name, each) not in known:
            head_ph = torch.tensor([list(part) for part in parts], device=at_bt.device)
            known[name, each] = (at_bt[None, :, None] * each + head_ph[:, None, :, None]).flatten()
        return known[name, each]


@dataclass(frozen=True)
class Plan:
    """All attention calls of a layer, and what puts their results into flat order."""

    groups: list[Group]
    order: Tensor

    def rows(self, heads: int) -> Tensor:
        """Where the result of each wanted query and head stands among all groups' results by row, head and query."""
        known: dict[int, Tensor] = self.__dict__.setdefault("_known", {})
        if heads not in known:
            begin, found = 0, []
            for g in self.groups:
                b, width = g.queries_bq.shape
                row, query = g.slots // width, g.slots % width
                head = torch.arange(heads, device=g.slots.device)
                found.append(begin + (row[:, None] * heads + head) * width + query[:, None])
                begin += b * heads * width
            known[heads] = torch.cat(found)[self.order].flatten()
        return known[heads]


@dataclass
class Layout:
    """Flat ids and positions, runs, and where the tokens of each given sequence stand."""

    ids: np.ndarray
    positions: np.ndarray
    runs: list[Run]
    index: list[np.ndarray] = field(default_factory=list)
    """Per sequence, the flat token of each of its tokens (a shared prompt's are the same for all its answers)."""

    @property
    def branched(self) -> bool:
        """Whether any run has a root above it."""
        return any(r.root >= 0 for r in self.runs)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.positions.max()) + 1

    def plan(self, reads: np.ndarray | None, device: torch.device) -> Plan:
        """Attention calls for all queries, or for those tokens alone that are read (ascending, each once).

        Queries of the latter are numbered as they are read. A plan that was asked for before is the same object.
        """
        known: dict[tuple[bytes | None, torch.device], Plan] = self.__dict__.setdefault("_known", {})
        key = None if reads is None else reads.tobytes(), device
        if key not in known:
            known[key] = self._plan(reads, device)
        return known[key]

    def _plan(self, reads: np.ndarray | None, device: torch.device) -> Plan:
        wanted = np.ones(len(self.ids), dtype=bool)
        if reads is not None:
            wanted[:] = False
            wanted[reads] = True
        queries = [np.flatnonzero(wanted[r.begin : r.end]) + r.begin for r in self.runs]
        found: list[Group] = []
        for branch in (False, True):
            members = [n for n, r in enumerate(self.runs) if (r.root >= 0) == branch and len(queries[n])]
            members.sort(key=lambda n: (-self._seen(n), -len(queries[n])))
            sizes = [(len(queries[n]), self._seen(n)) for n in members]
            for part in alike(sizes):
                found.append(self._group([members[i] for i in part], queries, device))
        order = torch.argsort(torch.cat([g.reads for g in found]))
        if reads is None:
            return Plan(found, order)
        rows = torch.empty(len(self.ids), dtype=torch.long, device=device)
        rows[torch.from_numpy(reads).to(device)] = torch.arange(len(reads), device=device)
        return Plan([replace(g, queries_bq=rows[g.queries_bq]) for g in found], order)

    def _seen(self, number: int) -> int:
        run = self.runs[number]
        return len(run) + (len(self.runs[run.root]) if run.root >= 0 else 0)

    def _group(self, members: list[int], queries: list[np.ndarray], device: torch.device) -> Group:
        runs = [self.runs[n] for n in members]
        roots = [self.runs[r.root] if r.root >= 0 else Run(r.begin, r.begin) for r in runs]
        q = np.array([len(queries[n]) for n in members])
        root, own = np.array([len(r) for r in roots]), np.array([len(r) for r in runs])
        rows, before, width = len(members), int(root.max()), int(q.max())
        query_at = _padded([queries[n] for n in members], width)
        root_at = _padded([np.arange(r.begin, r.end) for r in roots], before, [r.begin for r in runs])
        own_at = _padded([np.arange(r.begin, r.end) for r in runs], int(own.max()))
        keys = np.concatenate([root_at, own_at], axis=1)
        real = np.arange(width)[None] < q[:, None]
        slots = np.flatnonzero(real)
        reads = query_at[real]
        plain = before == 0 and bool((q == own).all())  # right padding is behind every real query of a causal mask
        mask = None
        if not plain:
            in_root = np.arange(before)[None] < root[:, None]
            own_key = own_at - np.array([r.begin for r in runs])[:, None]
            own_key[np.arange(own_at.shape[1])[None] >= own[:, None]] = np.iinfo(np.int64).max
            own_query = query_at - np.array([r.begin for r in runs])[:, None]
            sees = own_key[:, None, :] <= own_query[:, :, None]
            shown = np.concatenate([np.broadcast_to(in_root[:, None], (rows, width, before)), sees], axis=2)
            mask = torch.from_numpy(shown[:, None]).to(device)
        tensors = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (query_at, keys, slots, reads))
        at, keys_t, slots_t, reads_t = tensors
        return Group(at, keys_t, mask, slots_t, reads_t)


def alike(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Consecutive (queries, keys) in groups that waste little when padded to one size."""
    groups: list[list[int]] = []
    height = width = real = 0
    for i, (queries, keys) in enumerate(sizes):
        tall, wide, area = max(height, queries), max(width, keys), real + queries * keys
        padded = (len(groups[-1]) + 1) * tall * wide if groups else 0
        if groups and padded <= ATTENTION_AREA and padded - area <= ATTENTION_WASTE:
            groups[-1].append(i)
            height, width, real = tall, wide, area
        else:
            groups.append([i])
            height, width, real = queries, keys, queries * keys
    return groups


def _padded(rows: Sequence[np.ndarray], width: int, fill: Sequence[int] | None = None) -> np.ndarray:
    """Ragged indices side by side; what is left over repeats a row's first (or what `fill` says)."""
    out = np.empty((len(rows), width), dtype=np.int64)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
        if len(row) < width:
            out[n, len(row) :] = row[0] if fill is None else fill[n]
    return out


def lay_out(sequences: Sequence[Sequence[int]], starts: Sequence[int] | None = None, share: bool = True) -> Layout:
    """Sequences in flat form; those with the same first `starts[i]` tokens share them, where that saves enough.

    The last few layouts are remembered: the roles and epochs of a round ask for the same ones again and again.
    """
    return _lay_out(tuple(map(tuple, sequences)), None if starts is None else tuple(starts), share)


@lru_cache(maxsize=REMEMBERED)
def _lay_out(sequences: tuple[tuple[int, ...], ...], starts: tuple[int, ...] | None, share: bool) -> Layout:
    roots = _shared(sequences, starts) if share and starts is not None else {}
    ids: list[int] = []
    positions: list[np.ndarray] = []
    runs: list[Run] = []
    root_of: dict[tuple[int, ...], int] = {}
    index: list[np.ndarray] = []

    def add(tokens: Sequence[int], root: int) -> int:
        begin, offset = len(ids), len(runs[root]) if root >= 0 else 0
        ids.extend(tokens)
        positions.append(np.arange(offset, offset + len(tokens)))
        runs.append(Run(begin, len(ids), root))
        return len(runs) - 1

    for number, sequence in enumerate(sequences):
        prompt = roots.get(number)
        if prompt is None:
            run = runs[add(sequence, -1)]
            index.append(np.arange(run.begin, run.end))
            continue
        if prompt not in root_of:
            root_of[prompt] = add(prompt, -1)
        root = runs[root_of[prompt]]
        run = runs[add(sequence[len(prompt) :], root_of[prompt])]
        index.append(np.concatenate([np.arange(root.begin, root.end), np.arange(run.begin, run.end)]))
    return Layout(np.array(ids, dtype=np.int64), np.concatenate(positions), runs, index)


def of_packed(ids_BT: Tensor, segments_BT: Tensor, positions_BT: Tensor) -> tuple[Layout, np.ndarray]:
    """A packed batch in flat form, each document a run of its own; and where its real tokens stood."""
    real = segments_BT.numpy() > 0
    positions = positions_BT.numpy()[real]
    begins = np.flatnonzero(positions == 0)
    ends = np.append(begins[1:], len(positions))
    runs = [Run(int(b), int(e)) for b, e in zip(begins, ends, strict=True)]
    return Layout(ids_BT.numpy()[real], positions, runs), real


def _shared(sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Sequence → the prompt it shares with another one; nothing where that saves too little."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        by_prompt.setdefault(tuple(sequence[:start]), []).append(number)
    saved = sum((len(members) - 1) * len(prompt) for prompt, members in by_prompt.items())
    if saved < SHARE_FROM * sum(map(len, sequences)):
        return {}
    return {n: prompt for prompt, members in by_prompt.items() if len(members) > 1 and prompt for n in members}
