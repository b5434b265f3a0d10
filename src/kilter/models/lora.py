"""LoRA (Hu et al. 2021, arXiv:2106.09685): W x + (alpha / r) B A x, with W frozen; on disk a PEFT folder.

A thin layer of our own: no global switch says which adapter is active, so nothing can flip it behind a gradient
checkpoint's back. B starts at zero, so an adapter changes nothing before its first step.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kilter.data.streams import draw
from kilter.errors import RecipeError

HEADS = ("lm_head", "score", "classifier", "embed_out")


class LoraLinear(nn.Module):
    """A frozen linear layer with a learned low-rank correction."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, key: tuple[object, ...]) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        w = base.weight
        start = draw(*key).uniform(-1, 1, (rank, base.in_features)) / base.in_features**0.5
        self.lora_A = nn.Parameter(torch.from_numpy(start).to(w.device, w.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=w.device, dtype=w.dtype))

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self.base(x)
        return plain + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def merged(self) -> nn.Linear:
        """The plain layer with the correction added in."""
        with torch.no_grad():
            self.base.weight += self.scale * (self.lora_B @ self.lora_A)
        return self.base


def attach(model: nn.Module, rank: int, alpha: float, key: tuple[object, ...]) -> None:
    """Put an adapter on every linear layer but the heads; a one-label head learns in full."""
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if all(n.rpartition(".")[2] in HEADS for n, _ in linear):
        raise RecipeError(f"{type(model).__name__} has no nn.Linear layers below its head for LoRA; set lora_rank to 0")
    for name, layer in linear:
        parent, _, leaf = name.rpartition(".")
        if leaf in HEADS:
            layer.requires_grad_(leaf in ("score", "classifier"))
            continue
        setattr(model.get_submodule(parent), leaf, LoraLinear(layer, rank, alpha, (*key, name)))


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapters of a model by the name of the layer they correct."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLinear)}


def merge_copy(model: nn.Module) -> Any:
    """A copy of the model with every adapter merged in: a plain Hugging Face model again."""
    plain = copy.deepcopy(model)
    for name, layer in adapters(plain).items():
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, layer.merged())
    return plain


def save_adapter(model: Any, base: str, rank: int, alpha: float, folder: Path) -> None:
    """Write the adapters (and a trained head) as a PEFT folder."""
    found = adapters(model)
    tensors = {}
    for name, layer in found.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach().contiguous()
    heads = [n for n in ("score", "classifier") if hasattr(model, n)]
    for head in heads:
        for name, p in getattr(model, head).named_parameters():
            tensors[f"base_model.model.{head}.{name}"] = p.detach().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    task = "CAUSAL_LM" if not heads else "TOKEN_CLS" if "TokenClassification" in type(model).__name__ else "SEQ_CLS"
    config = {
        "peft_type": "LORA",
        "task_type": task,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({n.rpartition(".")[2] for n in found}),
        "modules_to_save": heads or None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_merged(folder: str, kind: str, dtype: str, device: str) -> Any:
    """The base of a PEFT folder with its adapter merged in."""
    from kilter.models.load import load

    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise RecipeError(f"{folder} holds a {config.get('peft_type')} adapter; only LORA adapters can be loaded")
    unknown = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")
    special = [k for k in unknown if config.get(k)]
    if special:
        raise RecipeError(f"{folder} uses {special[0]}, which can't be loaded; merge it with PEFT and give that")
    model = load(config["base_model_name_or_path"], kind, dtype, device)
    tensors = load_file(Path(folder) / "adapter_model.safetensors", device=device)
    scale = config["lora_alpha"] / config["r"]
    prefix, unused = "base_model.model.", set(tensors)
    with torch.no_grad():
        for key in tensors:
            name = key.removeprefix(prefix)
            if name.endswith(".lora_A.weight"):
                layer = name.removesuffix(".lora_A.weight")
                other = f"{prefix}{layer}.lora_B.weight"
                weight = model.get_submodule(layer).weight
                weight += scale * (tensors[other].to(weight) @ tensors[key].to(weight))
                unused -= {key, other}
            elif name.split(".")[0] in ("score", "classifier") and kind != "causal":
                model.get_parameter(name).copy_(tensors[key])
                unused.discard(key)
    heads = ("score", "classifier") if kind == "causal" else ("lm_head",)
    unused = {k for k in unused if not k.removeprefix(prefix).startswith(heads)}
    if unused:
        raise RecipeError(f"{folder} has weights that don't fit its base, e.g. {sorted(unused)[0]}")
    return model
