"""LoRA (Hu et al. 2021, arXiv:2106.09685): W x + Σ (alpha / r) B A x, with W frozen; on disk a PEFT folder.

A thin layer of our own that holds the adapters of several roles. Which of them counts is an argument of the call:
`acting(view)` sets the role for the duration of a forward, a gradient checkpoint captures it for its recomputation
(models/checkpointing.py), and a call that names no role is refused. Nothing is ever switched on or off, so nothing can
be flipped behind a gradient's back. B starts at zero, so an adapter changes nothing before its first step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from kilter.data.streams import draw
from kilter.errors import RecipeError, nearest

HEADS = ("lm_head", "score", "classifier", "embed_out")
PREFIX = "base_model.model."
"""What PEFT puts before every name of the model that an adapter corrects."""
UNREADABLE = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")

_ROLE: ContextVar[str | None] = ContextVar("role", default=None)


def current_role() -> str | None:
    """The role whose adapters count now."""
    return _ROLE.get()


@contextmanager
def playing(role: str | None) -> Iterator[None]:
    """Make `role` the current one; a checkpoint's recomputation enters the role that its forward had."""
    token = _ROLE.set(role)
    try:
        yield
    finally:
        _ROLE.reset(token)


def acting(model: Any) -> AbstractContextManager[None]:
    """Make a view's role the current one; for a plain model there is nothing to do."""
    role = getattr(model, "role", None)
    return nullcontext() if role is None else playing(role)


class Adapter(nn.Module):
    """One low-rank correction: scale · B A x, computed in the number type of x."""

    def __init__(self, lora_A: Tensor, lora_B: Tensor, scale: float) -> None:
        super().__init__()
        self.lora_A, self.lora_B, self.scale = nn.Parameter(lora_A), nn.Parameter(lora_B), scale

    @classmethod
    def fresh(cls, layer: nn.Module, rank: int, alpha: float, key: tuple[object, ...], dtype: torch.dtype) -> Adapter:
        """A correction of zero; A is drawn by its key."""
        inputs, outputs = shape_of(layer)[::-1]
        device = next(layer.parameters()).device
        start = torch.from_numpy(draw(*key).uniform(-1, 1, (rank, inputs)) / inputs**0.5)
        return cls(start.to(device, dtype), torch.zeros(outputs, rank, device=device, dtype=dtype), alpha / rank)

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.linear(x, self.lora_A.to(x.dtype))
        return F.linear(self.scale * narrow, self.lora_B.to(x.dtype))

    def product(self) -> Tensor:
        """What it adds to the weight, in float32 or wider."""
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.scale * (self.lora_B.detach().to(wide) @ self.lora_A.detach().to(wide))


class LoraLinear(nn.Module):
    """A frozen linear layer and each role's stack of corrections: the frozen ones it starts from, then its own."""

    def __init__(self, base: nn.Module, roles: Mapping[str, Sequence[Adapter]]) -> None:
        super().__init__()
        self.base = base
        self.roles = nn.ModuleDict({role: nn.ModuleList(stack) for role, stack in roles.items()})

    def stack(self, role: str | None) -> Sequence[Adapter]:
        """The adapters of a role."""
        if role is None or role not in self.roles:
            raise RuntimeError(
                f"a layer that is shared by the roles {', '.join(self.roles)} was called as {role}; call the model "
                "through its view, or within `acting(view)`"
            )
        stack: Any = self.roles[role]
        return stack  # type: ignore[no-any-return]

    @property
    def weight(self) -> Tensor:
        """Refused: who multiplies by the weight itself would pass the corrections by."""
        raise RecipeError(
            "this model's forward reads the weights of some of its linear layers itself, where an adapter would have "
            "no effect; name the other layers in lora_targets (q_proj v_proj, say), or set lora_rank to 0"
        )

    def forward(self, x: Tensor) -> Tensor:
        adapters = self.stack(current_role())
        y: Tensor = self.base(x)
        for adapter in adapters:
            y = y + adapter(x)
        return y


def shape_of(layer: Any) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer, 4-bit ones and GPT-2's included."""
    if isinstance(layer, Conv1D):
        return layer.weight.shape[1], layer.weight.shape[0]
    return layer.out_features, layer.in_features


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA can correct a module: a linear layer, plain, in 4 bits, or GPT-2's with its weight transposed."""
    return isinstance(module, (nn.Linear, Conv1D)) or bool(getattr(module, "four_bit", False))


