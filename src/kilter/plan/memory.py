"""Bytes of a training stage, as the engine allocates them: pure functions of a shape and a few settings.

What is held all the time (weights, masters, optimiser state, adapters) stands beside what a phase adds: an update its
gradients, the activations that wait for the backward pass, and the head's tiles; a rollout its stores of keys and
values and the pass over the prompts. Formulas follow the engine tensor by tensor (`models.lean`, `models.head`,
`models.decode`, `models.quant`, `train.optim`); tests/plan measures them with the profiler.
Letters: t tokens in a micro-batch, m of them read by the head, e bytes of a number, h width, I feed-forward width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from kilter.plan.shapes import Shape

GIB = 2**30
WIDTH = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
CONTEXT = GIB // 2
"""What a CUDA driver takes for itself."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in four bits: its code, a byte of scale per 64, and four more per 256 of those."""
ADAM8 = 2 * (1 + 4 / 256)
"""Bytes of AdamW's state in eight bits."""
TILE_BYTES = 32 << 20
KEEP_BYTES = 16 << 20
REMEMBERED = 4
PACK_BELOW = 100_000_000
PACK_ROWS = 4
JOIN_BYTES = 8 << 20
PREFILL_TOKENS = 1024
LARGE = 8192
DRAWN_TILE = 32 * 128
ATTENTION_AREA = 1 << 22
QUERY_BLOCK = 128
ATTENTION_TILE = 1 << 18
KEPT_KEYS = 4
"""These repeat models.head, .decode, .packed, .draw, .layout and .fused, which would bring torch in; a test holds them
equal."""
MUON_COPIES = 6
"""Of the matrices that Muon turns orthogonal together: updates, their stack, what it becomes, and three products."""


@dataclass(frozen=True)
class Settings:
    """What of a stage's configuration decides about memory."""

    dtype: str = "float32"
    lora_rank: int = 0
    quantize: str = "none"
    train_layers: int = 0
    checkpointing: bool = False
    optimizer: str = "adamw"
    cuda: bool = False
    lora_targets: tuple[str, ...] = ()
    """Last names of the layers that get adapters; all of them where there is none."""

    @property
    def e(self) -> int:
        """Bytes of a number."""
        return WIDTH[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of a number in float32 or wider."""
        return max(4, self.e)

    @property
    def fused(self) -> bool:
        """Whether attention is `models.fused`'s, and not the library's."""
        return self.e >= 4 and not self.cuda

    def learning(self, shape: Shape) -> int:
        """Blocks that learn."""
        return min(self.train_layers or shape.layers, shape.layers)

    def reads(self, *names: str) -> bool:
        """Whether any of these layers learns, or an adapter on it, and so keeps what it reads."""
        return not self.lora_rank or not self.lora_targets or any(n in self.lora_targets for n in names)

    def plain(self, *names: str) -> bool:
        """Whether these layers go through a half of a block as one function: no adapters, its own accumulator."""
        return self.e >= 4 and not (self.lora_rank and self.reads(*names)) and self.quantize == "none"


@dataclass(frozen=True)
class Frozen:
    """An adapter that a role begins from."""

    name: str
    rank: int
    targets: tuple[str, ...] = ()
    """Last names of its layers; none for all."""


@dataclass(frozen=True)
class Role:
    """One actor: what it is, whether it learns, and over which weights."""

    name: str
    kind: str
    shape: Shape
    base: str = "base"
    """Which weights: roles of equal base share a backbone under LoRA."""
    learns: bool = False
    start: tuple[Frozen, ...] = ()
    """Frozen adapters that it begins from."""
    classifier: bool = False
    """Its base has a one-label head of its own, and so can't be the language model's."""


@dataclass(frozen=True)
class Parts:
    """Bytes by what they are for, in the order of the table."""

    weights: float = 0.0
    """Of the models, each backbone once."""
    adapters: float = 0.0
    """LoRA's, frozen and learning, and the one-label heads beside them."""
    optimizer: float = 0.0
    """The optimiser's state, and float32 masters of 16-bit weights."""
    gradients: float = 0.0
    activations: float = 0.0
    """What waits for the backward pass, and what moves through one block."""
    head: float = 0.0
    """Hidden states that the vocabulary's head reads, and its tiles."""
    cache: float = 0.0
    """Keys and values of answers that are being drawn."""
    sampling: float = 0.0
    """What else drawing takes."""
    driver: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))


