"""Actors: the models that a method needs, each in its role.

With `lora_rank` the roles whose weights lie over the same base are views of one backbone (models/views.py); a role over
another base has a backbone of its own, and `Actors.origins` says so. Without it every role is a model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kilter.data.render import check_tokenizer
from kilter.errors import RecipeError
from kilter.models import checkpointing, load, lora, quant, trunk
from kilter.models.views import View, new_head
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
    folder: Path | None = None
    """Where the stage keeps what a run that goes on needs again, beside its checkpoints; none keeps nothing."""
    cache: dict[str, Any] = field(default_factory=dict)
    """What a method opens or works out once in a stage and can work out again: no part of the result."""
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Role -> where it comes from: `model`, its `hash`, the `backbone` it shares (a number), and `apart`, why it has
    one of its own."""
    memories: list[trunk.Memory] = field(default_factory=list)
    """What a round's frozen lower blocks computed, when only the upper ones learn."""

    def begin_round(self) -> None:
        """Forget what was computed for the round before."""
        for memory in self.memories:
            memory.forget()

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
    """Load every model a method needs; what learns gets gradients: all weights, the top layers', or LoRA's."""
    _check_choices(config, stage)
    tokenizer = load.load_tokenizer(config.model)
    check_tokenizer(tokenizer, config.model)
    actors = Actors(config, tokenizer, seed, stage)
    names = {role: source_of(role, method, config) for role in needs_of(method, config)}
    for role, name in names.items():
        _check_words(actors, role, name)
        if role == "reward" and role not in params_of(method, config):
            actors.notes = load.read_notes(name)
    if config.lora_rank:
        _load_views(actors, method, names)
    else:
        _load_models(actors, method, names)
    for role in params_of(method, config):
        if config.checkpointing:
            checkpointing.enable(_trunk(actors[role]))
    if config.train_layers:
        _split(actors, method)
    for role in needs_of(method, config):
        load.forget_exact(actors[role])
    return actors


def load_scorer(actors: Actors, name: str) -> tuple[Any, dict[str, Any]]:
    """A further frozen reward model for these actors, and its notes."""
    _check_words(actors, "reward", name)
    model = load.load(name, "reward", actors.config.dtype, device_for(actors.config))
    _check_vocabulary(model, actors.tokenizer, name)
    return model.requires_grad_(False), load.read_notes(name)


def _check_words(actors: Actors, role: str, name: str) -> None:
    """Refuse a model that reads other words than the policy writes."""
    if name != actors.config.model and load.load_tokenizer(name).get_vocab() != actors.tokenizer.get_vocab():
        raise RecipeError(
            f"stage {actors.stage}: the {role} model {name} has another tokenizer than {actors.config.model}; it would "
            "read other words than the policy writes. Use models that share one tokenizer"
        )


def _check_choices(config: Training, stage: str) -> None:
    """Refuse combinations that can't be, before anything is loaded."""
    if config.quantize != "none":
        if not config.lora_rank:
            raise RecipeError(
                f"stage {stage}: quantize is {config.quantize!r}, but 4-bit weights can't learn; set lora_rank, e.g. 16"
            )
        quant.bitsandbytes(f"stage {stage}: quantize: {config.quantize}")
    if config.optimizer == "adamw8bit":
        quant.bitsandbytes(f"stage {stage}: optimizer: adamw8bit")
    if getattr(config, "scratch", False) and (config.lora_rank or config.train_layers):
        field_ = "lora_rank" if config.lora_rank else "train_layers"
        raise RecipeError(f"stage {stage}: scratch draws every weight anew, and all must learn; set {field_} to 0")


def _load_models(actors: Actors, method: Method, names: Mapping[str, str]) -> None:
    """Every role as a model of its own."""
    config, device = actors.config, device_for(actors.config)
    for role, kind in needs_of(method, config).items():
        name = names[role]
        learns = role in params_of(method, config)
        dtype = "float32" if learns and config.dtype in ("bfloat16", "float16") else config.dtype
        if getattr(config, "scratch", False):
            model = load.fresh(name, actors.seed, dtype, device)
        else:
            model = load.load(name, kind, dtype, device)
        model = load.rounded(model, config.dtype)
        _check_vocabulary(model, actors.tokenizer, name)
        model.requires_grad_(learns)
        setattr(actors, role, model)
        actors.origins[role] = {"model": name, **_hash(role, name)}


def _hash(role: str, name: str) -> dict[str, str]:
    """The reference is named by its weights."""
    return {"hash": "+".join(load.identity(n) for n in load.chain_of(name))} if role == "reference" else {}


