"""Actors: the models that a method needs, each in its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from kilter.data.render import check_tokenizer
from kilter.errors import RecipeError
from kilter.models import load, lora
from kilter.references import is_model

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
    cache: dict[str, Any] = field(default_factory=dict)
    """What a method opens or works out once in a stage and can work out again: no part of the result."""

    def __getitem__(self, role: str) -> Any:
        return getattr(self, role)


def device_for(config: Training) -> str:
    """The device a configuration asks for; `auto` takes a GPU when there is one."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def needs_of(method: Method, config: Training) -> Mapping[str, str]:
    """The actors that a method needs; where that depends on the configuration, NEEDS is a function of it."""
    return method.NEEDS(config) if callable(method.NEEDS) else method.NEEDS


def params_of(method: Method, config: Training) -> Mapping[str, str]:
    """The actors that learn; where that depends on the configuration, PARAMS is a function of it."""
    return method.PARAMS(config) if callable(method.PARAMS) else method.PARAMS


def source_of(role: str, method: Method, config: Training) -> str:
    """The folder or hub id that an actor is loaded from."""
    first = next(iter(params_of(method, config)))
    if role.partition("-")[0] == first:  # further members of an ensemble are `reward-2`, `reward-3` and so on
        return config.model
    name = getattr(config, SOURCES[role], "")
    if role == "value" and name == "policy":
        return config.model
    reward = getattr(config, "reward", "")
    return str(name or (reward if is_model(reward) else "") or config.model)


def load_actors(method: Method, config: Training, seed: int, stage: str) -> Actors:
    """Load every model a method needs; those that learn get their gradients (all weights, or LoRA's)."""
    tokenizer = load.load_tokenizer(config.model)
    check_tokenizer(tokenizer, config.model)
    actors = Actors(config, tokenizer, seed, stage)
    device = device_for(config)
    params = params_of(method, config)
    for role, kind in needs_of(method, config).items():
        name = source_of(role, method, config)
        if getattr(config, "scratch", False):
            model = load.fresh(name, seed, config.dtype, device)
        else:
            model = load.load(name, kind, config.dtype, device)
        _check_words(actors, model, role, name)
        learns = role in params
        model.requires_grad_(learns and not config.lora_rank)
        if learns and config.lora_rank:
            lora.attach(model, config.lora_rank, config.lora_alpha, (seed, stage, role))
        if role == "reward" and not learns:
            actors.notes = load.read_notes(name)
        setattr(actors, role, model)
    return actors


def load_scorer(actors: Actors, name: str) -> tuple[Any, dict[str, Any]]:
    """A further frozen reward model for these actors, and its notes."""
    model = load.load(name, "reward", actors.config.dtype, device_for(actors.config))
    _check_words(actors, model, "reward", name)
    return model.requires_grad_(False), load.read_notes(name)


def _check_words(actors: Actors, model: Any, role: str, name: str) -> None:
    """Refuse a model that reads other words than the policy writes."""
    _check_vocabulary(model, actors.tokenizer, name)
    if name != actors.config.model and load.load_tokenizer(name).get_vocab() != actors.tokenizer.get_vocab():
        raise RecipeError(
            f"stage {actors.stage}: the {role} model {name} has another tokenizer than {actors.config.model}; it would "
            "read other words than the policy writes. Use models that share one tokenizer"
        )


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise RecipeError(
            f"the tokenizer has {len(tokenizer)} tokens but {name} has embeddings for {rows}; "
            "use the tokenizer the model was trained with, or resize the embeddings and save the model"
        )