@dataclass(frozen=True)
class Backbone:
    """Weights that are held once, and the roles that read them."""

    shape: Shape
    roles: tuple[str, ...]
    headed: bool
    """A language model's head comes with it."""


# --- weights and what training keeps beside them ----------------------------------------------------------------------


def backbones(roles: list[Role], s: Settings) -> list[Backbone]:
    """Under LoRA roles over one base share it, as `models.roles` groups them; without it every role has its own."""
    if not s.lora_rank:
        return [Backbone(r.shape, (r.name,), r.kind == "causal") for r in roles]
    groups: dict[tuple[str, bool], list[Role]] = {}
    for role in roles:
        groups.setdefault((role.base, role.kind != "causal" and role.classifier), []).append(role)
    return [Backbone(g[0].shape, tuple(r.name for r in g), any(r.kind == "causal" for r in g)) for g in groups.values()]


def backbone_bytes(b: Backbone, s: Settings) -> float:
    """Its weights: linear layers in four bits where asked for, the rest in the stage's number type."""
    shape, linear = b.shape, b.shape.layers * b.shape.block_linear
    rest = shape.trunk - linear + (shape.head if b.headed else 0)
    return linear * (NF4 if s.quantize == "nf4" else s.e) + rest * s.e


def weights(roles: list[Role], s: Settings) -> float:
    """Backbones; without LoRA these are whole models."""
    found = sum(backbone_bytes(b, s) for b in backbones(roles, s)) - _shared_lower(roles, s)
    heads = 0 if s.lora_rank else sum(r.shape.width for r in roles if r.kind != "causal")
    return found + heads * s.e


def adapters(roles: list[Role], s: Settings) -> float:
    """Frozen adapters (each folder once), adapters that learn, and one-label heads of views."""
    return sum(frozen_adapters(roles, s).values()) + sum(own_adapter(r, s) for r in roles)


def frozen_adapters(roles: list[Role], s: Settings) -> dict[str, float]:
    """Bytes of each adapter that a role begins from."""
    return {f.name: r.shape.adapter(f.rank, targets=f.targets) * float(s.e) for r in roles for f in r.start}


def own_adapter(role: Role, s: Settings) -> float:
    """What a view has to itself: the adapter that it learns, and its one-label head."""
    if not s.lora_rank:
        return 0.0
    learnt = role.shape.adapter(s.lora_rank, s.learning(role.shape), s.lora_targets) if role.learns else 0
    return s.wide * (learnt + (0 if role.kind == "causal" else role.shape.width))


def _shared_lower(roles: list[Role], s: Settings) -> float:
    """Without LoRA, roles that begin from the same weights hold blocks below `train_layers` once."""
    if s.lora_rank or not s.train_layers:
        return 0.0
    found, seen = 0.0, set()
    for role in roles:
        if role.base in seen:
            lower = role.shape.layers - s.learning(role.shape)
            found += (role.shape.embedding + lower * (role.shape.block_linear + role.shape.block_rest)) * s.e
        seen.add(role.base)
    return found


def learned(role: Role, s: Settings) -> int:
    """Parameters of a role that learn."""
    shape, top = role.shape, s.learning(role.shape)
    scalar = 0 if role.kind == "causal" else shape.width
    if s.lora_rank:
        return shape.adapter(s.lora_rank, top, s.lora_targets) + scalar
    blocks = top * (shape.block_linear + shape.block_rest) + shape.tail + scalar
    head = shape.head if role.kind == "causal" else 0
    return blocks + head + (0 if s.train_layers else shape.embedding)


