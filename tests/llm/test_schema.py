"""Reading JSON that a model wrote: repairs are named, and no value is read that nobody gave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import UserError
from kilter.llm.schema import Parsed, Unparsable, check_schema, is_strict, parse

SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
        "why": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["score"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"score": 3}', {"score": 3}, ()),
        ('  {"score": 3.0}\n', {"score": 3}, ()),
        ('```json\n{"score": 3}\n```', {"score": 3}, ("fence",)),
        ('Here you are:\n```\n{"score": 3}\n```\nHope it helps!', {"score": 3}, ("fence",)),
        ('Sure! {"score": 3, "why": "a } in \\" it"} done', {"score": 3, "why": 'a } in " it'}, ("outermost",)),
        ('[see 1] {"score": 3}', {"score": 3}, ("outermost",)),
        ('{"score": 3, "tags": ["a", "b",],}', {"score": 3, "tags": ["a", "b"]}, ("commas",)),
        ('{"score": 3, "why": "one, }"}', {"score": 3, "why": "one, }"}, ()),
        ("{'score': 3, 'why': \"it's\"}", {"score": 3, "why": "it's"}, ("quotes",)),
        ('<think>{"score": 9}</think>{"score": 3}', {"score": 3}, ("thoughts",)),
        ('{"score": "3"}', {"score": 3}, ("unquoted",)),
        ('{"score": 3, "why": "beca', {"score": 3}, ("closed",)),
        ('I say: {"score": 3, "tags": ["a", "b', {"score": 3, "tags": ["a"]}, ("outermost", "closed")),
        ('{"score": 3, "tags": [', {"score": 3}, ("closed",)),
    ],
)
def test_json_is_read_with_repairs_that_are_named(text: str, value: Any, repairs: tuple[str, ...]) -> None:
    assert parse(text, SCHEMA) == Parsed(value, text, repairs)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("I would rather not.", "no JSON"),
        ('{"score": 1', "no JSON"),  # perhaps a 10 that was cut
        ('{"why": "because", "score": 1', "score is missing"),
        ('{"score": 11}', "at most 10"),
        ('{"score": 0}', "at least 1"),
        ('{"score": null}', "must be integer"),
        ('{"score": true}', "must be integer"),
        ('{"score": "7/10"}', "must be integer"),
        ('{"score": 3, "score": 4}', "given twice"),
        ('{"score": 3} or rather {"score": 4}', "several different objects"),
        ('{"score": 3, "sure": 1}', "not asked for"),
        ('{"score": 3, "tags": ["c"]}', "must be one of 'a', 'b'"),
        ('{"score": NaN}', "no JSON"),
        ("[3]", "must be object"),
        ('{"score": 3, "why": ""}', "minLength is 1"),
        ('{"score": 3, "tags": ["a", "a", "b"]}', "maxItems is 2"),
    ],
)
def test_what_cant_be_read_keeps_its_text_and_has_no_value(text: str, reason: str) -> None:
    found = parse(text, SCHEMA)
    assert isinstance(found, Unparsable)
    assert found.raw == text
    assert reason in found.reason
    assert not hasattr(found, "value")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_stays_what_it_is(value: Any) -> None:
    assert parse(json.dumps(value)) == Parsed(value, json.dumps(value))


@given(st.text(alphabet="{}[]\",:'\\ a1\n`"), st.booleans())
def test_no_text_breaks_the_reader(text: str, with_schema: bool) -> None:
    found = parse(text, SCHEMA if with_schema else None)
    assert found.raw == text


@given(st.dictionaries(st.text(min_size=1), st.integers() | st.text(), min_size=1), st.data())
def test_a_text_that_was_cut_gives_only_members_that_were_whole(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value)
    found = parse(text[: data.draw(st.integers(1, len(text)))])
    assert isinstance(found, Unparsable) or found.value.items() <= value.items()


def test_thousands_of_brackets_are_read_quickly() -> None:
    assert isinstance(parse("{" * 20000), Unparsable)
    assert isinstance(parse('{"a":' * 5000), Parsed | Unparsable)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "propertis": {}}, "did you mean 'properties'"),
        ({"type": "int"}, "unknown type 'int'"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'b' is required"),
        ({"oneOf": []}, "not checked here"),
        ({"additionalProperties": {}}, "must be true or false"),
    ],
)
def test_a_schema_that_is_not_checked_is_refused_before_anything_is_asked(schema: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_schema(schema)


def test_a_schema_is_strict_when_every_object_lists_all_it_holds() -> None:
    inner = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    assert is_strict(inner)
    assert is_strict({"type": "array", "items": inner})
    assert not is_strict({**inner, "required": []})
    assert not is_strict({"type": "array", "items": {"type": "object"}})
    assert not is_strict(SCHEMA)
