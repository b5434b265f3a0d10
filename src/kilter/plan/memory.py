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
FUSE_BELOW = 100_000_000
LARGE = 8192
"""These four repeat models.head, models.decode and models.draw, which would bring torch in; a test holds them equal."""
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

    @property
    def e(self) -> int:
        """Bytes of a number."""
        return WIDTH[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of a number in float32 or wider."""
        return max(4, self.e)

    def learning(self, shape: Shape) -> int:
        """Blocks that learn."""
        return min(self.train_layers or shape.layers, shape.layers)


@dataclass(frozen=True)
class Role:
    """One actor: what it is, whether it learns, and over which weights."""

    name: str
    kind: str
    shape: Shape
    base: str = "base"
    """Which weights: roles of equal base share a backbone under LoRA."""
    learns: bool = False
    start: tuple[tuple[str, int], ...] = ()
    """Frozen adapters that it begins from: (which, rank)."""
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
    frozen = {name: role.shape.adapter(rank) for role in roles for name, rank in role.start}
    return sum(frozen.values()) * s.e + sum(own_adapter(r, s) for r in roles)


def own_adapter(role: Role, s: Settings) -> float:
    """What a view has to itself: the adapter that it learns, and its one-label head."""
    if not s.lora_rank:
        return 0.0
    learnt = role.shape.adapter(s.lora_rank, s.learning(role.shape)) if role.learns else 0
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
        return shape.adapter(s.lora_rank, top) + scalar
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

    @property
    def turn(self) -> Pass:
        """One turn of it."""
        share = min(1.0, self.chunk / self.tokens) if self.chunk else 1.0
        return Pass(share * self.tokens, share * self.read, 0.0, share * self.keys, share * self.seen)


def _norm(tokens: float, width: int, s: Settings, full: bool) -> float:
    """What RMS normalisation keeps: the normalised input, or below 32 bits the input in float32."""
    if s.e >= 4:
        return tokens * (width + 1) * s.e
    return tokens * (4 * (width + 1) + (s.e * width if full else 0))


def layer_saved(shape: Shape, s: Settings, p: Pass, first: bool = False, last: bool = False) -> float:
    """What one block keeps for its backward pass; in the last block only tokens read go beyond keys and values.

    `first`: nothing below it learns, so what enters it has no gradient.
    """
    t, m, full = p.tokens, p.read if last else p.tokens, not s.lora_rank
    if not shape.lean:
        return _own_layer_saved(shape, s, t)
    h, q, e = shape.width, shape.queries, s.e
    enters = 0.0 if first and not full else _norm(t, h, s, full)
    attention = e * (t * h + (m * h if m < t else 0))  # what q, k and v read, kept by weights or adapters that learn
    if shape.head_norms:
        attention += _norm(m, q, s, full) + _norm(t, shape.keys, s, full)
    attention += e * q * (m + 2 * (p.keys or t))  # queries, and keys and values as often as they are lined up
    attention += m * (e * q + 4 * shape.heads) + e * p.seen  # the result, its sums, and masks as numbers
    attention += e * m * q  # what the output projection reads
    feed = _norm(m, h, s, full) + e * m * (h + 3 * shape.hidden)
    return enters + attention + feed + _adapters_saved(shape, s, t)


def _adapters_saved(shape: Shape, s: Settings, t: float) -> float:
    """The narrow states between A and B, and below 32 bits the copies that take part in the product."""
    if not s.lora_rank:
        return 0.0
    copies = s.e * shape.adapter(s.lora_rank, 1) if s.e < 4 else 0
    return s.e * t * s.lora_rank * len(shape.linears) + copies


def _own_layer_saved(shape: Shape, s: Settings, t: float) -> float:
    """An estimate for families that take their own forward: more is kept by norms and activation functions."""
    return t * (s.e * (2 * shape.width + 6 * shape.queries + 6 * shape.hidden) + 8 * shape.width)


def layer_moving(shape: Shape, s: Settings, t: float) -> float:
    """Gradients alive at once in a block's backward pass beyond what it frees, and one weight in full."""
    biggest = max((o * i for o, i in shape.linears), default=0)
    weight = biggest * (s.e if s.quantize == "nf4" else 0 if s.lora_rank else s.e + (4 if s.e < 4 else 0))
    return s.e * t * (2 * shape.hidden + shape.width) + weight


def trunk_saved(role: Role, s: Settings, p: Pass) -> float:
    """What a role's forward keeps until its backward: every block's activations, or with checkpointing their inputs."""
    shape, top = role.shape, s.learning(role.shape)
    h = shape.width
    rope = 2 * p.tokens * shape.head_width * s.e if shape.lean else 0
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
    found = [(saved + (last if s.checkpointing else 0.0) + layer_moving(shape, s, m), head)]
    if top > 1:
        entry = s.e * shape.width * t if s.checkpointing else 0.0
        first = layer_saved(shape, s, turn, first=True) + entry + layer_moving(shape, s, t)
        found += [(below + layer_moving(shape, s, t), head + block), (first, lowest - block)]
    if every:
        low = shape.embedding * (s.e + (4 if s.e < 4 else 0))
        found.append((low + s.e * p.tokens * shape.width, lowest))
    return found


def forward_moving(shape: Shape, s: Settings, t: float) -> float:
    """States that are alive at once in a block whose forward keeps none of them, and one weight in full."""
    biggest = max((o * i for o, i in shape.linears), default=0) if s.quantize == "nf4" else 0
    attention = 2 * shape.width + 6 * shape.queries + 2 * shape.keys
    feed = 4 * shape.width + shape.queries + 2 * shape.keys + (4 if s.lora_rank else 3) * shape.hidden
    return s.e * (biggest + t * (2 * shape.head_width + max(attention, feed)))


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
    """The peak of a forward and backward; `memory`: what is kept of blocks below those that learn.

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


def scoring(roles: list[Role], s: Settings, passes: Sequence[Pass], entropy: bool = False) -> Parts:
    """The peak of forwards without a gradient: one block's states, or the head's tiles."""
    at_rest, shape = held(roles, s), roles[0].shape
    rows = max(16, TILE_BYTES // (4 * shape.vocabulary))
    block = max(forward_moving(shape, s, p.turn.tokens) for p in passes)
    wide = (3 if entropy else 2) * s.wide
    tiles = max(min(m, rows) * shape.vocabulary * wide + s.e * m * shape.width for m in (p.turn.read for p in passes))
    by_head = tiles > block
    return replace(at_rest, head=tiles) if by_head else replace(at_rest, activations=block)


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
    """Keys and values: prompts by slot, answers by row."""
    slots = -(-r.rows // r.lanes)
    tokens = slots * r.prompt + slots * r.lanes * r.answer
    return 2.0 * shape.layers * shape.keys * s.e * tokens


def fused(shape: Shape, s: Settings) -> float:
    """The sampler's copies of projections that read one input, which small plain trunks get."""
    if not shape.lean or s.lora_rank or shape.trunk >= FUSE_BELOW:
        return 0.0
    return s.e * shape.layers * shape.width * (shape.queries + 2 * shape.keys + 2 * shape.hidden)


def sampling(shape: Shape, s: Settings, r: Sampled) -> float:
    """The pass over the prompts that are let in together, or a step of all rows, whichever is larger."""
    slots = -(-r.rows // r.lanes)
    prefill = forward_moving(shape, s, slots * r.prompt) if shape.lean else 0.0
    scores = r.rows * shape.heads * (r.prompt + r.answer) * (2 * s.e + s.wide)
    read = min(shape.vocabulary, LARGE)
    logits = r.rows * read * (s.e + s.wide + 8) + 2 * s.e * r.rows * shape.width
    return max(prefill, scores + forward_moving(shape, s, r.rows), logits)


def rollout(roles: list[Role], s: Settings, r: Sampled) -> Parts:
    """The peak while answers are drawn: no gradients, but all that is held, and the stores."""
    at_rest = held(roles, s)
    shape = roles[0].shape
    drawn = 24.0 * max(r.total, r.rows) * r.answer
    return replace(at_rest, cache=stores(shape, s, r), sampling=fused(shape, s) + sampling(shape, s, r) + drawn)