def kept_state(role: Role, s: Settings) -> float:
    """Float32 masters of 16-bit weights and the optimiser's state: held from the first step to the last."""
    n = learned(role, s)
    masters = 4 * n if s.e < 4 and not s.lora_rank else 0
    state: float = 2 * s.wide * n
    if s.optimizer == "adamw8bit":
        state = ADAM8 * n
    elif s.optimizer == "muon" and not s.lora_rank:
        state -= s.wide * s.learning(role.shape) * role.shape.block_linear
    elif s.optimizer == "muon":
        state -= s.wide * n
    return masters + state


def gradients(role: Role, s: Settings) -> float:
    """In float32 or wider; there from the first micro-batch of a step to its end."""
    return s.wide * learned(role, s)


# --- activations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """The tokens of one forward and backward of one role."""

    tokens: float
    read: float
    chunk: float = 0.0
    """Tokens that go through a block at once, where a micro-batch takes several turns; 0 for all."""
    keys: float = 0.0
    """Keys and values as attention lines them up, where each answer repeats its shared prompt's; 0 for one a token."""
    seen: float = 0.0
    """Queries times keys of masks, where attention needs them."""
    kept: float = 0.0
    """Queries times keys whose attention is kept for the gradient (of one head, on a processor)."""
    kept_read: float = 0.0
    """Of these, what the queries read by the head have."""

    @property
    def lined(self) -> float:
        """Keys as attention lines them up."""
        return self.keys or self.tokens

    @property
    def turn(self) -> Pass:
        """One turn of it."""
        n = min(1.0, self.chunk / self.tokens) if self.chunk else 1.0
        keys, seen, kept, kept_read = n * self.keys, n * self.seen, n * self.kept, n * self.kept_read
        return Pass(n * self.tokens, n * self.read, 0.0, keys, seen, kept, kept_read)


def _norm(tokens: float, width: int, s: Settings, full: bool) -> float:
    """What RMS normalisation keeps: the normalised input, or below 32 bits the input in float32."""
    if s.e >= 4:
        return tokens * (width + 1) * s.e
    return tokens * (4 * (width + 1) + (s.e * width if full else 0))


def kept_attention(shape: Shape, rows: float, queries: int, keys: int) -> float:
    """Queries times keys of rows whose attention is kept: of those blocks of queries that see few keys."""
    found = 0
    for begin in range(0, queries, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, queries)
        upto = keys - queries + end
        found += (end - begin) * upto if upto <= KEPT_KEYS * shape.head_width else 0
    return rows * found


def layer_saved(shape: Shape, s: Settings, p: Pass, first: bool = False, last: bool = False) -> float:
    """What one block keeps for its backward pass; in the last block only tokens read go beyond keys and values.

    `first`: nothing below it learns, so what enters it has no gradient.
    """
    if not shape.lean:
        return _own_layer_saved(shape, s, p.tokens)
    last = last and p.read < p.tokens
    m = p.read if last else p.tokens
    mixed = s.e * m * shape.queries if s.reads("o_proj") else 0.0
    found = mixed + feed_saved(shape, s, m, first) + _adapters_saved(shape, s, m)
    if first and not s.reads("q_proj", "k_proj", "v_proj"):
        return found  # nothing up to here has a gradient
    return found + _enter_saved(shape, s, p, first, last) + _attention_saved(shape, s, p, m, last)


def _enter_saved(shape: Shape, s: Settings, p: Pass, first: bool, last: bool) -> float:
    """From what enters a block to its queries, keys and values."""
    t, m, h, full = p.tokens, p.read if last else p.tokens, shape.width, not s.lora_rank
    turned = 2 * s.e * m * shape.queries if last else 0.0  # cosines and sines of the tokens that are read
    if s.plain("q_proj", "k_proj", "v_proj") and not shape.head_norms:
        return turned + (0.0 if first and not full else s.e * t * (h + 1))
    found = turned + (0.0 if first and not full else _norm(t, h, s, full))
    found += s.e * t * h if s.reads("k_proj", "v_proj") or (s.reads("q_proj") and not last) else 0.0
    found += s.e * m * h if s.reads("q_proj") and last else 0.0
    if shape.head_norms:
        found += _norm(m, shape.queries, s, full) + _norm(t, shape.keys, s, full)
    return found


