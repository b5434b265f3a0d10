r"""The final answer of a text, found by a stated form, and when two answers are the same.

boxed   the last \boxed{...}, its braces matched
line    the last line "Answer: x", "The answer is x." or "#### x"; the mark may also follow a sentence on its line
plain   a text that is nothing but its answer: one line of a few words
auto    the first of these that the text has

What has none of them has no answer: nothing is guessed from the last number or the last word.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, NamedTuple

Form = Literal["auto", "boxed", "line", "plain"]
LINE = re.compile(
    r"(?:^|(?<=[\s*(]))(?:(?:the\s+)?(?:final\s+)?answer\s*(?:\*\*)?\s*(?::|is\b:?)|#{4})[ \t*]*(?P<answer>\S[^\n]*?)"
    r"[ \t*]*$",
    re.IGNORECASE | re.MULTILINE,
)
PLAIN_WORDS = 6
"""Words in a plain answer at most."""
EDGES = " \t\n\"'`*$.,;:!?()"
ARTICLE = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|[-+]?\.\d+")


class Final(NamedTuple):
    """An answer and the form in which it was found."""

    answer: str
    form: str


def final(text: str, form: Form = "auto") -> Final | None:
    """The final answer of a text; None where it has none of that form."""
    readers = {"boxed": boxed, "line": line, "plain": plain}
    for name, reader in readers.items():
        if form in ("auto", name):
            found = reader(text)
            if found:
                return Final(found, name)
    return None


def boxed(text: str) -> str:
    r"""What stands in the last \boxed{...}; empty where there is none, or its braces don't close."""
    begin = text.rfind("\\boxed{")
    depth = 0
    for i in range(begin + len("\\boxed"), len(text)) if begin >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[begin + len("\\boxed{") : i].strip()
    return ""


def line(text: str) -> str:
    """What stands behind the last mark of an answer."""
    found = list(LINE.finditer(text))
    return found[-1]["answer"].strip(EDGES) if found else ""


def plain(text: str) -> str:
    """The text itself where it is one line of a few words."""
    whole = text.strip()
    broken = "\n" in whole or "\\boxed{" in whole or whole.endswith(":")
    return "" if broken or len(whole.split()) > PLAIN_WORDS else whole.strip(EDGES)


def same(a: str, b: str) -> bool:
    """Whether two answers are one: as numbers where both are, else as words without case, articles and end marks."""
    return normal(a) == normal(b) != ""


def normal(answer: str) -> str:
    """An answer as it is compared."""
    text = ARTICLE.sub("", " ".join(answer.strip(EDGES).lower().split())).strip(EDGES)
    signed = "-" + text if answer.strip(" \t\n\"'`*$(").startswith("-") and not text.startswith("-") else text
    if NUMBER.fullmatch(signed):
        try:
            return str(Fraction(signed.replace(",", "")))
        except (ValueError, ZeroDivisionError):
            return signed
    return text
