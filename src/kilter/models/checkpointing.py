"""Gradient checkpointing that remembers who was playing (Chen et al. 2016, arXiv:1604.06174).

A block's activations are thrown away and computed again in the backward pass. By then another role may have run through
the same backbone, or the backward may run on a thread of its own; so the role of the forward is captured with the call
and entered again for the recomputation. transformers' own flag knows nothing of roles and is never used.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kilter.errors import RecipeError
from kilter.models.lora import current_role, playing


def run(fn: Callable[..., Any], *tensors: Any, **named: Any) -> Any:
    """fn(*tensors), its activations recomputed in the backward pass under the role that is current now.

    There is no dropout anywhere, so no random state is kept.
    """
    role = current_role()

    def again(*given: Any, **others: Any) -> Any:
        with playing(role):
            return fn(*given, **others)

    return checkpoint(again, *tensors, use_reentrant=False, preserve_rng_state=False, **named)


def blocks(trunk: Any) -> nn.ModuleList:
    """The decoder blocks of a trunk, whatever its family calls them."""
    depth = trunk.config.num_hidden_layers
    for _, module in trunk.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise RecipeError(
        f"{type(trunk).__name__} has no list of {depth} blocks that kilter knows; leave checkpointing off"
    )


def enable(trunk: Any) -> None:
    """Checkpoint every block of a trunk, in training and evaluation mode alike."""
    for block in blocks(trunk):
        slot = "uncut" if "uncut" in vars(block) else "forward"  # a cut trunk (models/trunk.py) calls its blocks itself
        setattr(block, slot, MethodType(_forward, block))
    trunk.kilter_checkpointing = True


def enabled(trunk: Any) -> bool:
    """Whether the blocks of a trunk are to be checkpointed."""
    return bool(getattr(trunk, "kilter_checkpointing", False))


def _forward(block: Any, *given: Any, **named: Any) -> Any:
    """A block's forward; one that fills a cache, or needs no gradient, runs once and as it is."""
    plain = MethodType(type(block).forward, block)
    if not torch.is_grad_enabled() or named.get("past_key_values") is not None:
        return plain(*given, **named)
    return run(plain, *given, **named)
