"""Configuration: frozen dataclasses, the string under each field, and the road from YAML to them.

`describe` reads fields, defaults and their strings from the source by `ast`, so `--help` needs neither torch nor the
module itself; `build` makes the dataclass from plain values and refuses what it does not know.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from kilter.errors import RecipeError, nearest

PACKAGE = Path(__file__).parent
C = TypeVar("C")


@dataclass(frozen=True)
class Field:
    """One configuration field as its source states it."""

    name: str
    type: str
    default: str
    """The default's source text, empty where the field must be given."""
    doc: str


def describe(source: Path, name: str = "Config") -> list[Field]:
    """The fields of dataclass `name` in a source file, inherited ones first, without importing anything.

    A base class is looked for in the same file, then where the file imports it from (within kilter).
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if found is None:
        raise RecipeError(f"{source} has no class {name}")
    fields: dict[str, Field] = {}
    for base in found.bases:
        home = _home_of(tree, ast.unparse(base), source)
        fields.update({f.name: f for f in describe(*home)} if home else {})
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            doc = fields[node.target.id].doc if node.target.id in fields else ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                doc = " ".join(str(after.value.value).split())
            default = ast.unparse(node.value) if node.value else ""
            fields[node.target.id] = Field(node.target.id, ast.unparse(node.annotation), default, doc)
    return list(fields.values())


def _home_of(tree: ast.Module, name: str, source: Path) -> tuple[Path, str] | None:
    """The file that defines base class `name` (`Training`, or `dpo.Config`) as seen from `tree`, and its name there."""
    module, _, class_name = name.rpartition(".")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return source, name
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            seen = alias.asname or alias.name
            if isinstance(node, ast.ImportFrom) and node.module and seen == name:
                return module_file(node.module), alias.name
            if module and seen == module:
                parent = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                return module_file(f"{parent}{alias.name}"), class_name
    return None


def module_file(module: str) -> Path:
    """The source file of a kilter module."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def build(cls: type[C], given: Mapping[str, Any], where: str) -> C:
    """Make configuration `cls` from plain values; `where` names the stage in messages."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in given.items():
        if key not in names:
            raise RecipeError(f"{where}: unknown field {key!r}{nearest(key, names)}")
        values[key] = _fit(value, hints[key], f"{where}.{key}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: field {missing[0]!r} must be given")
    try:
        return cls(**values)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _fit(value: Any, hint: Any, where: str) -> Any:
    """Check one plain value against a type hint, turning what YAML can't say (1e-4, tuples) into it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        complaints = []
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _fit(value, option, where)
            except RecipeError as error:
                complaints.append(str(error))
        raise RecipeError(complaints[-1 if isinstance(value, Mapping) else 0])
    if origin is Literal:
        if value not in arguments:
            names = [str(a) for a in arguments]
            raise RecipeError(f"{where} is {value!r}, which is not one of its values{nearest(str(value), names)}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, value, "a list")
        item = arguments[0] if arguments else Any
        return tuple(_fit(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a mapping")
        item = arguments[1] if arguments else Any
        return {str(k): _fit(v, item, f"{where}.{k}") for k, v in value.items()}
    return _fit_scalar(value, hint, where)


def _fit_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
            try:
                value = float(value)
            except ValueError:
                raise _wrong(where, value, "a finite number") from None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _wrong(where, value, "a finite number")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    kinds = {int: "a whole number", str: "text", bool: "true or false"}
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(where, value, kinds.get(hint, getattr(hint, "__name__", str(hint))))
    return value


def _wrong(where: str, value: Any, wanted: str) -> RecipeError:
    return RecipeError(f"{where} is {value!r} ({type(value).__name__}), but must be {wanted}")


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping, read safely; duplicate keys and non-mappings are refused."""
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: must hold a mapping (key: value), got {type(data).__name__}")
    return data


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (the second would silently win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, typing.Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice or can't be a key", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def plain(value: Any) -> Any:
    """A configuration as plain values, for YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return value