def correction(layer: nn.Module, adapter: Adapter) -> Tensor:
    """What an adapter adds to the weight of a layer, lying as that weight lies."""
    return adapter.product().T if isinstance(layer, Conv1D) else adapter.product()


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that adapters go on, by name: every linear one but the heads; adapted ones as they were before."""
    found = {n.removesuffix(".base"): m for n, m in model.named_modules() if is_linear(m)}
    return {n: m for n, m in found.items() if n.rpartition(".")[2] not in HEADS}


def attach(model: nn.Module, roles: Mapping[str, Mapping[str, Sequence[Adapter]]]) -> None:
    """Give every role its adapters by the name of the layer, all at once: each adapted layer knows each role."""
    for name in {n: None for stacks in roles.values() for n in stacks}:
        parent, _, leaf = name.rpartition(".")
        layer = LoraLinear(model.get_submodule(name), {r: stacks.get(name, ()) for r, stacks in roles.items()})
        setattr(model.get_submodule(parent), leaf, layer)


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLinear)}


def fresh_adapters(
    model: nn.Module,
    rank: int,
    alpha: float,
    key: tuple[object, ...],
    dtype: torch.dtype,
    within: Sequence[str] = ("",),
    targets: Sequence[str] = (),
) -> dict[str, Adapter]:
    """A new correction for every linear layer whose name starts with one of `within`, and ends in one of `targets`."""
    known = linear_layers(model)
    if not known:
        raise RecipeError(f"{type(model).__name__} has no linear layers below its head for LoRA; set lora_rank to 0")
    leaves = sorted({n.rpartition(".")[2] for n in known})
    for target in targets:
        if target not in leaves:
            raise RecipeError(
                f"lora_targets names {target!r}{nearest(target, leaves)}; the linear layers of {type(model).__name__} "
                f"are {', '.join(leaves)}"
            )
    layers = {
        n: m
        for n, m in known.items()
        if n.startswith(tuple(within)) and (not targets or n.rpartition(".")[2] in targets)
    }
    return {n: Adapter.fresh(m, rank, alpha, (*key, n), dtype) for n, m in layers.items()}


@dataclass(frozen=True)
class AdapterFile:
    """What a PEFT folder holds."""

    folder: str
    base: str
    scale: float
    layers: dict[str, tuple[Tensor, Tensor]]
    """Layer -> (A, B)."""
    head: dict[str, Tensor]
    """A one-label head's parameters by their full name, e.g. `score.weight`."""

    def adapters(self, model: nn.Module, dtype: torch.dtype) -> dict[str, Adapter]:
        """Its corrections, frozen, for the layers of a model."""
        known = linear_layers(model)
        strange = sorted(set(self.layers) - set(known))
        if strange:
            raise RecipeError(f"{self.folder} has weights that don't fit its base, e.g. {PREFIX}{strange[0]}")
        device = next(model.parameters()).device
        return {
            name: Adapter(a.to(device, dtype), b.to(device, dtype), self.scale).requires_grad_(False)
            for name, (a, b) in self.layers.items()
        }


def read_adapter(folder: str | Path) -> AdapterFile:
    """Read a PEFT folder; what can't be applied exactly is refused by name."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise RecipeError(f"{folder} holds a {config.get('peft_type')} adapter; only LORA adapters can be loaded")
    special = [k for k in UNREADABLE if config.get(k)]
    if special:
        raise RecipeError(f"{folder} uses {special[0]}, which can't be loaded; merge it with PEFT and give that")
    try:
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
    except OSError as error:
        raise RecipeError(f"{folder} has an adapter_config.json but no readable adapter_model.safetensors") from error
    layers, head = {}, {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        other = key.replace(".lora_A.", ".lora_B.")
        if name.endswith(".lora_A.weight") and other in tensors:
            layers[name.removesuffix(".lora_A.weight")] = (tensor, tensors[other])
        elif name.split(".")[0] in ("score", "classifier"):
            head[name] = tensor
        elif not name.endswith(".lora_B.weight") and not name.startswith("lm_head."):
            raise RecipeError(f"{folder} has weights that don't fit its base, e.g. {key}")
    return AdapterFile(
        str(folder), str(config["base_model_name_or_path"]), config["lora_alpha"] / config["r"], layers, head
    )


def joined(stack: Sequence[Adapter]) -> tuple[Tensor, Tensor, float]:
    """A stack as one correction (A, B, scale): its ranks side by side, at the last one's scale."""
    scale = stack[-1].scale
    wide = torch.promote_types(stack[-1].lora_A.dtype, torch.float32)
    a = torch.cat([s.lora_A.detach().to(wide) for s in stack], 0)
    b = torch.cat([s.lora_B.detach().to(wide) * (s.scale / scale) for s in stack], 1)
    return a, b, scale


def save_adapter(model: nn.Module, role: str, head: Mapping[str, Tensor], task: str, base: str, folder: Path) -> None:
    """Write one role's corrections, and its head, as a PEFT folder; smaller ranks are filled up with zeros."""
    stacks = {name: layer.stack(role) for name, layer in adapted(model).items()}
    found = {name: joined(stack) for name, stack in stacks.items() if len(stack)}
    rank = max(a.shape[0] for a, _, _ in found.values())
    scale = next(iter(found.values()))[2]
    tensors = {}
    for name, (a, b, own) in found.items():
        missing = rank - a.shape[0]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = F.pad(a, (0, 0, 0, missing)).contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = (F.pad(b, (0, missing)) * (own / scale)).contiguous()
    tensors |= {f"{PREFIX}{name}": p.detach().contiguous() for name, p in head.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.cpu() for n, t in tensors.items()}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": task,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _targets(set(found), set(linear_layers(model))),
        "modules_to_save": sorted({n.split(".")[0] for n in head}) or None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for layer in adapted(model).values()),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _targets(names: set[str], known: set[str]) -> list[str]:
    """The adapted layers by their last names, or by their whole names where only some blocks are adapted."""
    leaves = {n.rpartition(".")[2] for n in names}
    whole = {n for n in known if n.rpartition(".")[2] in leaves} == names
    return sorted(leaves if whole else names)


def merge_file(model: nn.Module, file: AdapterFile, kind: str) -> None:
    """Add a PEFT folder's corrections to a plain model's own weights."""
    with torch.no_grad():
        wide = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        for name, adapter in file.adapters(model, wide).items():
            layer = model.get_submodule(name)
            weight: Any = layer.weight
            weight.copy_(weight.to(wide) + correction(layer, adapter))
        if kind != "causal":
            for name, tensor in file.head.items():
                model.get_parameter(name).copy_(tensor)