def _attention_saved(shape: Shape, s: Settings, p: Pass, m: float, last: bool) -> float:
    """Queries, keys and values, and what becomes of them."""
    e, q = s.e, shape.queries
    if s.fused:
        return e * (m * q + 2 * p.tokens * shape.keys + shape.heads * (p.kept_read if last else p.kept))
    lined = e * q * (m + 2 * p.lined)  # keys and values repeated for each head that reads them
    return lined + m * (e * q + 4 * shape.heads) + e * p.seen  # the result, its sums, and masks as numbers


def feed_saved(shape: Shape, s: Settings, m: float, first: bool = False) -> float:
    """Of the second half of a block; of the first block, only from where something learns."""
    entering = not first or s.reads("q_proj", "k_proj", "v_proj", "o_proj")
    if s.plain("gate_proj", "up_proj", "down_proj"):
        return s.e * m * (shape.width + 1 + 2 * shape.hidden) if entering else 0.0
    read = shape.width if s.reads("gate_proj", "up_proj") else 0
    gated = shape.hidden if s.reads("down_proj") else 0
    gate = 2 * shape.hidden if entering or read else 0
    normal = _norm(m, shape.width, s, not s.lora_rank) if entering else 0.0
    return normal + s.e * m * (read + gated + gate)


def _adapters_saved(shape: Shape, s: Settings, t: float) -> float:
    """The narrow states between A and B, and below 32 bits the copies that take part in the product."""
    if not s.lora_rank:
        return 0.0
    copies = s.e * shape.adapter(s.lora_rank, 1, s.lora_targets) if s.e < 4 else 0
    return s.e * t * s.lora_rank * len(shape.adapted(s.lora_targets)) + copies


def _own_layer_saved(shape: Shape, s: Settings, t: float) -> float:
    """An estimate for families that take their own forward, after GPT-2: an activation function that is written out
    keeps three of its steps, norms what they read."""
    return t * (s.e * (2 * shape.width + 5 * shape.queries + 5 * shape.hidden) + 8 * shape.width)


def layer_moving(shape: Shape, s: Settings, p: Pass, m: float) -> float:
    """What a block's backward pass allocates beyond what was saved, at its widest: in its feed-forward half or, where
    keys are lined up more often than they stand, in attention. m: tokens that go through its feed-forward half."""
    biggest = max((o * i for o, i in shape.linears), default=0)
    weight = biggest * (s.e if s.quantize == "nf4" else 0 if s.lora_rank else s.e + (4 if s.e < 4 else 0))
    if not (shape.lean and s.fused):
        return s.e * m * (2 * shape.hidden + shape.width) + weight
    plain = s.plain("gate_proj", "up_proj", "down_proj")
    feed = s.e * m * ((4 * shape.hidden + 5 * shape.width) if plain else (2 * shape.hidden + shape.width))
    if plain and not s.lora_rank:
        weight = 3 * s.e * shape.hidden * shape.width
    return max(feed + weight, _attention_moving(shape, s, p, m) - feed_saved(shape, s, m))


def _gathered(shape: Shape, s: Settings, p: Pass) -> float:
    """Keys and values of one attention call, repeated for each head that reads them: of calls of limited area."""
    return 2 * s.e * shape.queries * min(p.lined, max(p.lined / max(1.0, p.tokens), 1.0) * ATTENTION_AREA / QUERY_BLOCK)


