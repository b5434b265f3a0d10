"""From what a model wrote to a value: JSON by a schema, with repairs that are named.

What can't be read is `Unparsable` and keeps the text: no reader here has a default value. Every reading starts from the
raw text, so that a better reader can be run over old answers without asking anything again.

Repairs are tried in this order, each on top of those before it, until the text is JSON:

thoughts         what stands before `</think>` is left out
fence            what stands between code fences is taken
outermost        the outermost balanced object (or array) is taken; two that differ are ambiguous
commas           commas before a closing bracket are left out
quotes           Python's spelling: single quotes, True, None
closed           what was cut off is closed after its last whole member; a number or text that was cut is left out
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kilter.errors import UserError, nearest

Schema = Mapping[str, Any]
"""A JSON schema of the words in `KEYWORDS`."""

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
}
BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda v, b: v >= b, "at least"),
    "maximum": (lambda v, b: v <= b, "at most"),
    "exclusiveMinimum": (lambda v, b: v > b, "above"),
    "exclusiveMaximum": (lambda v, b: v < b, "below"),
}
SIZES: dict[str, tuple[Any, str]] = {
    "minLength": (str, "minimum"),
    "maxLength": (str, "maximum"),
    "minItems": (list, "minimum"),
    "maxItems": (list, "maximum"),
}
NOTES = {"title", "description", "$schema", "examples", "default"}
"""Words that bind nothing."""
KEYWORDS = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    *BOUNDS,
    *SIZES,
    *NOTES,
}


@dataclass(frozen=True)
class Parsed:
    """A value that was read, and what had to be repaired to read it."""

    value: Any
    raw: str
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unparsable:
    """A text that could not be read: the text, and why."""

    raw: str
    reason: str
    repairs: tuple[str, ...] = ()


MOST = 50
"""Brackets in a text that are looked behind."""
_OPENING = re.compile(r"""\{\s*["'}]|\[\s*(?:["'{\[\]]|-?\d|true|false|null)""")
"""How JSON begins; other brackets are prose."""


class _Ambiguous(ValueError):
    """A text that says two things."""


# --- JSON -------------------------------------------------------------------------------------------------------------


def parse(text: str, schema: Schema | None = None) -> Parsed | Unparsable:
    """The JSON value that a text holds, checked against a schema."""
    repairs: tuple[str, ...] = ()
    try:
        for repairs, repaired, read in _attempts(text):
            try:
                value = read(repaired)
            except _Ambiguous:
                raise
            except (ValueError, RecursionError):
                continue
            value, unquoted = _numbers(value, schema or {})
            repairs = (*repairs, "unquoted") if unquoted else repairs
            problem = complaint(value, schema or {})
            return Unparsable(text, problem, repairs) if problem else Parsed(value, text, repairs)
    except _Ambiguous as error:
        return Unparsable(text, str(error), repairs)
    return Unparsable(text, "no JSON stands in it" if text.strip() else "the answer is empty", repairs)


def _attempts(text: str) -> Iterator[tuple[tuple[str, ...], str, Callable[[str], Any]]]:
    """The text as it is, then with one more repair each time that one changes anything."""
    text = text.strip()
    done: tuple[str, ...] = ()
    yield done, text, _loads
    for name, repair in REPAIRS:
        if name == "quotes":  # another reader, not another text
            yield (*done, name), text, _literal
            continue
        changed = repair(text)
        if changed is not None and changed.strip() != text:
            text, done = changed.strip(), (*done, name)
            yield done, text, _loads


def _loads(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found and found[key] != value:
                raise _Ambiguous(f"{key!r} is given twice, with different values")
            found[key] = value
        return found

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)


def _literal(text: str) -> Any:
    """A Python literal made of what JSON has."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about a backslash in the text
            return _loads(json.dumps(ast.literal_eval(text), allow_nan=False))
    except (SyntaxError, TypeError, MemoryError) as error:
        raise ValueError(str(error)) from error


def without_thoughts(text: str) -> str | None:
    _, mark, after = text.rpartition("</think>")
    return after if mark else None


_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)


def _unfenced(text: str) -> str | None:
    blocks = [b for b in _FENCE.findall(text) if b.strip()]
    if len(blocks) > 1:
        values = [b.strip() for b in blocks if b.strip()[0] in "{["]
        return values[0] if len(set(values)) == 1 else None
    return blocks[0] if blocks else None


def _outermost(text: str) -> str | None:
    """The balanced object or array of the text; objects come before arrays, and two that differ are ambiguous."""
    spans, cut = _balanced(text)
    for opening, kind in (("{", "objects"), ("[", "arrays")):
        found = [s for s in spans if s[0] == opening]
        found = [s for s in found if _is_json(s)] or found
        distinct = {json.dumps(_loads(s), sort_keys=True) if _is_json(s) else s for s in found}
        if len(distinct) > 1 or (found and cut is not None and text[cut] == opening):
            raise _Ambiguous(f"several different {kind} stand in it")
        if found:
            return found[0]
        if cut is not None and text[cut] == opening:
            return text[cut:]
    return None


def _is_json(text: str) -> bool:
    try:
        _loads(text)
    except _Ambiguous:
        raise
    except (ValueError, RecursionError):
        return False
    return True


def _balanced(text: str) -> tuple[list[str], int | None]:
    """Top-level stretches from a bracket to the one that closes it, and where JSON begins that is never closed."""
    spans: list[str] = []
    at = failed = 0
    while at < len(text) and len(spans) < MOST and failed < MOST:
        if text[at] in "{[":
            end = _closing(text, at)
            if end:
                spans.append(text[at:end])
                at = end
                continue
            if _OPENING.match(text, at):
                return spans, at
            failed += 1
        at += 1
    return spans, None


def _closing(text: str, at: int) -> int:
    """Where the bracket at `at` is closed, 0 if it never is."""
    expected: list[str] = []
    for i, char, quoted in _characters(text, at):
        if quoted:
            continue
        if char in "{[":
            expected.append("}" if char == "{" else "]")
        elif char in "}]":
            if not expected or expected.pop() != char:
                return 0
            if not expected:
                return i + 1
    return 0


def _characters(text: str, at: int = 0) -> Iterator[tuple[int, str, bool]]:
    """(position, character, whether it lies in a double-quoted string or is one of its quotes)."""
    quoted = escaped = False
    for i in range(at, len(text)):
        char = text[i]
        if quoted:
            yield i, char, True
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        else:
            quoted = char == '"'
            yield i, char, quoted


def _without_commas(text: str) -> str | None:
    out: list[str] = []
    for _, char, quoted in _characters(text):
        if not quoted and char in "}]":
            while out and out[-1].isspace():
                out.pop()
            if out and out[-1] == ",":
                out.pop()
        out.append(char)
    return "".join(out)


def _closed(text: str) -> str | None:
    """A cut-off object or array, closed after its last whole member."""
    if not text.startswith(("{", "[")) or _closing(text, 0):
        return None
    expected: list[str] = []
    whole, closers = 1, "}" if text[0] == "{" else "]"
    for i, char, quoted in _characters(text):
        if quoted:
            continue
        if char in "{[":
            expected.append("}" if char == "{" else "]")
        elif char in "}]" and (not expected or expected.pop() != char):
            return None
        if char in "},]":  # a bracket that closes ends a whole member, and what stands before a comma is one
            whole, closers = i + (char != ","), "".join(reversed(expected))
    return text[:whole] + closers if whole > 1 else None


REPAIRS: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("thoughts", without_thoughts),
    ("fence", _unfenced),
    ("outermost", _outermost),
    ("commas", _without_commas),
    ("quotes", lambda text: text),
    ("closed", _closed),
)


def _numbers(value: Any, schema: Schema) -> tuple[Any, bool]:
    """Numbers in quotes as numbers, where the schema wants one and the text is nothing else; whether there were any."""
    wanted = schema.get("type")
    if isinstance(value, str) and wanted in ("integer", "number") and re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
        return (float(value) if "." in value else int(value)), True
    if isinstance(value, float) and wanted == "integer" and value.is_integer():
        return int(value), False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        members = {k: _numbers(v, properties.get(k, {})) for k, v in value.items()}
        return {k: v for k, (v, _) in members.items()}, any(u for _, u in members.values())
    if isinstance(value, list):
        items = [_numbers(v, schema.get("items", {})) for v in value]
        return [v for v, _ in items], any(u for _, u in items)
    return value, False


# --- the schema -------------------------------------------------------------------------------------------------------


def check_schema(schema: Schema, where: str = "schema") -> None:
    """Refuse a schema with words that are not checked here, before anything is asked."""
    if not isinstance(schema, Mapping):
        raise UserError(f"{where} must be a mapping, got {type(schema).__name__}")
    for word in schema:
        if word not in KEYWORDS:
            raise UserError(f"{where}: {word!r} is not checked here{nearest(word, KEYWORDS - NOTES)}")
    for kind in _types(schema):
        if kind not in TYPES:
            raise UserError(f"{where}: unknown type {kind!r}{nearest(str(kind), TYPES)}")
    if not isinstance(schema.get("additionalProperties", True), bool):
        raise UserError(f"{where}: additionalProperties must be true or false")
    properties = schema.get("properties", {})
    for name, inner in properties.items():
        check_schema(inner, f"{where}.{name}")
    for name in schema.get("required", ()):
        if name not in properties:
            raise UserError(f"{where}: {name!r} is required but is none of its properties{nearest(name, properties)}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}[]")


def _types(schema: Schema) -> list[str]:
    given = schema.get("type", [])
    return [given] if isinstance(given, str) else list(given)


def complaint(value: Any, schema: Schema, where: str = "") -> str:
    """What is wrong with a value by its schema, or nothing."""
    name = where or "the value"
    kinds = _types(schema)
    if kinds and not any(TYPES[k](value) for k in kinds):
        return f"{name} is {value!r:.60}, but must be {' or '.join(kinds)}"
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{name} is {value!r:.60}, but must be {schema['const']!r}"
    if "enum" in schema and not any(_equal(value, e) for e in schema["enum"]):
        return f"{name} is {value!r:.60}, but must be one of {', '.join(map(repr, schema['enum']))}"
    if TYPES["number"](value):
        for word, (holds, said) in BOUNDS.items():
            if word in schema and not holds(value, schema[word]):
                return f"{name} is {value!r}, but must be {said} {schema[word]}"
    for word, (kind, bound) in SIZES.items():
        if word in schema and isinstance(value, kind) and not BOUNDS[bound][0](len(value), schema[word]):
            return f"{name} has length {len(value)}, but {word} is {schema[word]}"
    if isinstance(value, dict):
        return _complaint_of_members(value, schema, where)
    if isinstance(value, list) and "items" in schema:
        found = (complaint(v, schema["items"], f"{where}[{i}]") for i, v in enumerate(value))
        return next((c for c in found if c), "")
    return ""


def _complaint_of_members(value: dict[str, Any], schema: Schema, where: str) -> str:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where + '.' if where else ''}{name} is missing"
    if schema.get("additionalProperties") is False:
        for name in value:
            if name not in properties:
                return f"{where + '.' if where else ''}{name} is not asked for"
    found = (complaint(v, properties[k], f"{where}.{k}" if where else k) for k, v in value.items() if k in properties)
    return next((c for c in found if c), "")


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def is_strict(schema: Schema) -> bool:
    """Whether every object of a schema lists all that it may hold, as endpoints want before they promise to heed it."""
    properties = schema.get("properties", {})
    if "object" in _types(schema) and (
        schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties)
    ):
        return False
    return all(map(is_strict, [*properties.values(), *([schema["items"]] if "items" in schema else [])]))


def in_words(schema: Schema) -> str:
    """What to tell a model that takes no schema."""
    text = json.dumps(schema, ensure_ascii=False, sort_keys=True)
    return f"\n\nAnswer with one JSON value that fits this JSON schema, and nothing else:\n{text}"
