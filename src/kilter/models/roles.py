"""Actors: the models that a method needs, each in its role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from kilter.data.render import check_tokenizer
from kilter.errors import RecipeError
from kilter.models import load, lora

if TYPE_CHECKING:  # the contract stands in a room above this one; only its names are needed here
    from kilter.methods import Method, Training

SOURCES = {"policy": "model", "reference": "model", "reward": "reward", "value": "value"}
"""Which config field names the folder of an actor; a reward model in training starts from `model`."""


@dataclass
class Actors:
    """What a method's functions receive: its models by role, the tokenizer, its configuration and where it is."""

    config: Any
    tokenizer: Any
    seed: int
    stage: str
    policy: Any = None
    reference: Any = None
    reward: Any = None
    value: Any = None
    notes: dict[str, Any] = field(default_factory=dict)
    """What the reward model noted about itself."""

    def __getitem__(self, role: str) -> Any:
        return getattr(self, role)


def device_for(config: Training) -> str:
    """The device a configuration asks for; `auto` takes a GPU when there is one."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def roles_of(table: Mapping[str, str] | Callable[[Any], Mapping[str, str]], config: Any) -> Mapping[str, str]:
    """A method's NEEDS or PARAMS; where it depends on the configuration, it is a function of it."""
    return table(config) if callable(table) else table


def source_of(role: str, method: Method, config: Training) -> str:
    """The folder or hub id that an actor is loaded from."""
    first = next(iter(roles_of(method.PARAMS, config)))
    if role.partition("-")[0] == first:  # further members of an ensemble are `reward-2`, `reward-3` and so on
        return config.model
    name = getattr(config, SOURCES[role], "")
    return str(name or getattr(config, "reward", "") or config.model)


def load_actors(method: Method, config: Training, seed: int, stage: str) -> Actors:
    """Load every model a method needs; those that learn get their gradients (all weights, or LoRA's)."""
    tokenizer = load.load_tokenizer(config.model)
    check_tokenizer(tokenizer, config.model)
    actors = Actors(config, tokenizer, seed, stage)
    device = device_for(config)
    learning = roles_of(method.PARAMS, config)
    for role, kind in roles_of(method.NEEDS, config).items():
        name = source_of(role, method, config)
        if getattr(config, "scratch", False):
            model = load.fresh(name, seed, config.dtype, device)
        else:
            model = load.load(name, kind, config.dtype, device)
        _check_vocabulary(model, tokenizer, name)
        if name != config.model and load.load_tokenizer(name).get_vocab() != tokenizer.get_vocab():
            raise RecipeError(
                f"stage {stage}: the {role} model {name} has another tokenizer than {config.model}; it would read "
                "other words than the policy writes. Use models that share one tokenizer"
            )
        learns = role in learning
        model.requires_grad_(learns and not config.lora_rank)
        if learns and config.lora_rank:
            lora.attach(model, config.lora_rank, config.lora_alpha, (seed, stage, role))
        if role == "reward" and not learns:
            actors.notes = load.read_notes(name)
        setattr(actors, role, model)
    return actors


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise RecipeError(
            f"the tokenizer has {len(tokenizer)} tokens but {name} has embeddings for {rows}; "
            "use the tokenizer the model was trained with, or resize the embeddings and save the model"
        )
