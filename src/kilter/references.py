"""What a text that names an input can be besides a stage, a path or a hub id, and sums of several inputs.

./file.py:function             a Python function in the user's own file
http://127.0.0.1:8000          an endpoint
http://127.0.0.1:8000/v1#name  a model of an OpenAI-compatible endpoint
sandbox:strong                 a scripted model of the sandbox, served on this machine while it is needed
{source: weight, ...}          a weighted sum of sources
{model: ..., ...}              a model to be asked, with settings (also {url: ..., ...})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def python_function(text: str) -> tuple[str, str] | None:
    """(file, function) when a text names a function in a Python file."""
    found = FUNCTION.fullmatch(text)
    return (found["file"], found["name"]) if found else None


def is_endpoint(text: str) -> bool:
    """Whether a text is an address to be asked over HTTP."""
    return text.startswith(("http://", "https://"))


def endpoint_model(text: str) -> tuple[str, str]:
    """(address, model) of an endpoint's reference; the model is empty where none is named."""
    address, _, model = text.partition("#")
    return address, model


def is_model(value: Any) -> bool:
    """Whether a reward's source is one model: neither a function, nor an endpoint, nor a sum."""
    return isinstance(value, str) and not is_endpoint(value) and python_function(value) is None


def is_served(text: str) -> bool:
    """Whether a text names one of the sandbox's scripted models, `sandbox:strong`, served while it is needed."""
    return text.startswith("sandbox:")


def is_sampler(value: Any) -> bool:
    """Whether a value is a model to be asked, with settings: {model: ..., ...} or {url: ..., ...}."""
    return isinstance(value, Mapping) and (isinstance(value.get("url"), str) or isinstance(value.get("model"), str))


def asked_for(value: str | Mapping[str, Any]) -> str:
    """The reference of a model to be asked: a text itself; of a mapping its address, or else its model."""
    return value if isinstance(value, str) else str(value.get("url") or value["model"])


def is_weighted(value: Any) -> bool:
    """Whether a value is a weighted sum of inputs, {source: weight}: then its keys are the references."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in value.values())
    )


def file_of(text: str) -> str:
    """The part of a reference that is a file: all of it, or what stands before `:function`."""
    found = python_function(text)
    return found[0] if found else text


def placed(text: str, path: Path) -> str:
    """The reference with its file found at `path`."""
    found = python_function(text)
    return f"{path}:{found[1]}" if found else str(path)
