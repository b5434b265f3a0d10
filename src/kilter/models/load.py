"""Models in and out of plain Hugging Face folders, with dropout off and remote code off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils import logging as hf_logging

from kilter.data import render
from kilter.errors import RecipeError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
KIND = {
    "causal": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
    "value": AutoModelForTokenClassification,
}
DROPOUTS = (
    "attention_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "classifier_dropout",
    "hidden_dropout_prob",
    "dropout",
)

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()


def check_model(name: str) -> None:
    """Refuse a local folder that is not a model, before anything else is loaded."""
    path = Path(name)
    if path.exists():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise RecipeError(f"{name} is not a model folder: it has no config.json (a Hugging Face folder has one)")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise RecipeError(f"no model folder at {name}; give a Hugging Face folder or a hub id such as 'org/name'")


def base_of(name: str) -> str:
    """The model that a PEFT adapter folder corrects; any other name stands for itself."""
    path = Path(name) / "adapter_config.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]) if path.is_file() else name


def load_tokenizer(name: str) -> Any:
    """The tokenizer beside a model (or beside an adapter's base)."""
    check_model(name)
    name = name if (Path(name) / "tokenizer_config.json").is_file() else base_of(name)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"no tokenizer can be loaded from {name}: {_first_line(error)}") from error


def check_base(name: str, chat: bool) -> None:
    """Refuse a folder that training can't start from: no model, or a tokenizer that lacks something."""
    check_model(name)
    _config(name)
    tokenizer = load_tokenizer(name)
    render.check_tokenizer(tokenizer, name)
    if chat:
        render.check_template(tokenizer, name)


def context_of(name: str) -> int:
    """How many tokens the model was made for."""
    check_model(name)
    config = _config(name)
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1024)


def _config(name: str) -> Any:
    name = base_of(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{name} can't be loaded as a model: {_first_line(error)}") from error
    for dropout in DROPOUTS:
        if getattr(config, dropout, None):
            setattr(config, dropout, 0.0)
    return config


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def load(name: str, kind: str, dtype: str = "float32", device: str = "cpu") -> Any:
    """A model of `kind` (causal, reward, value) from a folder or hub id; a missing head starts at zero.

    A PEFT adapter folder is loaded as its base with the adapter merged in.
    """
    check_model(name)
    if (Path(name) / "adapter_config.json").is_file():
        from kilter.models.lora import load_merged

        return load_merged(name, kind, dtype, device)
    config = _config(name)
    if kind != "causal":
        config.num_labels = 1
        config.problem_type = None
    try:
        model, report = KIND[kind].from_pretrained(
            name, config=config, dtype=DTYPES[dtype], trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RecipeError(f"{name} can't be loaded as a {kind} model: {_first_line(error)}") from error
    head = scalar_head(model) if kind != "causal" else None
    missing = set(report["missing_keys"])
    if head is not None:
        made_up = {k for k in missing if k.startswith(head + ".")}
        with torch.no_grad():
            for parameter in (model.get_parameter(k) for k in made_up):
                parameter.zero_()
        missing -= made_up
    if missing:
        raise RecipeError(f"{name} lacks weights that a {kind} model of its kind needs, e.g. {sorted(missing)[0]}")
    return model.to(device).eval()


def fresh(name: str, seed: int, dtype: str = "float32", device: str = "cpu") -> Any:
    """A causal model with random weights from a folder's config.json."""
    check_model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(name), dtype=DTYPES[dtype], trust_remote_code=False)
    return model.to(device).eval()


def scalar_head(model: nn.Module) -> str:
    """The name of a one-label model's head: `score` in most families, `classifier` in some."""
    for name in ("score", "classifier"):
        if hasattr(model, name):
            return name
    raise RecipeError(f"{type(model).__name__} has neither a `score` nor a `classifier` head")


def backbone(model: Any) -> nn.Module:
    """The trunk that turns ids into hidden states."""
    trunk: nn.Module = model.base_model
    return trunk


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a plain Hugging Face folder: weights as safetensors, configuration, tokenizer."""
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def read_notes(folder: str | Path) -> dict[str, Any]:
    """What kilter noted beside a model (a reward model's mean and spread), or nothing."""
    path = Path(folder) / "kilter.json"
    notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return notes
