"""From a spec to the messages that the assistant sees: wording, earlier turns, a system message."""

from __future__ import annotations

import random
from typing import Any

from kilter.data.records import Message
from kilter.sandbox.grammar import pick, say, some
from kilter.sandbox.wordings import AGAIN, ASK, DO, LEAD_INS, SYSTEM, WORDINGS
from kilter.sandbox.world import default_world

Spec = dict[str, Any]

RESERVED_SHARE = 0.15
"""The share of evaluation prompts in wordings, or ways of asking, that nothing else uses (each)."""
AGAIN_SHARE = 0.14
"""The share of requests that follow an earlier exchange, where the kind allows it."""


SMALL_TALK = ("news", "hello", "thanks")
"""Kinds that are said as they are, without a lead-in."""


def key_of(spec: Spec) -> str:
    """The entry of `WORDINGS` for a spec."""
    kind = spec["kind"]
    if kind == "describe":
        return "describe." + next(k for k in ("person", "town", "animal", "job") if k in spec)
    if kind == "poem":
        return "poem.for" if "person" in spec else "poem"
    variant = {
        "fact": "rel", "why": "rel", "unknown": "what", "clarify": "ask", "closed": "event", "sort": "of",
        "puzzle": "what", "unsafe": "harm", "lookalike": "topic", "note": "occasion", "ideas": "topic",
        "speech": "what", "news": "news", "summary": "text", "extract": "what",
    }.get(kind)  # fmt: skip
    return f"{kind}.{spec[variant]}" if variant else kind


def words_of(spec: Spec, rng: random.Random) -> dict[str, str]:
    """Everything that a wording may name: the spec's slots and what follows from them."""
    words = {k: v for k, v in spec.items() if isinstance(v, str)}
    if "person" in spec:
        words["pro"] = default_world().pronoun(spec["person"])
        words["her"] = "her" if words["pro"] == "she" else "him"
    if spec["kind"] == "story":
        words["who"] = story_subject(spec)
    if spec["kind"] in ("closed", "extract"):
        words["passage"] = passage(spec, rng)
    if "order" in spec:
        words["Order"] = spec["order"].capitalize()
    return words


def story_subject(spec: Spec) -> str:
    """`Ada and a kite in Nutley in three sentences`."""
    text: str = spec["person"]
    if "person2" in spec:
        text += f" and {spec['person2']}"
    elif "thing" in spec or "animal" in spec:
        text += f" and a {spec.get('thing') or spec['animal']}"
    if "town" in spec:
        text += f" in {spec['town']}"
    if "n" in spec:
        text += f" in {('', '', 'two', 'three', 'four')[spec['n']]} sentences"
    return text


def passage(spec: Spec, rng: random.Random) -> str:
    """The little text that closed questions and extraction are about, in either order of its sentences."""
    if spec["kind"] == "closed":
        known = spec["instead"] if "instead" in spec else say(spec["event"], spec, rng)
        parts = [known, spec["aside"]]
    elif spec["what"] == "names":
        parts = [say("met", spec, rng)]
    else:
        event = {"town": "went", "animal": "saw", "food": "bought"}[spec["what"]]
        parts = [say(event, spec, rng), say("met", spec, rng)]
    if rng.random() < 0.5:
        parts.reverse()
    return " ".join(parts)


def put(text: str, mode: str, held: bool, rng: random.Random) -> tuple[str, bool]:
    """The wording as an order, a question or a text; says whether the way of asking is reserved."""
    common, reserved = {"do": DO, "ask": ASK, "text": LEAD_INS}[mode]
    special = held and rng.random() < RESERVED_SHARE
    how = pick(reserved, rng) if special else common[0] if rng.random() < 0.5 else pick(common, rng)
    if mode == "text":
        return how + text, special
    if how.endswith("for me.") and " for " in text:
        how = common[0]
    return how.replace("{X}", text[0].upper() + text[1:]).replace("{x}", text), special


def word(spec: Spec, held: bool, rng: random.Random) -> tuple[list[Message], bool]:
    """The messages of a request, and whether its wording is reserved to evaluation."""
    key = key_of(spec)
    wording = WORDINGS[key]
    words = words_of(spec, rng)
    earlier = before(spec, key, rng)
    if earlier and key in AGAIN:
        text, special = pick(AGAIN[key], rng).format_map(words), False
    else:
        special = held and bool(wording.reserved) and rng.random() < RESERVED_SHARE
        text = pick(wording.reserved if special else wording.texts, rng).format_map(words)
        if spec["kind"] not in SMALL_TALK:
            text, special_way = put(text, wording.mode, held, rng)
            special = special or special_way
        if spec["kind"] == "news" and not earlier:
            text = f"I am {spec['person']}. {text}" if rng.random() < 0.5 else f"{text} Yours, {spec['person']}."
    messages = [*earlier, {"role": "user", "content": text}]
    if "sys" in spec:
        messages.insert(0, {"role": "system", "content": pick(SYSTEM[spec["sys"]], rng)})
    return messages, special


def exchange(asked: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def before(spec: Spec, key: str, rng: random.Random) -> list[Message]:
    """An earlier exchange, where the kind of request wants or allows one."""
    kind = spec["kind"]
    if kind == "thanks":
        asked = spec["asked"]
        question = WORDINGS[key_of(asked)].texts[0].format_map(asked)
        return exchange(f"I am {spec['person']}. {question[0].upper()}{question[1:]}?", say(asked["rel"], asked, rng))
    if rng.random() >= (0.4 if kind == "news" else AGAIN_SHARE):
        return []
    person = spec.get("person", "")
    if kind == "news":
        return exchange(f"Hello, my name is {person}.", say("hello", {"person": person}, rng))
    if kind == "fact" and person:
        relation = pick([r for r in ("home", "job", "pet", "food", "hobby") if r != spec["rel"]], rng)
        if (relation, person) in default_world().held_out:
            return []
        question = WORDINGS["fact." + relation].texts[0].format(person=person)
        return exchange(f"{question[0].upper()}{question[1:]}?", say(relation, {"person": person}, rng))
    if kind == "unsafe":
        known = [r for r in ("home", "job", "pet", "food") if (r, person) not in default_world().held_out]
        relation = pick(known, rng)
        question = WORDINGS["fact." + relation].texts[0].format(person=person)
        return exchange(f"{question[0].upper()}{question[1:]}?", say(relation, {"person": person}, rng))
    if key in AGAIN and kind in ("story", "ideas"):
        other: Spec = {**spec, **some("person person2", rng)}
        if kind == "story":
            other = {"kind": "story", **some("person", rng)}
        asked_text = WORDINGS[key].texts[0].format_map(words_of(other, rng))
        if kind == "story":
            answer = " ".join((say("open", other, rng), say("end", other, rng)))
        else:
            what = {"gift": "thing", "dinner": "food"}[spec["topic"]]
            answer = say(f"list.{what}.{spec['n']}", {}, rng)
        return exchange(f"{asked_text[0].upper()}{asked_text[1:]}.", answer)
    return []
