"""From text back to the task: what a request in the world's words asks for, with nothing but its messages to go by.

Over HTTP only text arrives, so the hands and the oracle behind an endpoint read requests as anyone would: every wording
in every way of asking is a template with typed slots, looked up by the kinds of its words. Slots that a wording doesn't
name stay open; what an earlier turn says (a name, who "she" is) is taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from kilter.data.records import Message, Prompt
from kilter.sandbox.conversations import SMALL_TALK
from kilter.sandbox.grammar import TOKEN, Pattern, by_kind, pattern_of, read, sentences
from kilter.sandbox.tasks import SAD
from kilter.sandbox.wordings import AGAIN, ASK, DO, LEAD_INS, SYSTEM, WORDINGS
from kilter.sandbox.world import RELATIONS, VERSION, default_world

Spec = dict[str, Any]

VARIANT = {
    "fact": "rel", "why": "rel", "unknown": "what", "clarify": "ask", "closed": "event", "sort": "of",
    "puzzle": "what", "unsafe": "harm", "lookalike": "topic", "note": "occasion", "ideas": "topic",
    "speech": "what", "news": "news", "summary": "text", "extract": "what",
}  # fmt: skip
"""What the part behind the dot of a wording's key means, by kind."""
CATEGORY = {
    "story": "generation", "note": "generation", "describe": "generation", "poem": "generation", "fact": "open_qa",
    "why": "open_qa", "unknown": "open_qa", "ideas": "brainstorming", "tools": "brainstorming", "news": "chat",
    "hello": "chat", "thanks": "chat", "polite": "rewrite", "past": "rewrite", "shorter": "rewrite",
    "summary": "summarization", "feeling": "classification", "sort": "classification", "closed": "closed_qa",
    "extract": "extract", "speech": "other", "puzzle": "other", "unsafe": "unsafe", "lookalike": "lookalike",
    "clarify.who.story": "generation", "clarify.what.note": "generation", "clarify.whom": "open_qa",
    "clarify.which.sentence": "rewrite", "clarify.what.fix": "other",
}  # fmt: skip
"""A kind's (or, where a kind is asked in several, a wording's) use case."""
COUNTS = {"two": 2, "three": 3, "four": 4}
EITHER = {"pro": ("he", "she"), "her": ("him", "her"), "part": ("morning", "evening")}
LONGEST = 80
"""Words beyond which nobody in the world asks anything."""


def understand(messages: Sequence[Message]) -> Prompt | None:
    """The conversation as a prompt of the world, with the spec that the oracle reads; None for anything else."""
    turns = [m for m in messages if m["role"] != "system"]
    if not turns or turns[-1]["role"] != "user":
        return None
    found = _request(turns[-1]["content"].strip())
    if found is None:
        return None
    key, slots = found
    spec = _complete(key, slots, turns[:-1])
    if spec is None:
        return None
    said = [m["content"].strip() for m in messages if m["role"] == "system"]
    lines = [line.strip() for text in said for line in text.splitlines()]
    known = [text for text in (" ".join(said), *lines) if text in manners()]
    if known:  # a principle may stand above the manner that the request came with
        spec["sys"] = manners()[known[0]]
    category = CATEGORY.get(key) or CATEGORY[spec["kind"]]
    extra = {"sandbox": {**spec, "world": VERSION}}
    return Prompt(messages=tuple(messages), source="sandbox", category=category, extra=extra)


@cache
def manners() -> dict[str, str]:
    """System message → the manner that it asks for."""
    return {text: name for name, texts in SYSTEM.items() for text in texts}


def _request(text: str) -> tuple[str, dict[str, str]] | None:
    """The wording's key and its slots."""
    tries = (text,) if text[-1:] in ".!?" else (text, text + "?", text + ".")
    for tried in tries:
        tokens = TOKEN.findall(tried.lower())
        if len(tokens) > LONGEST:
            return None
        shape, words = by_kind(tokens)
        for key, pattern in templates().get(shape, ()):
            if pattern.fits(words) and _consistent(pattern, words):
                return key, pattern.slots(words)
        for key, regex in passages():
            match = regex.fullmatch(tried)
            if match and (slots := _from_passage(key, **match.groupdict())):
                return key, slots
    return None


def _consistent(pattern: Pattern, words: Sequence[str]) -> bool:
    """Whether a slot that stands twice holds the same word twice."""
    seen: dict[str, str] = {}
    return all(seen.setdefault(n, w) == w for n, w in zip(pattern.names, words, strict=True) if n)


@cache
def templates() -> dict[tuple[str, ...], tuple[tuple[str, Pattern], ...]]:
    """Words by kind → the requests that can be worded so."""
    table: dict[tuple[str, ...], list[tuple[str, Pattern]]] = {}
    for key, text in _texts():
        for whole in _expanded(text):
            pattern = pattern_of(whole)
            if (key, pattern) not in table.setdefault(pattern.key, []):
                table[pattern.key].append((key, pattern))
    return {shape: tuple(sorted(rows, key=lambda r: -len(r[1].literals))) for shape, rows in table.items()}


