"""Optimisers and schedules: AdamW for everything, or Muon for the hidden matrices; all state is by parameter name."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from kilter.methods import Method, Training
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


class Optimizers:
    """One optimiser per learning actor and kind of parameter, stepped together."""

    def __init__(self, method: Method, actors: Actors, config: Training) -> None:
        self.names: dict[nn.Parameter, str] = {}
        self.by_actor: dict[str, list[nn.Parameter]] = {}
        self.parts: list[tuple[torch.optim.Optimizer, float]] = []
        for role, rate in params_of(method, config).items():
            named = [(f"{role}.{n}", p) for n, p in actors[role].named_parameters() if p.requires_grad]
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
            self._add(torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.95), fused=True), lr)

    def _add(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        self.parts.append((optimizer, lr))

    def step(self, factor: float) -> None:
        """One step at `factor` times each peak learning rate."""
        for optimizer, lr in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer, _ in self.parts:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of optimiser state under `parameter|key`."""
        return {
            f"{self.names[cast(nn.Parameter, p)]}|{key}": value
            for optimizer, _ in self.parts
            for p, entries in optimizer.state.items()
            for key, value in entries.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put saved state back."""
        params = {name: p for p, name in self.names.items()}
        owner = {p: o for o, _ in self.parts for g in o.param_groups for p in g["params"]}
        for key, value in tensors.items():
            name, _, entry = key.rpartition("|")
            p = params[name]
            owner[p].state[p][entry] = value.to(p.device) if value.ndim else value


def _is_hidden_matrix(name: str, p: nn.Parameter) -> bool:
    return p.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "score", "classifier", "wte", "wpe"))