def _load_views(actors: Actors, method: Method, names: Mapping[str, str]) -> None:
    """Roles over the same base weights as views of one backbone, loaded once."""
    config, device = actors.config, device_for(actors.config)
    chains = {role: load.chain_of(name) for role, name in names.items()}
    groups: dict[tuple[str, str], list[str]] = {}
    for role, kind in needs_of(method, config).items():
        base = chains[role][0]
        apart = "head" if kind != "causal" and load.has_own_head(base) else "trunk"
        groups.setdefault((load.identity(base), apart), []).append(role)
    files = {folder: lora.read_adapter(folder) for chain in chains.values() for folder in chain[1:]}
    first = next(iter(groups))
    for number, (key, roles) in enumerate(groups.items()):
        kinds = {needs_of(method, config)[r] for r in roles}
        base = chains[roles[0]][0]
        whole = "causal" if "causal" in kinds else needs_of(method, config)[roles[0]]
        model = load.load(base, whole, config.dtype, "cpu" if config.quantize != "none" else device)
        _check_vocabulary(model, actors.tokenizer, base)
        model.requires_grad_(False)
        if config.quantize == "nf4":
            model = quant.quantise(model, device)
        share(actors, method, model, base, {r: [files[f] for f in chains[r][1:]] for r in roles})
        for role in roles:
            actors.origins[role] = {"model": names[role], "backbone": number, **_hash(role, names[role])}
            if number:
                why = "its base is a classifier of its own" if key[0] == first[0] else "its base holds other weights"
                actors.origins[role]["apart"] = f"{why}: {base}, not {chains[groups[first][0]][0]}"


def share(
    actors: Actors, method: Method, model: Any, base: str, starts: Mapping[str, Sequence[lora.AdapterFile]]
) -> None:
    """Make the roles of `starts` views of one frozen model, each over the adapters that it starts from."""
    frozen = {f.folder: f.adapters(model, load.DTYPES[actors.config.dtype]) for files in starts.values() for f in files}
    stacks = {r: _stacks(actors, method, model, r, [frozen[f.folder] for f in files]) for r, files in starts.items()}
    lora.attach(model, stacks)
    for role, files in starts.items():
        setattr(actors, role, _view(actors, method, model, role, base, files))


def _stacks(
    actors: Actors, method: Method, model: Any, role: str, frozen: list[dict[str, lora.Adapter]]
) -> dict[str, list[lora.Adapter]]:
    """A role's adapters by layer: the frozen ones that it starts from, then its own when it learns."""
    config, stacks = actors.config, list(frozen)
    if role in params_of(method, config):
        dtype = torch.promote_types(load.DTYPES[config.dtype], torch.float32)
        key = (actors.seed, actors.stage, role)
        within = _learning_blocks(model, config)
        targets = config.lora_targets.split()
        stacks.append(lora.fresh_adapters(model, config.lora_rank, config.lora_alpha, key, dtype, within, targets))
    found: dict[str, list[lora.Adapter]] = {}
    for stack in stacks:
        for name, adapter in stack.items():
            found.setdefault(name, []).append(adapter)
    return found


def _view(actors: Actors, method: Method, model: Any, role: str, base: str, starts: Sequence[lora.AdapterFile]) -> View:
    """An actor over a shared model, with the head that it starts from."""
    kind = needs_of(method, actors.config)[role]
    if kind == "causal":
        return View(model, role, kind, base)
    head = {n: p for n, p in model.state_dict().items() if n.split(".")[0] in ("score", "classifier")}
    for start in starts:
        head |= start.head
    dtype = torch.promote_types(load.DTYPES[actors.config.dtype], torch.float32)
    name, scalar = new_head(model, kind, dtype, head)
    scalar.requires_grad_(role in params_of(method, actors.config))
    return View(model, role, kind, base, scalar, name)


def _learning_blocks(model: Any, config: Training) -> tuple[str, ...]:
    """Where adapters go: everywhere, or on the last `train_layers` blocks."""
    if not config.train_layers:
        return ("",)
    found = checkpointing.blocks(model.base_model)
    path = next(n for n, m in model.named_modules() if m is found)
    first = trunk.first_of(found, config.train_layers)
    return tuple(f"{path}.{number}." for number in range(first, len(found)))


def _trunk(actor: Any) -> Any:
    return actor.model.base_model if isinstance(actor, View) else actor.base_model


def _split(actors: Actors, method: Method) -> None:
    """Cut every role's trunk, and let the roles whose lower blocks are the same share what those compute."""
    config = actors.config
    memories: dict[tuple[str, ...], trunk.Memory] = {}
    lowers: dict[str, Any] = {}
    for role in needs_of(method, config):
        actor = actors[role]
        start = load.chain_of(source_of(role, method, config))
        whole = _trunk(actor)
        key = tuple(load.identity(n) for n in start)
        if not isinstance(actor, View):
            first = trunk.first_of(checkpointing.blocks(whole), config.train_layers)
            if role in params_of(method, config):
                trunk.learn_top(actor, whole, first)
            trunk.share_lower(whole, lowers.setdefault("+".join(key), whole), first)
        first = trunk.cut(whole, config.train_layers)
        split = trunk.Split(whole, first, memories.setdefault(key, trunk.Memory()))
        if isinstance(actor, View):
            actor.split = split
        else:
            actor.split_trunk = split
    actors.memories = list(memories.values())


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise RecipeError(
            f"the tokenizer has {len(tokenizer)} tokens but {name} has embeddings for {rows}; "
            "use the tokenizer the model was trained with, or resize the embeddings and save the model"
        )
