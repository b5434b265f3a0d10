"""Rows of a user's JSONL → kilter's nouns. Each reader says what a row lacks; kilter's own records pass through.

text            {"text"}
demonstrations  {"prompt", "answer"} · {"messages": [...]} whose last turn is the assistant's
prompts         {"prompt"} · {"messages": [...]} whose last turn is the user's
rankings        {"prompt", "answers": [...], "tiers": [[best...], ...]} · {"prompt", "chosen", "rejected"} · a Judgment
A prompt is a text (one user turn), a list of messages, or a Prompt record; an answer may also be called `completion`,
`response` or `output`, a prompt `instruction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.records import Candidate, Demonstration, Judgment, Message, Prompt
from kilter.data.render import check_messages
from kilter.errors import DataError

ANSWERS = ("answer", "completion", "response", "output")
PROMPTS = ("prompt", "instruction", "messages")


def text(row: Mapping[str, Any], where: str) -> str:
    """The document of a text row."""
    value = row.get("text")
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field 'text' must be a text that is not empty, got {_seen(row, 'text')}")
    return value


def prompt(row: Mapping[str, Any], where: str) -> Prompt:
    """The prompt of a row in any of the forms above."""
    name = next((n for n in PROMPTS if n in row), None)
    if name is None:
        raise DataError(f"{where}: no prompt; give one of the fields {', '.join(PROMPTS)} (row has {sorted(row)})")
    value = row[name]
    if isinstance(value, Mapping) and "messages" in value:
        found = Prompt.from_json(value)
    elif name == "messages" and "id" in row:
        found = Prompt.from_json(row)
    elif isinstance(value, str):
        if not value.strip():
            raise DataError(f"{where}: field {name!r} is empty")
        found = Prompt(messages=({"role": "user", "content": value},))
    elif isinstance(value, list):
        found = Prompt(messages=tuple(value))
    else:
        raise DataError(f"{where}: field {name!r} must be a text or a list of messages, got {_seen(row, name)}")
    check_messages(found.messages, where)
    return found


def demonstration(row: Mapping[str, Any], where: str) -> Demonstration:
    """A prompt with the answer to imitate."""
    messages = row.get("messages")
    if isinstance(messages, list) and not any(a in row for a in ANSWERS):
        if not messages or not isinstance(messages[-1], Mapping) or messages[-1].get("role") != "assistant":
            raise DataError(f"{where}: the last of 'messages' must be the assistant's answer")
        asked: list[Message] = messages[:-1]
        return Demonstration(prompt=prompt({"prompt": asked}, where), answer=_answer(messages[-1], "content", where))
    name = next((n for n in ANSWERS if n in row), None)
    if name is None:
        raise DataError(f"{where}: no answer; give one of the fields {', '.join(ANSWERS)} (row has {sorted(row)})")
    return Demonstration(prompt=prompt(row, where), answer=_answer(row, name, where))


def judgment(row: Mapping[str, Any], where: str) -> Judgment:
    """Answers to one prompt in a weak order."""
    if "candidates" in row:
        found = Judgment.from_json(row)
        check_messages(found.prompt.messages, where)
        answers, tiers = [c.answer for c in found.candidates], found.tiers
    else:
        asked = prompt(row, where)
        answers, tiers = _ranked(row, where)
        candidates = tuple(Candidate(prompt_id=asked.id, answer=a) for a in answers)
        found = Judgment(prompt=asked, candidates=candidates, tiers=tiers)
    if len(answers) < 2:
        raise DataError(f"{where}: a ranking needs at least 2 answers, got {len(answers)}")
    for number, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise DataError(f"{where}: answer {number} must be a text, got {type(answer).__name__}")
    return found


def _ranked(row: Mapping[str, Any], where: str) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    if "chosen" in row and "rejected" in row:
        return [_answer(row, "chosen", where), _answer(row, "rejected", where)], ((0,), (1,))
    answers, tiers = row.get("answers"), row.get("tiers")
    if not isinstance(answers, list) or not isinstance(tiers, list):
        raise DataError(
            f"{where}: a ranking needs 'chosen' and 'rejected', or 'answers' and 'tiers' (row has {sorted(row)})"
        )
    if not all(isinstance(tier, list) and all(type(i) is int for i in tier) for tier in tiers):
        raise DataError(f"{where}: 'tiers' must list positions of answers, best tier first, got {_seen(row, 'tiers')}")
    return answers, tuple(map(tuple, tiers))


def _answer(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row[name]
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):  # conversational chosen / rejected
        value = value[-1].get("content")
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {name!r} must be a text that is not empty, got {_seen(row, name)}")
    return value


def _seen(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return f"no such field (row has {sorted(row)})"
    return f"{row[name]!r:.60} ({type(row[name]).__name__})"
