"""One backbone, many roles: a view is an actor that owns its adapters and its head and borrows everything else.

    policy     the start, frozen + an adapter that learns       the language head of the backbone
    reference  the start, frozen                                the language head of the backbone
    reward     a reward adapter, frozen                         its own one-label head
    value      what it starts from, frozen + an adapter         its own one-label head

The start is the backbone itself, or the PEFT folder (or chain of them) that training began from; it is never merged in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kilter.errors import RecipeError
from kilter.models import classes, load, lora, quant
from kilter.models.trunk import Split

SHARD_BYTES = 2 << 30
"""Weights of a merged model that are in memory at once, beside the model itself."""
TASKS = {"causal": "CAUSAL_LM", "reward": "SEQ_CLS", "value": "TOKEN_CLS"}


class ScalarHead(nn.Linear):
    """A one-label head in float32 or wider, whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


class RoleTrunk:
    """The shared trunk as one role sees it: calling it names the role; all else is the trunk's own."""

    def __init__(self, view: View) -> None:
        self.view = view

    @property
    def trunk(self) -> Any:
        """The trunk itself, or both halves of it when it is cut."""
        return self.view.split or self.view.model.base_model

    def __call__(self, *given: Any, **named: Any) -> Any:
        with lora.playing(self.view.role):
            return self.trunk(*given, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "view":  # not there yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.trunk, name)


class View:
    """An actor in one role of a shared model; what reads models (`logprobs`, `sample`) takes it for one."""

    def __init__(
        self, model: Any, role: str, kind: str, base: str, head: nn.Module | None = None, name: str = ""
    ) -> None:
        self.model, self.role, self.kind, self.base = model, role, kind, base
        self.head_name = name
        """What the family calls a one-label head: `score` or `classifier`; empty for a language model."""
        self.split: Split | None = None
        self.base_model = RoleTrunk(self)
        if head is not None:
            setattr(self, name, head)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def head(self) -> nn.Module | None:
        """The one-label head, when it has one."""
        return getattr(self, self.head_name) if self.head_name else None

    def get_output_embeddings(self) -> Any:
        return self.model.get_output_embeddings()

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The backbone's own weights first, then this role's adapters and head; no other role's."""
        yield from backbone_parameters(self.model)
        for name, layer in lora.adapted(self.model).items():
            for number, adapter in enumerate(layer.stack(self.role)):
                yield f"{name}.lora_A.{number}", adapter.lora_A
                yield f"{name}.lora_B.{number}", adapter.lora_B
        if self.head is not None:
            for name, p in self.head.named_parameters():
                yield f"{self.head_name}.{name}", p

    def parameters(self) -> Iterator[nn.Parameter]:
        for _, p in self.named_parameters():
            yield p

    def head_tensors(self) -> dict[str, Tensor]:
        """The one-label head's tensors by the names they have on disk."""
        return {} if self.head is None else {f"{self.head_name}.{n}": p for n, p in self.head.named_parameters()}


def backbone_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What the roles of a model share, by its names on disk."""
    seen: set[int] = set()
    for layer, module in model.named_modules():
        for name, p in module.named_parameters(layer, recurse=False):
            if not isinstance(module, lora.Adapter) and id(p) not in seen:
                seen.add(id(p))
                yield name.replace(".base.", "."), p


def new_head(model: Any, kind: str, dtype: torch.dtype, found: Mapping[str, Tensor]) -> tuple[str, nn.Module]:
    """The one-label head that the model's family has for `kind`, from saved tensors; what is not saved is zero."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    with torch.device("meta"):
        shell = classes.blank(config, kind)
    name = load.scalar_head(shell)
    plain = getattr(shell, name)
    if not isinstance(plain, nn.Linear):
        raise RecipeError(f"{type(shell).__name__} has a head that is no linear layer; set lora_rank to 0")
    device = model.get_input_embeddings().weight.device
    head = ScalarHead(plain.in_features, 1, bias=plain.bias is not None, device=device, dtype=dtype)
    with torch.no_grad():
        for parameter, p in head.named_parameters():
            p.zero_()
            if f"{name}.{parameter}" in found:
                p.copy_(found[f"{name}.{parameter}"].reshape(p.shape))
    return name, head


def save_view(view: View, tokenizer: Any, folder: Path) -> None:
    """Write a role's adapters and head as a PEFT folder over the shared model, and the tokenizer."""
    base = str(Path(view.base).resolve()) if Path(view.base).exists() else view.base
    lora.save_adapter(view.model, view.role, view.head_tensors(), TASKS[view.kind], base, folder)
    tokenizer.save_pretrained(folder)


def save_merged(view: View, tokenizer: Any, folder: Path) -> None:
    """Write a role as a plain Hugging Face folder, its adapters added in.

    The weights are merged one by one on their way to the disk, a shard at a time: the shared model stays as it is, and
    no second one is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    names = _stored_names(view)
    for name, size in names.items():
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    files = [
        "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for file, shard in zip(files, shards, strict=True):
        save_file({n: _stored(view, n).cpu().contiguous() for n in shard}, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(names.values())},
            "weight_map": {n: f for f, shard in zip(files, shards, strict=True) for n in shard},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    _save_rest(view, tokenizer, folder)


def _stored_names(view: View) -> dict[str, int]:
    """Every tensor of the folder and its size in bytes; tied ones once, another kind's head not at all."""
    heads = () if view.kind == "causal" else lora.HEADS
    adapted = set(lora.adapted(view.model)) | {n for n, m in view.model.named_modules() if _four_bit(m)}
    width = torch.finfo(_dtype(view)).bits // 8
    names = {}
    for name, p in backbone_parameters(view.model):
        layer, _, leaf = name.rpartition(".")
        if name.split(".")[0] in heads:
            continue
        whole = layer in adapted and leaf == "weight"
        names[name] = _numel(view, layer) * width if whole else p.numel() * p.element_size()
    names |= {n: b.numel() * b.element_size() for n, b in view.model.state_dict().items() if n in _buffers(view)}
    return names | {n: p.numel() * p.element_size() for n, p in view.head_tensors().items()}


def _buffers(view: View) -> set[str]:
    kept = set(view.model.state_dict())
    return {n for n, _ in view.model.named_buffers() if n in kept}


def _dtype(view: View) -> torch.dtype:
    dtype: torch.dtype = view.get_input_embeddings().weight.dtype
    return dtype


def _four_bit(module: Any) -> bool:
    return bool(getattr(module, "four_bit", False))


def _numel(view: View, layer: str) -> int:
    outputs, inputs = lora.shape_of(_plain(view.model.get_submodule(layer)))
    return outputs * inputs


def _plain(module: Any) -> Any:
    return module.base if isinstance(module, lora.LoraLinear) else module


@torch.no_grad()
def _stored(view: View, name: str) -> Tensor:
    """One tensor of the merged folder."""
    heads = view.head_tensors()
    if name in heads:
        return heads[name].detach().to(_dtype(view))
    layer, _, leaf = name.rpartition(".")
    module = view.model.get_submodule(layer)
    plain = _plain(module)
    found = getattr(plain, leaf)
    if leaf != "weight" or not lora.is_linear(plain):
        return found.detach()  # type: ignore[no-any-return]
    weight: Tensor = plain.dequantised() if isinstance(plain, quant.Linear4bit) else found.detach()
    stack: Sequence[lora.Adapter] = module.stack(view.role) if isinstance(module, lora.LoraLinear) else ()
    if stack:
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight = sum((lora.correction(plain, a).to(wide) for a in stack), weight.to(wide)).to(weight.dtype)
    return weight


def _save_rest(view: View, tokenizer: Any, folder: Path) -> None:
    """Configuration, generation settings and tokenizer, as transformers would write them for this kind."""
    config = copy.deepcopy(view.config)
    with torch.device("meta"):
        if view.kind != "causal":
            config.num_labels = 1
        config.architectures = [type(classes.blank(config, view.kind)).__name__]
    config.dtype = _dtype(view)
    load.tell_tokens(config, tokenizer)
    config.save_pretrained(folder)
    settings = getattr(view.model, "generation_config", None)
    if view.kind == "causal" and settings is not None:
        load.tell_tokens(settings, tokenizer)
        settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
