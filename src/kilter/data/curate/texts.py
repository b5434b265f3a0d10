"""How curation sees texts: which texts a row holds, how they are cut and made alike before they are compared.

Compared are texts in Unicode's NFKC form, case folded, blanks as one space. A token is a word, or a character of
scripts that put no space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese).
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from kilter.data.curate.items import Item
from kilter.data.records import Candidate, Demonstration, Judgment, Prompt, Record, Text

Field: TypeAlias = Literal["all", "prompt", "answer"]
"""Which texts of a row a step looks at: the prompt's turns, the answer (every candidate's), or both."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3005\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Characters of scripts without spaces between words."""
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
TOKEN = re.compile(f"[{UNSPACED}]|(?:[^\\W{UNSPACED}]|[{_MARKS}])+")
_ASCII = re.compile(r"\w+", re.ASCII)
_UNSPACED = re.compile(f"[{UNSPACED}]")


def parts(item: Item, field: Field = "all") -> list[str]:
    """The texts of a row: the prompt's turns as one, then each answer."""
    record = item.record
    if isinstance(record, Text):
        return [record.text]
    if isinstance(record, Prompt):
        return [] if field == "answer" else [prompt_text(record)]
    asked = [] if field == "answer" else [prompt_text(record.prompt)]
    return asked if field == "prompt" else asked + answers(record)


def whole(item: Item, field: Field = "all") -> str:
    """All texts of a row as one."""
    return "\n".join(parts(item, field))


def prompt_text(prompt: Prompt) -> str:
    messages = prompt.messages
    return messages[0]["content"] if len(messages) == 1 else "\n".join(m["content"] for m in messages)


def answers(record: Demonstration | Judgment) -> list[str]:
    return [record.answer] if isinstance(record, Demonstration) else [c.answer for c in record.candidates]


def map_texts(record: Record, change: Callable[[str], str], field: Field = "all") -> Any:
    """The record with every text put through a function."""
    if isinstance(record, Text):
        return dataclasses.replace(record, text=change(record.text))
    if isinstance(record, Prompt):
        if field == "answer":
            return record
        return dataclasses.replace(
            record, messages=tuple({**m, "content": change(m["content"])} for m in record.messages)
        )
    assert isinstance(record, (Demonstration, Judgment))
    prompt = map_texts(record.prompt, change, field)
    if field == "prompt":
        return dataclasses.replace(record, prompt=prompt)
    if isinstance(record, Demonstration):
        return dataclasses.replace(record, prompt=prompt, answer=change(record.answer))
    made: Sequence[Candidate] = [dataclasses.replace(c, answer=change(c.answer)) for c in record.candidates]
    return dataclasses.replace(record, prompt=prompt, candidates=tuple(made))


def normal(text: str) -> str:
    """A text as it is compared: NFKC, case folded, runs of blanks one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str) -> list[str]:
    """Words, and single characters of scripts without spaces, of a text made `normal`; punctuation is left out."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def spans(text: str) -> list[tuple[int, int]]:
    """Where each token of a text as it stands begins and ends."""
    return [m.span() for m in TOKEN.finditer(text)]


def unspaced(found: Sequence[str]) -> bool:
    """Whether most tokens are characters of a script without spaces."""
    return sum(1 for t in found if _UNSPACED.match(t)) * 2 > len(found)


def clipped(text: str, most: int = 200) -> str:
    """The beginning of a text, for evidence."""
    return text if len(text) <= most else text[: most - 1] + "…"
