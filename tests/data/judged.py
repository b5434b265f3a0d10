"""Ways to draw judgments, for the tests of the algebra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from kilter.data.records import Candidate, Judgment, Prompt

Tiers = tuple[tuple[int, ...], ...]


@st.composite
def weak_orders(draw: st.DrawFn, least: int = 2, most: int = 6) -> Tiers:
    """A weak order of `least` to `most` candidates."""
    places = draw(st.lists(st.integers(0, most - 1), min_size=least, max_size=most))
    return tuple(tuple(i for i, p in enumerate(places) if p == place) for place in sorted(set(places)))


def judgment(tiers: Tiers, answers: Sequence[str] = (), text: str = "q", **more: Any) -> Judgment:
    """A judgment of answers "0", "1" ... to one prompt."""
    prompt = more.pop("prompt", None) or Prompt(messages=({"role": "user", "content": text},))
    answers = answers or [str(i) for i in range(sum(map(len, tiers)))]
    made = tuple(Candidate(prompt_id=prompt.id, answer=a) for a in answers)
    return Judgment(prompt=prompt, candidates=made, tiers=tiers, **more)


def by(rater: str, tiers: Tiers, answers: Sequence[str] = (), **more: Any) -> Judgment:
    """The same, by a rater."""
    return judgment(tiers, answers, rater={"id": rater, "type": "person"}, **more)


def reordered(j: Judgment, order: Sequence[int]) -> Judgment:
    """The same judgment with its candidates listed in another order; `order` holds the old positions."""
    new = {old: place for place, old in enumerate(order)}
    pick = lambda values: tuple(values[i] for i in order) if values else ()  # noqa: E731
    return Judgment(
        prompt=j.prompt,
        candidates=pick(j.candidates),
        tiers=tuple(tuple(new[i] for i in tier) for tier in j.tiers),
        kind=j.kind,
        order_shown=tuple(new[i] for i in j.order_shown),
        strength=j.strength,
        ratings=pick(j.ratings),
        probability=j.probability,
        flags=pick(j.flags),
        aspects=pick(j.aspects),
        all_bad=j.all_bad,
        rater=j.rater,
        guideline=j.guideline,
    )


def words_of(j: Judgment) -> list[list[str]]:
    """The tiers by the texts of their answers."""
    return [sorted(j.candidates[i].answer for i in tier) for tier in j.tiers]
