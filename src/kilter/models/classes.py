"""The class of a kind of model in a family: the library's own, or one built from its parts where it has none.

Some families come without a `…ForSequenceClassification` or a `…ForTokenClassification` (Granite, OLMo 2, OPT, …). For
those a class of that name is put together from the family's trunk and the library's generic one-layer head. A folder
written by it holds the trunk under the family's own names (`AutoModel` and `AutoModelForCausalLM` find it there) and
the head as `score`.
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


def blank(config: PretrainedConfig, kind: str, **given: Any) -> Any:
    """A model of `kind` with fresh weights (on the meta device, with none)."""
    own = _built(type(config), kind)
    return own._from_config(config, **given) if own else KIND[kind].from_config(config, **given)


def read(name: str, config: PretrainedConfig, kind: str, **given: Any) -> Any:
    """A model of `kind` from a folder or hub id, by the usual `from_pretrained`."""
    own = _built(type(config), kind)
    if own:
        return own.from_pretrained(name, config=config, **given)
    return KIND[kind].from_pretrained(name, config=config, trust_remote_code=False, **given)


_BUILT: dict[tuple[Any, str], type[PreTrainedModel]] = {}


def _built(family: Any, kind: str) -> type[PreTrainedModel] | None:
    """The class put together for a family, or None where the library has its own or lacks the parts."""
    if kind not in HEADS or family in KIND[kind]._model_mapping or family not in KIND["causal"]._model_mapping:
        return None
    if (family, kind) in _BUILT:
        return _BUILT[family, kind]
    causal = KIND["causal"]._model_mapping[family]
    common = next(c for c in causal.__mro__[1:] if issubclass(c, PreTrainedModel))
    ending, head = HEADS[kind]
    name = causal.__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + ending
    body = {"config_class": family, "base_model_prefix": causal.base_model_prefix, "__module__": __name__}
    _BUILT[family, kind] = type(name, (head, common), body)
    return _BUILT[family, kind]
