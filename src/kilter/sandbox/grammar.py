"""Writing and reading the world's sentences: `say` fills a frame's slots, `read` finds frame and slots again.

Reading replaces each word that the world knows by its kind ("Tom lives in Saltby." → "{person} lives in {town} .")
and looks the result up, so a sentence costs a few microseconds however many frames there are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

from kilter.sandbox.phrases import DENIALS, FRAMES, REASONS
from kilter.sandbox.world import KINDS, OPPOSITE_OF, RELATIONS, default_world

Slots = dict[str, str]
T = TypeVar("T")

SLOT = re.compile(r"\{([a-z]+)(\d?)\}")
TOKEN = re.compile(r"[^\W\d_]+|[^\s]")
SENTENCE = re.compile(r"[^.!?\n]*[.!?]+|[^.!?\n]+")
DEAR = re.compile(r"\b(Dear \w+,)\s")


class Reading(NamedTuple):
    """What a sentence says: the frame, and the slots by name."""

    frame: str
    slots: Slots


@cache
def slots_of(frame: str) -> tuple[tuple[str, ...], ...]:
    """The slot names of each wording of a frame."""
    return tuple(tuple(a + b for a, b in SLOT.findall(text)) for text in FRAMES[frame])


def kind(slot: str) -> str:
    """`person2` → `person`."""
    return slot.rstrip("0123456789")


def say(frame: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """One wording of the frame, as `speak` fills it."""
    return speak(frame, slots, rng)[0]


def speak(frame: str, slots: Mapping[str, str], rng: random.Random) -> tuple[str, Slots]:
    """One wording and the slots it used; what isn't given is drawn (a fact's value is looked up, so it is true)."""
    texts = FRAMES[frame]
    which = int(rng.random() * len(texts)) if len(texts) > 1 else 0
    filled = fill(frame, slots_of(frame)[which], slots, rng)
    text = texts[which].format_map(filled)
    return (text if text[0].isupper() else text[0].upper() + text[1:]), filled


def fill(frame: str, names: tuple[str, ...], slots: Mapping[str, str], rng: random.Random) -> Slots:
    """Every named slot with a word: the given one, the true one, or a fresh draw of the kind."""
    given = dict(slots)
    if frame in RELATIONS:
        subject, value = RELATIONS[frame]
        if subject not in given and value in given:
            given[subject] = pick(knowers(frame, given[value]), rng)
        elif value not in given and subject in given:
            given[value] = pick(default_world().facts[frame, given[subject]], rng)
    out: Slots = {}
    for name in names:
        word = given.get(name)
        while word is None:
            draw = pick(KINDS[kind(name)], rng)
            word = None if draw in out.values() or draw in given.values() else draw
        out[name] = word
    return out


@cache
def knowers(relation: str, value: str) -> tuple[str, ...]:
    """The subjects of which this holds, without the held-out facts."""
    world = default_world()
    held = world.held_out
    return tuple(s for (r, s), vs in world.facts.items() if r == relation and value in vs and (r, s) not in held)


def pick(items: Sequence[T], rng: random.Random) -> T:
    """`rng.choice` at a third of its cost."""
    return items[int(rng.random() * len(items))]


def some(kinds: str, rng: random.Random) -> Slots:
    """Fresh words for slots, `some("person person2 thing")`, no word twice."""
    out: Slots = {}
    for slot in kinds.split():
        words = KINDS[kind(slot)]
        out[slot] = pick(words, rng)
        while list(out.values()).count(out[slot]) > 1:
            out[slot] = pick(words, rng)
    return out


class Pattern(NamedTuple):
    """A template as it is looked up: its words by kind, its slots in order, literal words that stand for a kind."""

    key: tuple[str, ...]
    names: tuple[str, ...]
    literals: tuple[tuple[int, str], ...]

    def fits(self, words: Sequence[str]) -> bool:
        return all(words[i] == word for i, word in self.literals)

    def slots(self, words: Sequence[str]) -> Slots:
        proper = default_world().proper
        return {n: proper[w] for n, w in zip(self.names, words, strict=True) if n}


def pattern_of(template: str) -> Pattern:
    """A template with typed slots, ready to be looked up by `by_kind` of a text."""
    kind_of = default_world().kind_of
    key: list[str] = []
    names: list[str] = []
    literals: list[tuple[int, str]] = []
    for piece in re.findall(r"\{[a-z]+\d?\}|[^\W\d_]+|[^\s]", template):
        if piece[0] == "{":
            names.append(piece[1:-1])
            key.append("{" + kind(piece[1:-1]) + "}")
            continue
        word = "." if piece == "!" else piece.lower()
        if word in kind_of:
            literals.append((len(names), word))
            names.append("")
            key.append("{" + kind_of[word] + "}")
        else:
            key.append(word)
    return Pattern(tuple(key), tuple(names), tuple(literals))


@cache
def patterns() -> dict[tuple[str, ...], tuple[tuple[str, Pattern], ...]]:
    """Delexicalised tokens → frames that can be said so, those with the most literal words first."""
    table: dict[tuple[str, ...], list[tuple[str, Pattern]]] = {}
    for frame, texts in FRAMES.items():
        for text in texts:
            pattern = pattern_of(text)
            table.setdefault(pattern.key, []).append((frame, pattern))
    return {key: tuple(sorted(rows, key=lambda r: -len(r[1].literals))) for key, rows in table.items()}


def by_kind(tokens: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Lower-case tokens with each word that the world knows replaced by its kind, and those words."""
    kind_of = default_world().kind_of
    key: list[str] = []
    words: list[str] = []
    for token in tokens:
        found = kind_of.get(token)
        if found is None:
            key.append("." if token == "!" else token)
        else:
            key.append("{" + found + "}")
            words.append(token)
    return tuple(key), words


