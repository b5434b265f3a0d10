"""The contract of a method: a file in this folder is a method, and so is `method: ./mine.py` in a recipe.

A method is a module with these names:

    Config    frozen dataclass over `Training`; the string under each field is its documentation and its --help
    EATS      {config field: kind of stream}, kinds: text, demonstrations, prompts, rankings, labels, and
              packed-text, packed-demonstrations
    NEEDS     {actor: kind of model}, kinds: causal, reward, value; `models.roles.SOURCES` has their folders
    PARAMS    {actor that learns: config field with its learning rate}; the first is saved as `model/`
              NEEDS and PARAMS may be functions of the configuration, where it decides what is loaded
    State     what lasts between rounds, as plain values; `Round` when the number of the round is all
    rounds    (config, streams) -> how many rounds there are
    batches   (actors, streams, state) -> this round's batches, one optimiser step each
    weights   (batch) -> what each term of the loss is divided by, known before any forward
    loss      (actors, batch) -> named sums

and, where they are wanted:

    evaluate         (actors, streams, state) -> figures for eval.jsonl before this round, or nothing when none are
                     due; the weights of the first actor with the greatest `merit` among them are kept as best/
    steps_per_round  (config) -> optimiser steps in one round, when there are several
    notes            (actors, streams) -> what the finished first actor says of itself, saved as kilter.json; what
                     another learned actor says stands in it under that actor's name

A round is what a checkpoint can stand before: a batch offline, a rollout online. `batches` is called anew for every
round and may change the state for the next one; statistics over a whole batch belong there, so that splitting a batch
into micro-batches never changes a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every method can be told; a method's own Config gives its vetted defaults."""

    model: str
    """Where the weights start: a stage of the recipe, a Hugging Face folder, or a hub id."""
    data: str
    """The rows to learn from: a JSONL file, a folder of them, or `stage/file.jsonl`."""
    steps: int | None = None
    """Rounds to train for; unset means as many as `epochs` takes."""
    epochs: float = 1.0
    """Passes over the data, when `steps` is unset."""
    batch: int = 8
    """Rows of data in one round."""
    lr: float = 1e-5
    """Peak learning rate of AdamW."""
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """`adamw8bit` keeps AdamW's state in eight bits (needs the `qlora` extra); `muon` orthogonalises the steps of
    hidden matrices, the rest is AdamW's: for small models from scratch."""
    muon_lr: float = 7.5e-3
    """Peak learning rate of Muon's matrices."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after warm-up; by step, never by the clock."""
    warmup: int = 0
    """Optimiser steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """Decoupled weight decay on matrices."""
    clip: float = 1.0
    """Largest gradient norm per learning actor; 0 switches clipping off."""
    micro_tokens: int = 65536
    """Padded tokens per forward and backward; a larger batch is split, which changes memory, never the gradient."""
    context: int | None = None
    """Longest row in tokens; unset means the model's own limit."""
    max_rejects: float = 0.01
    """Share of unusable rows above which the run stops before training."""
    checkpoint_every: int = 100
    """Rounds between checkpoints."""
    keep: int = 1
    """Checkpoints kept."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Number type of weights and arithmetic; what learns keeps a float32 copy beside 16-bit weights, and float16 scales
    its loss so that small gradients survive."""
    lora_rank: int = 0
    """Rank of LoRA adapters on all linear layers; 0 trains every weight. Roles over one base share a backbone."""
    lora_alpha: float = 16.0
    """LoRA's scale: the adapter's product is multiplied by alpha / rank."""
    lora_targets: str = ""
    """The layers that get adapters, by their last names (`q_proj v_proj`); empty for every linear layer."""
    merge: bool = False
    """Write `model/` with its LoRA adapters merged in, and the adapters beside it; else it is an adapter folder."""
    quantize: Literal["none", "nf4"] = "none"
    """`nf4` holds the frozen linear layers below LoRA in four bits (needs the `qlora` extra)."""
    train_layers: int = 0
    """Train the last so many layers alone: what the frozen ones below compute is kept for a round; 0 trains all."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a quarter more time."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` takes a GPU when there is one."""

    def __post_init__(self) -> None:
        for name in (
            "batch",
            "steps",
            "micro_tokens",
            "context",
            "checkpoint_every",
            "keep",
            "row_tokens",
            "max_new",
            "ppo_epochs",
            "minibatches",
            "corpus_rows",
            "epochs",
            "temperature",
        ):
            value = getattr(self, name, None)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, but must be above 0")
        for name in (
            "lr",
            "muon_lr",
            "value_lr",
            "warmup",
            "weight_decay",
            "clip",
            "lora_rank",
            "train_layers",
            "max_rejects",
        ):
            if getattr(self, name, 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must not be below 0")


@dataclass
class Round:
    """The least state: which round comes next."""

    round: int = 0


@dataclass
class Loss:
    """Named sums. The loop divides each term by the step's whole weight of the same name, and adds them up."""

    terms: dict[str, Tensor]
    metrics: dict[str, tuple[Any, float]] = field(default_factory=dict)
    """Name -> (sum, weight), summed over micro-batches and divided when the step is logged; never differentiated."""


class Batch(Protocol):
    """What the loop asks of any batch."""

    @property
    def metrics(self) -> dict[str, float]: ...

    def split(self, tokens: int) -> list[Any]: ...


class Method(Protocol):
    """A method module, as the loop sees it."""

    @property
    def EATS(self) -> Mapping[str, str]: ...
    @property
    def NEEDS(self) -> Mapping[str, str] | Callable[[Any], Mapping[str, str]]: ...
    @property
    def PARAMS(self) -> Mapping[str, str] | Callable[[Any], Mapping[str, str]]: ...
    @property
    def Config(self) -> type[Any]: ...
    @property
    def State(self) -> type[Any]: ...

    def rounds(self, config: Any, streams: Mapping[str, Any]) -> int: ...
    def batches(self, actors: Any, streams: Mapping[str, Any], state: Any) -> Iterator[Any]: ...
    def weights(self, batch: Any) -> dict[str, float]: ...
    def loss(self, actors: Any, batch: Any) -> Loss: ...


def rounds_of(config: Training, rows: int) -> int:
    """The usual number of rounds: `steps`, or what `epochs` over `rows` rows takes."""
    if config.steps is not None:
        return config.steps
    return max(1, round(config.epochs * rows / config.batch))
