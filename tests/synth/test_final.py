"""Final answers, found by a stated form or not at all, and compared as numbers and words."""

from __future__ import annotations

import pytest

from kilter.synth.final import boxed, final, normal, same


@pytest.mark.parametrize(
    ("text", "answer", "form"),
    [
        ("Ada has a cat. A cat eats fish.\nAnswer: fish", "fish", "line"),
        ("Ada has a cat. A cat eats fish. Answer: fish.", "fish", "line"),
        ("so the answer is 42.", "42", "line"),
        ("**Final answer:** 3.5", "3.5", "line"),
        ("Answer: 4\nNo, wait.\nAnswer: 5", "5", "line"),
        ("2 + 2 = 4\n#### 1,234", "1,234", "line"),
        (r"Hence \boxed{\frac{1}{2}}. Answer: 3", r"\frac{1}{2}", "boxed"),
        (r"first \boxed{1}, then \boxed{2}", "2", "boxed"),
        ("fish", "fish", "plain"),
        ("  The castle. ", "The castle", "plain"),
    ],
)
def test_the_answer_is_found_with_its_form(text: str, answer: str, form: str) -> None:
    assert final(text) == (answer, form)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Answer:",
        "I added 3 and 4 and then took away 2, which leaves 5 of them.",
        "one\ntwo",
        "The answers are many and nobody knows them all.",
        r"it is \boxed{1 + {2}",
    ],
)
def test_what_ends_in_no_answer_has_none(text: str) -> None:
    assert final(text) is None


def test_a_form_that_is_named_is_the_only_one_taken() -> None:
    text = "It is \\boxed{7}.\nAnswer: 8"
    assert final(text, "line") == ("8", "line")
    assert final(text, "boxed") == ("7", "boxed")
    assert final(text, "plain") is None
    assert boxed("none") == ""


@pytest.mark.parametrize(
    ("a", "b"),
    [("fish", "Fish."), ("the castle", "A castle"), ("1,234", "1234"), ("0.5", "1/2"), ("3.0", "3"), ("$7", "7"),
     ("-2", "-2.0"), ("a  big cat", "big cat")],
)  # fmt: skip
def test_answers_that_are_one(a: str, b: str) -> None:
    assert same(a, b)


@pytest.mark.parametrize(
    ("a", "b"), [("3", "-3"), ("12", "1,2"), ("cat", "cats"), ("", ""), ("1/0", "2/0"), ("10%", "10")]
)
def test_answers_that_are_two(a: str, b: str) -> None:
    assert not same(a, b)


def test_a_number_is_kept_exactly() -> None:
    assert normal("0.1") == "1/10"
    assert normal("1,000,000.50") == "2000001/2"
