"""The class of a kind of model in a family: the library's own, or one built from its parts where it has none.

Some families come without a `…ForSequenceClassification` or a `…ForTokenClassification` (Granite, OLMo 2, OPT, …). For
those a class of that name is put together from the family's trunk and the library's generic one-layer head, and made
known to the `Auto` class of its kind, so that loading and saving go the usual way. A folder written by it holds the
trunk under the family's own names (`AutoModel` and `AutoModelForCausalLM` find it there) and the head as `score`.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

KIND: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
    "value": AutoModelForTokenClassification,
}
HEADS = {
    "reward": ("ForSequenceClassification", GenericForSequenceClassification),
    "value": ("ForTokenClassification", GenericForTokenClassification),
}


def auto_class(config: PretrainedConfig, kind: str) -> Any:
    """The `Auto` class for `kind`, which knows the family of `config` afterwards if its parts allow it."""
    auto = KIND[kind]
    if kind in HEADS and type(config) not in auto._model_mapping and type(config) in KIND["causal"]._model_mapping:
        auto.register(type(config), _built(config, kind), exist_ok=True)
    return auto


def _built(config: PretrainedConfig, kind: str) -> type[PreTrainedModel]:
    causal = KIND["causal"]._model_mapping[type(config)]
    common = next(c for c in causal.__mro__[1:] if issubclass(c, PreTrainedModel))
    ending, head = HEADS[kind]
    name = causal.__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + ending
    body = {"config_class": type(config), "base_model_prefix": causal.base_model_prefix, "__module__": __name__}
    return type(name, (head, common), body)
