"""Reading what a model wrote: JSON with named repairs, scores by a typed reader, and never a value nobody gave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import UserError
from kilter.llm.schema import Parsed, Tally, Unparsable, check_schema, parse, parse_score

SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
        "why": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
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
    ],
)
def test_a_schema_that_is_not_checked_is_refused_before_anything_is_asked(schema: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_schema(schema)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("7.", 7),
        (" 7.5 \n", 7.5),
        ("7/10", 7),
        ("7 out of 10", 7),
        ("**8**", 8),
        ("Score: 7.5", 7.5),
        ("The rating (1-10): **9**\nIt has 2 flaws.", 9),
        ("It has 3 flaws and 2 merits. Rating: [[6]]", 6),
        ("My overall score for it is 4 because of 2 errors", 4),
        ("I would give it a 5.", 5),
        ("1. Clear.\n2. Short.\nScore: 6", 6),
        ("<think>maybe 3</think>8", 8),
    ],
)
def test_a_score_is_read(text: str, value: float) -> None:
    found = parse_score(text, 1, 10)
    assert isinstance(found, Parsed)
    assert found.value == value
    assert found.raw == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("N/A", "N/A"),
        ("good", "no number"),
        ("11", "not between 1 and 10"),
        ("-3", "not between"),
        ("7-8", "range"),
        ("7 to 8", "range"),
        ("7/100", "out of 100"),
        ("70%", "no number"),
        ("7,5", "no number"),
        ("either 6 or 7", "several"),
        ("Score: 3. Score: 4", "several"),
        ("1. It is clear.", "no number"),
        ("top10", "no number"),
    ],
)
def test_a_score_that_nobody_gave_is_not_read(text: str, reason: str) -> None:
    found = parse_score(text, 1, 10)
    assert isinstance(found, Unparsable)
    assert reason in found.reason


def test_na_is_an_answer_where_it_is_allowed() -> None:
    assert parse_score("N/A", 1, 5, none=True) == Parsed(None, "N/A")
    assert parse_score("Rating: N/A", 1, 5, none=True) == Parsed(None, "Rating: N/A", ("label",))
    assert isinstance(parse_score("4.5", 1, 5, whole=True), Unparsable)


@pytest.mark.parametrize("score", range(1, 11))
@pytest.mark.parametrize("form", ["{}", "{}.", "{}/10", "Score: {}", "Rating: {}/10", "[[{}]]", "**{}**", "{}.0"])
def test_pain_1_every_score_of_the_scale_stays_itself(score: int, form: str) -> None:
    """A line that multiplied scores up to 1 by ten put 2,628 top scores of a public data set in doubt."""
    found = parse_score(form.format(score), 1, 10)
    assert isinstance(found, Parsed)
    assert found.value == score


def test_pain_1_the_raw_text_is_kept_and_a_broken_reader_is_noticed() -> None:
    texts = [str(1 + n % 10) for n in range(300)]
    good, broken = Tally(1, 10), Tally(1, 10)
    for text in texts:
        good.add(parse_score(text, 1, 10))
        score = float(text)
        broken.add(Parsed(score if score > 1 else 10 * score, text))
    assert good.alarms() == []
    alarms = " ".join(broken.alarms())
    assert "30 scores do not stand in the text" in alarms
    assert "'1'" in alarms
    again = [parse_score(raw, 1, 10) for raw in broken.foreign]  # old answers are read anew from their raw text
    assert {found.value for found in again if isinstance(found, Parsed)} == {1}


def test_alarms_tell_a_lazy_judge_and_unreadable_answers() -> None:
    lazy, vague = Tally(1, 5), Tally(1, 10)
    for n in range(200):
        lazy.add(parse_score("4" if n % 10 else "3", 1, 5))
        vague.add(parse_score("fine" if n % 4 == 0 else str(n % 10 + 1), 1, 10))
    assert lazy.alarms() == ["90% of the scores are 4"]
    assert "25% can't be read; most often: no number stands in it" in vague.alarms()
    ends = Tally(1, 10)
    for n in range(200):
        ends.add(Parsed(10 if n % 3 == 0 else 5, "10 5"))
    assert ends.alarms() == ["the lowest score 1 never occurs, but 34% are 10"]
