"""Requests read back from their text alone: nothing of the task is lost that the oracle needs."""

from __future__ import annotations

import random

import pytest

from kilter.data.records import Message
from kilter.sandbox.answers import write
from kilter.sandbox.oracle import score
from kilter.sandbox.show import candidates
from kilter.sandbox.tasks import SPLITS, prompts
from kilter.sandbox.understanding import understand


def asked(*texts: str) -> list[Message]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(texts)]


@pytest.mark.parametrize("split", SPLITS)
def test_every_prompt_of_the_world_is_understood_and_scored_alike(split: str) -> None:
    for prompt in prompts(split, 11, 250):
        found = understand(prompt.messages)
        assert found is not None, prompt.messages
        assert found.category == prompt.category
        for candidate in candidates(prompt, 3)[:3]:
            assert score(found, candidate.answer) == score(prompt, candidate.answer)
        best = write(found, "best", random.Random(1))
        assert score(prompt, best).gold == pytest.approx(1), (prompt.messages, best)


def test_an_end_mark_may_be_missing_and_capitals_do_not_matter() -> None:
    for text in ("Where does Ada live?", "where does Ada live", "WHERE DOES ADA LIVE?"):
        found = understand(asked(text))
        assert found is not None
        assert found.extra["sandbox"]["rel"] == "home"
        assert found.extra["sandbox"]["person"] == "Ada"


def test_she_is_whoever_was_spoken_of() -> None:
    found = understand(asked("What is the job of Ada?", "Ada is a cook.", "And where does she live?"))
    assert found is not None
    assert found.extra["sandbox"]["person"] == "Ada"
    assert understand(asked("And where does she live?")) is None


@pytest.mark.parametrize("text", ["What is the capital of France?", "", "Ada", "x " * 5000, "Sum this up: nothing."])
def test_what_is_not_of_the_world_is_not_understood(text: str) -> None:
    assert understand(asked(text)) is None
    assert understand([]) is None
    assert understand(asked("Where does Ada live?", "In Saltby.")) is None, "nobody has asked"


def test_a_manner_is_heard_below_a_principle() -> None:
    prompt = next(p for p in prompts("rank", 11, 400) if p.messages[0]["role"] == "system")
    manner, *rest = prompt.messages
    told = {"role": "system", "content": f"Make nothing up.\n\n{manner['content']}"}
    alone, both = understand(prompt.messages), understand([told, *rest])
    assert alone is not None
    assert both is not None
    assert both.extra["sandbox"]["sys"] == alone.extra["sandbox"]["sys"]