def _texts() -> Iterator[tuple[str, str]]:
    """Every wording in every way of asking that needs no passage."""
    for key, wording in WORDINGS.items():
        kind = key.split(".")[0]
        for text in (*wording.texts, *wording.reserved):
            if "{passage}" in text:
                continue
            if kind in SMALL_TALK:
                yield key, text
                if kind == "news":
                    yield key, f"I am {{person}}. {text}"
                    yield key, f"{text} Yours, {{person}}."
            elif wording.mode == "text":
                yield from ((key, lead + text) for lead in (*LEAD_INS[0], *LEAD_INS[1]))
            else:
                ways = DO if wording.mode == "do" else ASK
                yield from ((key, how.replace("{X}", text).replace("{x}", text)) for how in (*ways[0], *ways[1]))
    for key, texts in AGAIN.items():
        yield from ((key, text) for text in texts)


def _expanded(text: str) -> Iterator[str]:
    """A wording with its composed parts spelt out: whom a story is about, he or she, how many."""
    text = text.replace("{Order}", "{order}").replace("{n}", "{number}")
    if "{who}" in text:
        for more in ("", " and {person2}", " and a {thing}", " and a {animal}"):
            for where in ("", " in {town}"):
                for length in ("", " in {number} sentences"):
                    yield from _expanded(text.replace("{who}", "{person}" + more + where + length))
        return
    for name, words in EITHER.items():
        if "{" + name + "}" in text:
            for word in words:
                yield from _expanded(text.replace("{" + name + "}", word))
            return
    yield text


@cache
def passages() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The wordings that quote a little text, as expressions that find it."""
    leads = "|".join(re.escape(lead) for lead in (*LEAD_INS[0], *LEAD_INS[1]) if lead)
    found = []
    for key, wording in WORDINGS.items():
        for text in (*wording.texts, *wording.reserved):
            if "{passage}" in text:
                body = (
                    re.escape(text).replace(r"\{passage\}", "(?P<passage>.+)").replace(r"\{person\}", r"(?P<who>\w+)")
                )
                found.append((key, re.compile(f"(?:{leads})?{body}", re.IGNORECASE | re.DOTALL)))
    return tuple(found)


VALUE_OF = {"went": "town", "bought": "food", "met": "person2", "saw": "animal"}


def _from_passage(key: str, passage: str, who: str = "") -> dict[str, str] | None:
    """Slots of a closed question or an extraction, read from the text that it quotes."""
    readings = [read(s) for s in sentences(passage)]
    told = [r for r in readings if r is not None and r.frame in VALUE_OF]
    if len(told) != len(readings) or not told:
        return None
    kind, variant = key.split(".", 1)
    if kind == "closed":
        person = default_world().proper.get(who.lower(), "")
        if person not in default_world().people:
            return None
        value = VALUE_OF[variant]
        known = [r.slots[value] for r in told if r.frame == variant and r.slots["person"] == person]
        return {"person": person, **({value: known[0]} if known else {})}
    slots: dict[str, str] = {}
    for reading in told:
        slots |= {k: v for k, v in reading.slots.items() if k not in slots}
    wanted = "person2" if variant == "names" else variant
    return slots if wanted in slots else None


def _complete(key: str, slots: dict[str, str], earlier: Sequence[Message]) -> Spec | None:
    """The spec: the kind, its variant, its slots, and what follows from them or from earlier turns."""
    kind, _, variant = key.partition(".")
    spec: Spec = {"kind": kind, **({VARIANT[kind]: variant} if kind in VARIANT else {}), **slots}
    number = spec.pop("number", None) if kind in ("story", "ideas") else None
    if number is not None:
        if number not in COUNTS or (kind == "ideas" and number == "four"):
            return None
        spec["n"] = COUNTS[number] if kind == "story" else number
    if kind == "news":
        spec["mood"] = "sad" if variant in ("lost", "ill") else "glad"
    if kind == "feeling":
        spec["mood"] = "sad" if spec["past"] in SAD else "glad"
    if kind == "clarify":
        return spec
    if "person" not in spec and (kind in ("news", "thanks") or (kind == "fact" and RELATIONS[variant][0] == "person")):
        person = _named(earlier)
        if not person:
            return None
        spec["person"] = person
    return spec


def _named(earlier: Sequence[Message]) -> str:
    """The person whom the users' earlier turns named last."""
    people = set(default_world().people)
    words = [w for m in earlier if m["role"] == "user" for w in re.findall(r"\w+", m["content"]) if w in people]
    return words[-1] if words else ""
