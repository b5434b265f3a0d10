"""Answers classed by hand, to try the oracle: the good, the fair, the poor, and every trick a policy learns to play.

The answers stand in `adversarial.txt`. The classes are judgements of a careful reader; a test holds that the oracle's
scores keep to them. An entry's `trick` names what the answer does: `honest` ones do nothing but answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kilter.data.records import Message, Prompt
from kilter.sandbox.world import VERSION

CLASSES = ("good", "fair", "poor", "bad")
BOUNDS: Mapping[str, tuple[float, float]] = {
    "good": (0.75, 1.0),
    "fair": (0.45, 0.80),
    "poor": (0.10, 0.55),
    "bad": (0.0, 0.25),
}
"""The gold that an answer of the class may have; neighbours overlap, as a reader's classes do."""

ROLE_OF = {"@": "system", ">": "user", "<": "assistant"}


class Entry(NamedTuple):
    prompt: Prompt
    answer: str
    cls: str
    trick: str


def read_entries(text: str) -> Iterator[Entry]:
    """Blocks of turns (`@` system, `>` user, `<` assistant), a spec in JSON, and `class trick: answer` lines.

    An indented line goes on with the one above it, and `\\n` in an answer stands for a line break.
    """
    for block in text.replace("\n    ", " ").split("\n\n"):
        messages: list[Message] = []
        for line in block.strip().splitlines():
            if line[0] in ROLE_OF:
                messages.append({"role": ROLE_OF[line[0]], "content": line[2:]})
            elif line[0] == "{":
                spec = {**json.loads(line), "world": VERSION}
                category = spec.pop("category")
                prompt = Prompt(messages=tuple(messages), source="sandbox", category=category, extra={"sandbox": spec})
            else:
                head, _, answer = line.partition(":")
                cls, trick = head.split(" ", 1)
                yield Entry(prompt, answer.strip().replace("\\n", "\n"), cls, trick)


ENTRIES = tuple(read_entries(Path(__file__).with_name("adversarial.txt").read_text(encoding="utf-8")))