def _attention_moving(shape: Shape, s: Settings, p: Pass, m: float) -> float:
    """Attention's backward pass: gradients of queries in three orders, of keys and values, and two tiles."""
    q = shape.queries
    states = s.e * (m * (4 * q + shape.width) + 2 * p.tokens * shape.keys)
    return states + 2 * _gathered(shape, s, p) + 2 * s.e * min(ATTENTION_TILE, shape.heads * (p.kept or ATTENTION_TILE))


def _lasting(shape: Shape, s: Settings, p: Pass) -> float:
    """Cosines and sines of every head, and where each head's rows stand for attention."""
    if not shape.lean:
        return 0.0
    return 2.0 * p.tokens * (shape.queries + shape.keys) * s.e + _lining(shape, s, p)


def layouts(shape: Shape, s: Settings, p: Pass) -> float:
    """What the layouts hold that are remembered beside the one at work."""
    return (REMEMBERED - 1) * _lining(shape, s, p.turn)


def _lining(shape: Shape, s: Settings, p: Pass) -> float:
    """Where each head's rows stand for attention, of all tokens and of those that are read."""
    if not (shape.lean and s.fused):
        return 0.0
    rows = 2 * p.tokens + 2 * p.lined + (2 * p.read + 2 * p.lined if p.read < p.tokens else 0.0)
    return 8 * shape.heads * rows


def trunk_saved(role: Role, s: Settings, p: Pass) -> float:
    """What a role's forward keeps until its backward: every block's activations, or with checkpointing their inputs."""
    shape, top = role.shape, s.learning(role.shape)
    h = shape.width
    rope = _lasting(shape, s, p)
    last = _norm(p.read, h, s, not s.lora_rank)
    if s.checkpointing:
        return rope + s.e * h * p.tokens * top + (0 if shape.lean and p.read < p.tokens else last)
    blocks = sum(layer_saved(shape, s, p, first=n == 0, last=n == top - 1) for n in range(top))
    return rope + blocks + last


def backward_peaks(role: Role, s: Settings, p: Pass) -> list[tuple[float, float]]:
    """What a role's trunk holds at points of its backward pass, and the bytes of its own gradients that are there then.

    In between both fall or rise evenly, so the last block, the one below, the first and the embeddings tell the most.
    """
    shape, top, saved = role.shape, s.learning(role.shape), trunk_saved(role, s, p)
    turn = p.turn
    t, m = turn.tokens, turn.read
    last = layer_saved(shape, s, turn, first=top == 1, last=True)
    whole = gradients(role, s)
    every = not s.lora_rank and not s.train_layers
    head = s.wide * shape.vocabulary * shape.width if role.kind == "causal" and not s.lora_rank else 0.0
    lowest = whole - (s.wide * shape.embedding if every and not (shape.tied and head) else 0.0)
    block = (lowest - head) / top
    below = saved - s.e * shape.width * t + layer_saved(shape, s, turn) if s.checkpointing else saved - last
    found = [(saved + (last if s.checkpointing else 0.0) + layer_moving(shape, s, turn, m), head)]
    if top > 1:
        entry = s.e * shape.width * t if s.checkpointing else 0.0
        first = layer_saved(shape, s, turn, first=True) + entry + layer_moving(shape, s, turn, t)
        found += [(below + layer_moving(shape, s, turn, t), head + block), (first, lowest - block)]
    if every:
        low = shape.embedding * (s.e + (4 if s.e < 4 else 0))
        found.append((low + s.e * p.tokens * shape.width, lowest))
    return found


def forward_moving(shape: Shape, s: Settings, p: Pass) -> float:
    """States that are alive at once in a block whose forward keeps none of them, and one weight in full."""
    biggest = max((o * i for o, i in shape.linears), default=0) if s.quantize == "nf4" else 0
    t, h, q, k = p.tokens, shape.width, shape.queries, shape.keys
    attention = s.e * t * (2 * h + 3 * q + 2 * k) + _gathered(shape, s, p) + (0 if s.fused else s.e * t * 2 * q)
    feed = s.e * t * (4 * h + (4 if s.lora_rank else 3) * shape.hidden)
    return s.e * biggest + _lasting(shape, s, p) + max(attention, feed)