def read(sentence: str) -> Reading | None:
    """Frame and slots of one sentence, or None when nobody in the world would say it."""
    tokens = TOKEN.findall(sentence.lower())
    return read_tokens(tokens) if len(tokens) <= 40 else None


def read_tokens(tokens: list[str]) -> Reading | None:
    key, words = by_kind(tokens)
    for frame, pattern in patterns().get(key, ()):
        if pattern.fits(words):
            return Reading(frame, pattern.slots(words))
    return None


def sentences(text: str) -> list[str]:
    """The text's sentences with their end marks; `Dear Ada,` stands for itself."""
    return [s.strip() for s in SENTENCE.findall(DEAR.sub(r"\1\n", text)) if s.strip()]


def read_as(sentence: str, subject: str, person: str) -> Reading | None:
    """Read a sentence that begins with a pronoun for `person` (he, she) or for `subject` (it)."""
    tokens = TOKEN.findall(sentence.lower())[:40]
    if not tokens:
        return None
    if tokens[0] in ("he", "she"):
        if not person or tokens[0] != default_world().pronoun(person):
            return None
        return read_tokens([person.lower(), *tokens[1:]])
    if tokens[0] == "it" and subject:
        lead = [subject.lower()] if subject[0].isupper() else ["a", subject]
        return read_tokens(lead + tokens[1:])
    return None


def claims(reading: Reading) -> list[bool]:
    """Whether each thing that the sentence asserts about the world is true; empty for fiction and courtesies."""
    world, (frame, slots) = default_world(), reading
    if frame in RELATIONS:
        subject, value = RELATIONS[frame]
        return [world.true(frame, slots[subject], slots[value])]
    if frame in DENIALS:
        subject, value = RELATIONS[frame[4:]]
        return [not world.true(frame[4:], slots[subject], slots[value])]
    if frame in REASONS:
        if frame == "because.home":
            return [
                world.true("home", slots["person"], slots["town"]),
                world.true("famous", slots["town"], slots["place"]),
            ]
        return [
            world.true("pet", slots["person"], slots["animal"]),
            world.true("trait", slots["animal"], slots["trait"]),
        ]
    return more_claims(frame, slots)


def more_claims(frame: str, slots: Slots) -> list[bool]:
    """Claims that are not of the knowledge base: sums, days, opposites, a job's two tools, what nobody can know."""
    world = default_world()
    if frame.startswith("guess."):
        return [False]
    if frame == "list.tool.two":
        return [world.true("tool", slots["job"], slots["tool"]), world.true("tool", slots["job"], slots["tool2"])]
    if frame in ("after", "before"):
        days = KINDS["day"]
        step = 1 if frame == "after" else -1
        return [days.index(slots["day2"]) == (days.index(slots["day"]) + step) % 7]
    if frame == "plus":
        a, b, c = (KINDS["number"].index(slots[s]) + 1 for s in ("number", "number2", "number3"))
        return [a + b == c]
    if frame == "opposite":
        return [OPPOSITE_OF[slots["opposite"]] == slots["opposite2"]]
    return []
