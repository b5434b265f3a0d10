"""Every kind of scale as a weak order with strength, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import by, words_of

from kilter.data import opinions
from kilter.data.records import Candidate, Judgment, Prompt
from kilter.errors import DataError

PROMPT = Prompt(messages=({"role": "user", "content": "q"},))


def answers(*texts: str) -> list[Candidate]:
    return [Candidate(prompt_id=PROMPT.id, answer=t) for t in texts]


AB = answers("a", "b")


def test_eight_points_have_no_middle_and_seven_do() -> None:
    found = [opinions.on_scale(PROMPT, AB, p) for p in range(1, 9)]
    assert [words_of(j)[0] for j in found] == [["a"]] * 4 + [["b"]] * 4
    assert [j.strength for j in found] == pytest.approx([1, 5 / 7, 3 / 7, 1 / 7, 1 / 7, 3 / 7, 5 / 7, 1])
    assert words_of(opinions.on_scale(PROMPT, AB, 4, 7)) == [["a", "b"]]


def test_four_words_keep_their_order_even_where_it_is_negligible() -> None:
    j = opinions.in_words(PROMPT, AB, 1, "negligibly better")
    assert (words_of(j), j.strength, j.kind) == ([["b"], ["a"]], 0.0, "pair")
    assert opinions.in_words(PROMPT, AB, 0, "better").strength == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="did you mean 'slightly better'"):
        opinions.in_words(PROMPT, AB, 0, "slighly better")


@given(st.integers(-3, 3))
def test_a_signed_scale_turns_with_its_sign(preference: int) -> None:
    one, other = opinions.signed(PROMPT, AB, preference), opinions.signed(PROMPT, AB[::-1], -preference)
    assert words_of(one) == words_of(other)
    assert one.strength == other.strength == abs(preference) / 3
    assert words_of(one)[0] == (["a", "b"] if preference == 0 else ["a"] if preference < 0 else ["b"])


def test_thumbs_put_the_good_above_the_bad() -> None:
    j = opinions.thumbs(PROMPT, answers("a", "b", "c"), [False, True, True])
    assert (words_of(j), j.flags, j.all_bad) == ([["b", "c"], ["a"]], (False, True, True), False)
    assert opinions.thumbs(PROMPT, AB, [False, False]).all_bad
    assert not opinions.thumbs(PROMPT, AB[:1], [False]).all_bad  # one bad answer says nothing of a choice
    with pytest.raises(DataError, match="leave out an answer"):
        opinions.thumbs(PROMPT, AB, [True, None])  # type: ignore[list-item]


def test_ratings_order_the_answers_and_stay_within_their_scale() -> None:
    j = opinions.rated(PROMPT, answers("a", "b", "c"), [3, 9, 3], rater={"id": "r"})
    assert (words_of(j), j.ratings, j.kind, j.rater) == ([["b"], ["a", "c"]], (3, 9, 3), "rating", {"id": "r"})
    with pytest.raises(DataError, match="from 1 to 10"):
        opinions.rated(PROMPT, AB, [0, 11])


def test_aspects_by_hand() -> None:
    # truth counts double; style is missing for b, so it counts for nobody: (2*4 + 1)/3 = 3 against (2*1 + 4)/3 = 2.
    rows = [{"truth": 4.0, "help": 1.0, "style": 1.0}, {"truth": 1.0, "help": 4.0, "style": None}]
    j = opinions.by_aspects(PROMPT, AB, rows, {"truth": 2, "help": 1, "style": 5}, overall=[4, 7])
    assert j.ratings == pytest.approx((3.0, 2.0))
    assert words_of(j) == [["a"], ["b"]]
    assert j.aspects == tuple(rows)
    assert j.extra["aspects"] == {
        "rule": "weighted mean",
        "weights": {"truth": 2, "help": 1},
        "left_out": ["style"],
        "overall": [4, 7],
        "conflicts": [[0, 1]],  # the overall rating puts b first
    }
    agrees = opinions.by_aspects(PROMPT, AB, rows, {"truth": 1}, overall=[7, 4])
    assert agrees.extra["aspects"]["conflicts"] == []
    with pytest.raises(DataError, match="none of the aspects style is rated for every answer"):
        opinions.by_aspects(PROMPT, AB, rows, {"style": 1})


def test_an_edit_stands_above_what_it_was_made_from() -> None:
    j = opinions.edited(PROMPT, AB[0], "better", rater={"id": "ed"})
    assert (words_of(j), j.kind) == ([["better"], ["a"]], "edit")
    assert j.candidates[1].parent == AB[0].id
    with pytest.raises(DataError, match="edited answer is the original"):
        opinions.edited(PROMPT, AB[0], "a")


def test_a_critique_keeps_its_text_and_orders_nothing() -> None:
    j = opinions.critiqued(PROMPT, AB, "Both are vague.", rater={"id": "r"})
    assert (j.kind, j.raw, words_of(j)) == ("critique", "Both are vague.", [["a", "b"]])
    with pytest.raises(DataError, match="not empty"):
        opinions.critiqued(PROMPT, AB, " ")


FIRST: dict[str, Any] = {"order_shown": (0, 1)}
SECOND: dict[str, Any] = {"order_shown": (1, 0)}
A, B, TIE = ((0,), (1,)), ((1,), (0,)), ((0, 1),)


@pytest.mark.parametrize(
    ("first", "second", "rule", "order", "sure", "residue", "agree"),
    [
        ((A, None), (A, None), "tie", [["0"], ["1"]], None, 0.0, True),
        ((A, 0.9), (A, 0.7), "tie", [["0"], ["1"]], 0.8, 0.2, True),
        ((A, None), (B, None), "tie", [["0", "1"]], None, 1.0, False),
        ((A, None), (B, None), "soft", [["0", "1"]], None, 1.0, False),
        ((A, 0.9), (B, 0.6), "tie", [["0", "1"]], None, 0.5, False),
        ((A, 0.9), (B, 0.6), "soft", [["0"], ["1"]], 0.65, 0.5, False),
        ((A, None), (TIE, None), "soft", [["0"], ["1"]], 0.75, 0.5, False),
        ((TIE, None), (TIE, None), "tie", [["0", "1"]], None, 0.0, True),
    ],
)
def test_both_orders_by_hand(
    first: Any, second: Any, rule: str, order: Any, sure: float | None, residue: float, agree: bool
) -> None:
    one, other = by("j", first[0], probability=first[1], **FIRST), by("j", second[0], probability=second[1], **SECOND)
    j = opinions.both_orders(one, other, rule)
    assert words_of(j) == order
    assert j.probability == (None if sure is None else pytest.approx(sure))
    note = j.extra["orders"]
    assert (note["rule"], note["agree"], note["judgments"]) == (rule, agree, [one.id, other.id])
    assert note["residue"] == pytest.approx(residue)


@given(st.sampled_from([A, B, TIE]), st.sampled_from([A, B, TIE]), st.sampled_from(["tie", "soft"]))
def test_which_order_was_judged_first_changes_nothing(one: Any, other: Any, rule: str) -> None:
    a, b = by("j", one, strength=0.5, **FIRST), by("j", other, strength=1.0, **SECOND)
    x, y = opinions.both_orders(a, b, rule), opinions.both_orders(b, a, rule)
    assert (words_of(x), x.probability, x.strength) == (words_of(y), y.probability, y.strength)
    assert x.extra["orders"]["residue"] == y.extra["orders"]["residue"]


def test_both_orders_want_one_comparison() -> None:
    with pytest.raises(DataError, match="the same two answers"):
        opinions.both_orders(by("j", A), by("j", A, "xy"))
    with pytest.raises(DataError, match="compares two answers, got 3"):
        opinions.both_orders(by("j", ((0,), (1,), (2,))), by("j", A))
    with pytest.raises(DataError, match="not one of its words"):
        opinions.both_orders(by("j", A), by("j", B), "drop")


def test_both_orders_by_one_rater_are_joined_and_nothing_else_is() -> None:
    there, back = by("j", A, **FIRST), by("j", B, **SECOND)
    other, alone, plain = by("k", A, **FIRST), by("j", A, "xy", **FIRST), by("j", A)
    again = by("j", B, **FIRST)  # the same order once more is no other order
    found = opinions.joined([there, other, alone, plain, back, again], "tie")
    assert [words_of(j) for j in found] == [
        [["0", "1"]],
        [["0"], ["1"]],
        [["x"], ["y"]],
        [["0"], ["1"]],
        [["1"], ["0"]],
    ]
    assert found[0].extra["orders"]["judgments"] == [there.id, back.id]
    assert found[1:] == [other, alone, plain, again]


def test_a_scale_for_two_answers_refuses_three() -> None:
    three: list[Candidate] = answers("a", "b", "c")
    for make in (lambda: opinions.on_scale(PROMPT, three, 1), lambda: opinions.signed(PROMPT, three, 1)):
        with pytest.raises(DataError, match="two answers, got 3"):
            make()
    assert isinstance(opinions.on_scale(PROMPT, AB, 1), Judgment)