# --- the head ---------------------------------------------------------------------------------------------------------


def head_saved(role: Role, s: Settings, m: float) -> float:
    """Hidden states that are read, and the probabilities where they are few enough to be kept."""
    states = s.e * m * role.shape.width
    if role.kind != "causal":
        return states + (4 * m * role.shape.width if s.e < 4 else 0)
    kept = s.wide * m * role.shape.vocabulary
    return states + (kept if kept <= KEEP_BYTES else 0)


def head_moving(role: Role, s: Settings, m: float) -> float:
    """Tiles of logits, and the gradients of what was read and of the head itself."""
    shape = role.shape
    if role.kind != "causal":
        return s.wide * m * shape.width
    rows = max(16, TILE_BYTES // (4 * shape.vocabulary))
    tile = s.wide * min(m, rows) * shape.vocabulary
    low = tile / 2 if s.e < 4 else 0
    kept = s.wide * m * shape.vocabulary <= KEEP_BYTES
    tiles = (tile if kept else 2 * tile if m <= rows else 4 * tile) + low
    weight = 0 if s.lora_rank else shape.vocabulary * shape.width * (4 + 2 * s.e if s.e < 4 else 2 * s.e)
    return tiles + weight + s.e * m * shape.width


# --- phases -----------------------------------------------------------------------------------------------------------


def held(roles: list[Role], s: Settings) -> Parts:
    """What is there in every phase once the first step has been taken."""
    state = sum(kept_state(r, s) for r in roles if r.learns)
    return Parts(weights(roles, s), adapters(roles, s), state, driver=CONTEXT if s.cuda else 0)


def update(roles: list[Role], s: Settings, passes: dict[str, Pass], memory: float = 0.0, several: bool = True) -> Parts:
    """The peak of a forward and backward; `memory`: what is kept of blocks below those that learn, and of layouts.

    All roles that learn go forward, then backward in the opposite order, each freeing what it had saved. With `several`
    micro-batches in a step, all gradients are there from the first on; else they come as activations go.
    """
    at_rest, learning = held(roles, s), [r for r in roles if r.learns and r.name in passes]
    whole = sum(gradients(r, s) for r in roles if r.learns)
    points = [(0.0, 0.0, whole)]
    for number, role in enumerate(learning):
        p = passes[role.name]
        waiting = [(r, passes[r.name]) for r in learning[:number]]
        trunks = sum(trunk_saved(r, s, q) for r, q in waiting)
        heads = sum(head_saved(r, s, q.read) for r, q in waiting)
        done = sum(gradients(r, s) for r in learning[number + 1 :])
        in_head = heads + head_saved(role, s, p.read) + head_moving(role, s, p.read)
        points.append((trunks + trunk_saved(role, s, p), in_head, whole if several else done))
        for size, there in backward_peaks(role, s, p):
            points.append((trunks + size, heads, whole if several else done + there))
    most = max(points, key=sum)
    stepping = s.optimizer == "muon" and not s.lora_rank
    if stepping and (moving := max(orthogonalising(r, s) for r in roles if r.learns)) + whole > sum(most):
        most = (0.0, 0.0, whole + moving)
    return replace(at_rest, gradients=most[2], activations=most[0] + memory, head=most[1])


def orthogonalising(role: Role, s: Settings) -> float:
    """What Muon's step holds beside the gradients: matrices of one shape at a time, in several copies."""
    alike = Counter(role.shape.linears)
    each = [n * (MUON_COPIES * o * i + min(o, i) ** 2) for (o, i), n in alike.items()]
    return s.wide * s.learning(role.shape) * max(each, default=0)


def scoring(
    roles: list[Role], s: Settings, passes: Sequence[Pass], entropy: bool = False, memory: float = 0.0
) -> Parts:
    """The peak of forwards without a gradient: one block's states, or the head's tiles; `memory` as in `update`."""
    at_rest, shape = held(roles, s), roles[0].shape
    rows = max(16, TILE_BYTES // (4 * shape.vocabulary))
    block = max(forward_moving(shape, s, p.turn) for p in passes)
    wide = (3 if entropy else 2) * s.wide
    read = [(p.turn.read, _lining(shape, s, p.turn)) for p in passes]
    tiles = max(min(m, rows) * shape.vocabulary * wide + s.e * m * shape.width + lines for m, lines in read)
    by_head = tiles > block
    return replace(at_rest, head=tiles if by_head else 0.0, activations=memory + (0.0 if by_head else block))


@dataclass(frozen=True)
class Sampled:
    """A rollout: how many rows run at once, and how long they are."""

    rows: int
    prompt: int
    answer: int
    lanes: int = 1
    """Answers to one prompt, which share its keys and values."""
    total: int = 0
    """Answers in a round, which may be more than run at once."""

    def at_once(self, rows: int) -> Sampled:
        """The same answers, so many at a time."""
        return replace(self, rows=rows, lanes=min(self.lanes, rows), total=max(rows, self.total))


def stores(shape: Shape, s: Settings, r: Sampled) -> float:
    """Keys and values: prompts by slot and answers by row, or where all is small both by row."""
    slots = -(-r.rows // r.lanes)
    token = 2.0 * shape.layers * shape.keys * s.e
    together = token * slots * r.lanes * (r.prompt + r.answer)
    return together if together <= JOIN_BYTES else token * slots * (r.prompt + r.lanes * r.answer)


def packs(shape: Shape, s: Settings, r: Sampled) -> bool:
    """Whether the sampler lays out its own copy of the weights: of small models on a processor."""
    small = shape.lean and shape.trunk < PACK_BELOW and r.rows >= PACK_ROWS
    return small and s.e >= 4 and not s.cuda and s.quantize == "none"


def packed(shape: Shape, s: Settings, r: Sampled) -> float:
    """That copy, the head's with it."""
    if not packs(shape, s, r):
        return 0.0
    head = shape.vocabulary * shape.width
    return s.e * (shape.layers * shape.block_linear + (head if head <= PACK_BELOW else 0))


def _prefill(shape: Shape, s: Settings, t: float, own: bool) -> float:
    """States of the pass over prompts; by the sampler's own weights none of a half's results are new."""
    if not own:
        return forward_moving(shape, replace(s, cuda=True), Pass(t, t))
    h, q, k = shape.width, shape.queries, shape.keys
    return s.e * t * (2 * h + max(6 * q + 4 * k, q + 2 * k + 2 * shape.hidden))


def sampling(shape: Shape, s: Settings, r: Sampled) -> float:
    """The pass over the prompts that are let in together, or a step of all rows, whichever is larger."""
    slots = -(-r.rows // r.lanes)
    fed = min(slots * r.prompt, PREFILL_TOKENS + r.prompt)
    prefill = _prefill(shape, s, fed, packs(shape, s, r)) if shape.lean else 0.0
    scores = r.rows * shape.heads * (r.prompt + r.answer) * (s.e + s.wide + (s.e if s.e < 4 else 0))
    state = s.e * r.rows * (4 * shape.width + 4 * shape.queries + 4 * shape.keys + 3 * shape.hidden)
    read = min(shape.vocabulary, DRAWN_TILE if shape.vocabulary > LARGE else LARGE)
    logits = r.rows * read * (s.e + s.wide + 8) + 2 * s.e * r.rows * shape.width
    return max(prefill, scores + state, logits)


def rollout(roles: list[Role], s: Settings, r: Sampled) -> Parts:
    """The peak while answers are drawn: no gradients, but all that is held, and the stores."""
    at_rest = held(roles, s)
    shape = roles[0].shape
    drawn = 24.0 * max(r.total, r.rows) * r.answer
    return replace(at_rest, cache=stores(shape, s, r), sampling=packed(shape, s, r) + sampling(shape, s, r) + drawn)
