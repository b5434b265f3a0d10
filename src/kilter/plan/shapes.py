"""A model's sizes from its configuration alone: no weight is read or made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families with a lean forward (`models.lean`), whose sizes are worked out in closed form."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """What a decoder is made of; parameter counts are of one block where they say so."""

    family: str
    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    hidden: int
    """Width of the feed-forward layers."""
    vocabulary: int
    context: int
    linears: tuple[tuple[int, int], ...]
    """(outputs, inputs) of every linear layer of one block, GPT-2's with a transposed weight among them."""
    block_rest: int
    """Parameters of one block that are in no linear layer's weight: norms and biases."""
    embedding: int
    tail: int
    """Parameters behind the last block, the head apart."""
    tied: bool
    """The head is the embedding."""
    head_norms: bool = False
    """Queries and keys are normalised head by head."""
    names: tuple[str, ...] = ()
    """The last name of each of `linears`."""

    @property
    def lean(self) -> bool:
        """Whether the lean forward and the sampler with preallocated stores take it."""
        return self.family in FAMILIES

    @property
    def queries(self) -> int:
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        return self.key_heads * self.head_width

    @property
    def block_linear(self) -> int:
        """Parameters in the linear layers of one block."""
        return sum(o * i for o, i in self.linears)

    @property
    def trunk(self) -> int:
        """Parameters of everything but the head."""
        return self.embedding + self.layers * (self.block_linear + self.block_rest) + self.tail

    @property
    def head(self) -> int:
        """Parameters of a head of its own; none where it is tied."""
        return 0 if self.tied else self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """Of the whole language model, a tied head once."""
        return self.trunk + self.head

    def adapted(self, targets: Collection[str] = ()) -> list[tuple[int, int]]:
        """(outputs, inputs) of one block's linear layers of these last names; without names, of all."""
        named = zip(self.names, self.linears, strict=True)
        return [size for name, size in named if name in targets] if targets else list(self.linears)

    def adapter(self, rank: int, layers: int | None = None, targets: Collection[str] = ()) -> int:
        """Parameters of a LoRA adapter on linear layers of all blocks, or of `layers` of them."""
        return (self.layers if layers is None else layers) * rank * sum(o + i for o, i in self.adapted(targets))


def shape_of(config: Any) -> Shape:
    """The shape of a transformers configuration."""
    return _llama(config) if config.model_type in FAMILIES else _by_module(config)


def _llama(c: Any) -> Shape:
    width, heads = int(c.hidden_size), int(c.num_attention_heads)
    groups = int(getattr(c, "num_key_value_heads", None) or heads)
    head_width = int(getattr(c, "head_dim", None) or width // heads)
    hidden, queries, keys = int(c.intermediate_size), heads * head_width, groups * head_width
    every = bool(getattr(c, "attention_bias", False))
    bias = queries + 2 * keys if c.model_type == "qwen2" or every else 0
    bias += width if every else 0
    bias += 2 * hidden + width if getattr(c, "mlp_bias", False) else 0
    head_norms = c.model_type == "qwen3"
    attention = ((queries, width), (keys, width), (keys, width), (width, queries))
    return Shape(
        family=str(c.model_type),
        width=width,
        layers=int(c.num_hidden_layers),
        heads=heads,
        key_heads=groups,
        head_width=head_width,
        hidden=hidden,
        vocabulary=int(c.vocab_size),
        context=_context(c),
        linears=(*attention, (hidden, width), (hidden, width), (width, hidden)),
        block_rest=2 * width + bias + (2 * head_width if head_norms else 0),
        embedding=int(c.vocab_size) * width,
        tail=width,
        tied=bool(c.tie_word_embeddings),
        head_norms=head_norms,
        names=PROJECTIONS,
    )


def _context(c: Any) -> int:
    return int(getattr(c, "max_position_embeddings", None) or getattr(c, "n_positions", None) or 1024)


def _by_module(c: Any) -> Shape:
    """Any other family: its modules are made without weights and counted."""
    import torch
    from transformers import AutoModelForCausalLM

    from kilter.models.checkpointing import blocks
    from kilter.models.lora import is_linear
    from kilter.models.lora import shape_of as size_of

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(c, trust_remote_code=False)
    found = blocks(model.base_model)
    first = found[0]
    named = [(n.rpartition(".")[2], size_of(m)) for n, m in first.named_modules() if is_linear(m)]
    linears = tuple(size for _, size in named)
    embedding = model.get_input_embeddings().weight.numel()
    whole = sum(p.numel() for p in model.base_model.parameters())
    block = sum(p.numel() for p in found.parameters()) // len(found)
    head = model.get_output_embeddings().weight
    width = int(model.get_input_embeddings().weight.shape[1])
    heads = int(getattr(c, "num_attention_heads", 1))
    groups = int(getattr(c, "num_key_value_heads", None) or heads)
    head_width = int(getattr(c, "head_dim", None) or width // heads)
    return Shape(
        family=str(c.model_type),
        width=width,
        layers=len(found),
        heads=heads,
        key_heads=groups,
        head_width=head_width,
        hidden=_hidden(c, width),
        vocabulary=int(head.shape[0]),
        context=_context(c),
        linears=linears,
        block_rest=block - sum(o * i for o, i in linears),
        embedding=embedding,
        tail=whole - embedding - block * len(found),
        tied=head is model.get_input_embeddings().weight,
        names=tuple(name for name, _ in named),
    )


def _hidden(c: Any, width: int) -> int:
    for name in ("intermediate_size", "n_inner", "ffn_dim"):
        if getattr(c, name, None):
            return int(getattr(c, name))
    return 4 * width
