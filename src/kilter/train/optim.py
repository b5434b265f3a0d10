"""Optimisers and schedules: AdamW for everything (in 8 bits if asked), or Muon for the hidden matrices.

All state is by parameter name. Weights of 16 bits have a float32 master each: gradients are added up there, steps are
taken there, and the weight is its rounding.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from kilter.errors import RunError
from kilter.methods import Method, Training
from kilter.models.load import EXACT
from kilter.models.quant import bitsandbytes
from kilter.models.roles import Actors, params_of


def lr_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """What the peak learning rate is multiplied by at an optimiser step."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return max(0.0, 1.0 - done) if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_NMK: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iterations towards the nearest (semi-)orthogonal matrices, a stack at a time (Jordan 2024)."""
    a, b, c = COEFFICIENTS
    x = matrices_NMK
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x.mT if tall else x
    return found


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, its step orthogonalised and scaled by sqrt(max(1, rows / columns)); a shape goes together."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95, ns_steps: int = 4
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "ns_steps": ns_steps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, params in alike.items():
                updates = [self._momentum(p, group["momentum"]) for p in params]
                stack = orthogonalise(torch.stack(updates), group["ns_steps"])
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, stack, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)

    def _momentum(self, p: nn.Parameter, beta: float) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        assert p.grad is not None
        state["momentum"].lerp_(p.grad, 1 - beta)
        return p.grad.lerp(state["momentum"], beta)


@dataclass
class LossScale:
    """What a float16 run multiplies its loss by, so that small gradients survive (arXiv:1710.03740).

    A step whose gradient overflows is skipped and the scale halved; after many good ones it is doubled.
    """

    value: float = 1.0
    good: int = 0
    """Steps since it last changed."""

    GROWTH = 2000
    """Good steps after which the scale is doubled."""

    def skipped(self) -> None:
        """The gradient overflowed."""
        if self.value <= 1.0:
            raise RunError(
                "float16 gradients overflow even with an unscaled loss; the last checkpoint is kept. "
                "Use bfloat16 or float32, or lower lr"
            )
        self.value, self.good = self.value / 2, 0

    def stepped(self) -> None:
        """The step was taken."""
        self.good += 1
        if self.good == self.GROWTH:
            self.value, self.good = self.value * 2, 0


class Optimizers:
    """One optimiser per learning actor and kind of parameter, stepped together."""

    def __init__(self, method: Method, actors: Actors, config: Training) -> None:
        self.names: dict[nn.Parameter, str] = {}
        self.by_actor: dict[str, list[nn.Parameter]] = {}
        """The parameters that are stepped and hold the gradients: an actor's own, or the masters of its 16-bit ones."""
        self.masters: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.parts: list[tuple[torch.optim.Optimizer, float]] = []
        self.scale = LossScale(2.0**16 if config.dtype == "float16" else 1.0)
        for role, rate in params_of(method, config).items():
            learning = [(f"{role}.{n}", p) for n, p in actors[role].named_parameters() if p.requires_grad]
            named = [(n, self._master(p)) for n, p in learning]
            self.names.update({p: n for n, p in named})
            self.by_actor[role] = [p for _, p in named]
            muon = [p for n, p in named if config.optimizer == "muon" and _is_hidden_matrix(n, p)]
            chosen = set(muon)
            rest = [p for _, p in named if p not in chosen]
            if muon:
                self._add(Muon(muon, config.muon_lr, config.weight_decay), config.muon_lr)
            matrices = [p for p in rest if p.ndim >= 2]
            groups = [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            ]
            lr = getattr(config, rate)
            self._add(_adamw([g for g in groups if g["params"]], lr, config.optimizer == "adamw8bit"), lr)

    def _master(self, p: nn.Parameter) -> nn.Parameter:
        """The float32 copy of a 16-bit weight, which takes over its gradient after every backward; else the weight."""
        if p.dtype not in (torch.bfloat16, torch.float16):
            return p
        exact = p.__dict__.pop(EXACT, None)
        master = nn.Parameter(p.detach().float() if exact is None else exact)

        def hand_over(low: Tensor) -> None:
            grad = low.grad
            if grad is not None:
                master.grad = grad.float() if master.grad is None else master.grad.add_(grad)
            low.grad = None

        p.register_post_accumulate_grad_hook(hand_over)
        self.masters.append((p, master))
        return master

    def _add(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        self.parts.append((optimizer, lr))

    def unscale(self) -> None:
        """Take the loss's scale out of the gradients again."""
        if self.scale.value != 1.0:
            for p in self.names:
                if p.grad is not None:
                    p.grad.div_(self.scale.value)

    def step(self, factor: float) -> None:
        """One step at `factor` times each peak learning rate."""
        for optimizer, lr in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for low, master in self.masters:
            low.copy_(master)

    def zero_grad(self) -> None:
        for optimizer, _ in self.parts:
            optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, nn.Parameter]:
        """What training changes, by `role.name`, at full width."""
        return {name: p for p, name in self.names.items()}

    @torch.no_grad()
    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Put saved weights back."""
        for name, p in self.weights().items():
            p.copy_(tensors[name])
        self._round()

    def state(self) -> dict[str, Tensor]:
        """Every entry of optimiser state under `parameter|key`, plain numbers as tensors."""
        return {
            f"{self.names[cast(nn.Parameter, p)]}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for optimizer, _ in self.parts
            for p, entries in optimizer.state.items()
            for key, value in entries.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put saved state back."""
        params = self.weights()
        owner = {p: o for o, _ in self.parts for g in o.param_groups for p in g["params"]}
        for key, value in tensors.items():
            name, _, entry = key.rpartition("|")
            p = params[name]
            plain = value.ndim == 0 and not value.is_floating_point()  # bitsandbytes counts steps in Python
            owner[p].state[p][entry] = value.item() if plain else value.to(p.device)


def _adamw(groups: list[dict[str, Any]], lr: float, eight_bit: bool) -> torch.optim.Optimizer:
    if not eight_bit:
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    optimizer: torch.optim.Optimizer = bitsandbytes("optimizer: adamw8bit").optim.AdamW8bit(
        groups, lr=lr, betas=(0.9, 0.95)
    )
    return optimizer


def _is_hidden_matrix(name: str, p: nn.Parameter) -> bool:
    return p.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "score", "classifier", "wte", "wpe"))
