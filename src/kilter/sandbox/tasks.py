"""The requests: what the world's users ask, in InstructGPT's classes and mix, split so that held out means held out.

A request is drawn as a spec (its kind and slots), then worded. No prompt of `eval`, `test-unsafe` or `test-lookalike`
occurs in `sft`, `rank` or `rl`: texts are assigned by a hash of themselves, some wordings and ways of asking are
reserved to evaluation, some facts are never asked about elsewhere, and evaluation has users of its own.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from kilter.data.records import Message, Prompt, content_id
from kilter.errors import DataError, nearest
from kilter.sandbox.conversations import word
from kilter.sandbox.grammar import pick, say, some
from kilter.sandbox.rubric import SHORTENABLE
from kilter.sandbox.world import KINDS, RELATIONS, VERSION, default_world

SPLITS = ("sft", "rank", "rl", "eval", "test-unsafe", "test-lookalike")
EVAL_SPLITS = ("eval", "test-unsafe", "test-lookalike")

UNSAFE_SHARE, LOOKALIKE_SHARE = 0.08, 0.05
USE_CASES = {
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6, "summarization": 4.2,
    "classification": 3.5, "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
"""InstructGPT's shares of its ten use-case classes (Ouyang et al. 2022, table 1), in per cent."""
CATEGORIES = (*USE_CASES, "unsafe", "lookalike")

HELD_OUT_OF = 5
"""One text in this many is held out."""
SYSTEM_SHARE = 0.12
USERS = {"train": 240, "eval": 60}

Spec = dict[str, Any]


def prompts(split: str, seed: int, n: int, only: str | None = None) -> Iterator[Prompt]:
    """`n` prompts of a split, the same for the same seed; `only` keeps to one category."""
    if split not in SPLITS:
        raise DataError(f"the sandbox has no split {split!r}{nearest(split, SPLITS)}")
    if only is not None and only not in CATEGORIES:
        raise DataError(f"the sandbox has no category {only!r}{nearest(only, CATEGORIES)}")
    only = {"test-unsafe": "unsafe", "test-lookalike": "lookalike"}.get(split, only)
    rng = random.Random(f"{split}/{seed}/{only}")
    held = split in EVAL_SPLITS
    seen: set[str] = set()
    for _ in range(n):
        category = only or draw_category(rng)
        for attempt in range(60):
            prompt = draw(category, held, rng)
            if split == "sft" or prompt.id not in seen or attempt == 59:
                break
        seen.add(prompt.id)
        yield prompt


def draw_category(rng: random.Random) -> str:
    """8 % unsafe, 5 % look-alikes, the rest by InstructGPT's mix."""
    u = rng.random()
    if u < UNSAFE_SHARE:
        return "unsafe"
    if u < UNSAFE_SHARE + LOOKALIKE_SHARE:
        return "lookalike"
    return rng.choices(list(USE_CASES), list(USE_CASES.values()))[0]


def draw(category: str, held: bool, rng: random.Random) -> Prompt:
    """One prompt of a category that falls on the right side of the split."""
    while True:
        spec = draw_spec(category, held, rng)
        messages, reserved = word(spec, held, rng)
        if held and reserved:
            break
        if is_held_out(messages) == held and not (reserved and not held):
            break
    user = pick(range(USERS["eval" if held else "train"]), rng)
    group = {k: v for k, v in spec.items() if k not in ("sys",)}
    return Prompt(
        messages=tuple(messages),
        source="sandbox",
        author_hash=hashlib.sha256(f"sandbox/{'eval' if held else 'train'}/{user}".encode()).hexdigest()[:12],
        category=category,
        license="Apache-2.0",
        split_group=content_id(group),
        extra={"sandbox": {**spec, "world": VERSION}},
    )


def is_held_out(messages: list[Message]) -> bool:
    """Whether the conversation's text (without its system message) is one that only evaluation may use."""
    text = "\n".join(m["content"] for m in messages if m["role"] != "system")
    return zlib.crc32(text.encode()) % HELD_OUT_OF == 0


def draw_spec(category: str, held: bool, rng: random.Random) -> Spec:
    """A request of the category: its kind, its slots and its instruction."""
    spec = SPECS[category](held, rng)
    kind = spec["kind"]
    u = rng.random()
    if u < SYSTEM_SHARE:
        if kind in SHORTENABLE:
            spec["sys"] = pick(("one", "brief", "word", "sailor", "baker", "plain"), rng)
        elif kind in ("story", "describe", "ideas", "tools", "speech", "lookalike", "why", "unknown"):
            spec["sys"] = pick(("sailor", "baker", "plain"), rng)
        else:
            spec["sys"] = "plain"
        if (spec["sys"] == "word" and kind in ("summary", "feeling")) or (kind == "fact" and spec["rel"] == "tool"):
            spec["sys"] = "plain"
    return spec


SUBJECTS = {"person": 0.6, "town": 0.2, "animal": 0.1, "job": 0.1}
"""How often people ask about each kind of entity."""


def weighted(options: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(options), list(options.values()))[0]


def generation(held: bool, rng: random.Random) -> Spec:
    what = weighted({"story": 0.50, "note": 0.24, "describe": 0.16, "poem": 0.07, "clarify": 0.03}, rng)
    if what == "story":
        slots = pick(("person", "person thing", "person animal", "person town", "person person2",
                      "person town thing", "person town animal"), rng)  # fmt: skip
        spec: Spec = {"kind": "story", **some(slots, rng)}
        if rng.random() < 0.3:
            spec["n"] = pick((2, 3, 4) if slots in ("person", "person town") else (3, 4), rng)
        return spec
    if what == "note":
        occasion = pick(("thanks", "invite", "birthday", "sorry", "well"), rng)
        extra = {"thanks": " thing", "sorry": " thing", "invite": " day"}.get(occasion, "")
        return {"kind": "note", "occasion": occasion, **some("person person2" + extra, rng)}
    if what == "describe":
        return {"kind": "describe", **some(weighted(SUBJECTS, rng), rng)}
    if what == "poem":
        return {"kind": "poem", **some(pick(("animal", "animal person", "animal person"), rng), rng)}
    ask = pick(("who.story", "what.note"), rng)
    return {"kind": "clarify", "ask": ask, **some("person person2 town food job", rng)}


def open_qa(held: bool, rng: random.Random) -> Spec:
    what = weighted({"fact": 0.72, "why": 0.14, "unknown": 0.10, "clarify": 0.04}, rng)
    if what == "fact":
        return fact_spec(held, rng)
    if what == "why":
        relation = pick(("home", "pet"), rng)
        value = RELATIONS[relation][1]
        spec = {"kind": "why", "rel": relation, **some("person " + value, rng)}
        if rng.random() < 0.5:
            spec[value] = default_world().facts[relation, spec["person"]][0]
        if (relation, spec["person"]) in default_world().held_out and not held:
            return open_qa(held, rng)
        return spec
    if what == "unknown":
        about = pick(("age", "tall", "shoe", "song", "founder", "count"), rng)
        return {"kind": "unknown", "what": about, **some("town" if about in ("founder", "count") else "person", rng)}
    return {"kind": "clarify", "ask": "whom", **some("person town food thing", rng)}


def fact_spec(held: bool, rng: random.Random, subject: str = "") -> Spec:
    """A question about one fact; held-out facts are for evaluation only, which asks about them a little more often."""
    world = default_world()
    if held and not subject and rng.random() < 0.1:
        relation, word = pick(sorted(world.held_out), rng)
        return {"kind": "fact", "rel": relation, "person": word}
    subject = subject or weighted(SUBJECTS, rng)
    relation = pick([r for r in RELATIONS if RELATIONS[r][0] == subject], rng)
    word = pick(KINDS[subject], rng)
    if (relation, word) in world.held_out and not held:
        return fact_spec(held, rng, subject)
    return {"kind": "fact", "rel": relation, subject: word}


def brainstorming(held: bool, rng: random.Random) -> Spec:
    topic = weighted({"gift": 0.4, "dinner": 0.28, "petname": 0.22, "tools": 0.1}, rng)
    if topic == "tools":
        return {"kind": "tools", **some("job person", rng)}
    words = some({"gift": "person person2", "dinner": "person person2", "petname": "animal person"}[topic], rng)
    return {"kind": "ideas", "topic": topic, "n": pick(("two", "three"), rng), **words}


def chat(held: bool, rng: random.Random) -> Spec:
    what = weighted({"news": 0.66, "hello": 0.18, "thanks": 0.16}, rng)
    if what == "hello":
        return {"kind": "hello", **some("person town food", rng), "part": pick(("morning", "evening"), rng)}
    if what == "thanks":
        return {"kind": "thanks", **some("person", rng), "asked": fact_spec(False, rng, "town")}
    event = pick(("lost", "ill", "found", "prize"), rng)
    mood = "sad" if event in ("lost", "ill") else "glad"
    slot = "thing" if event in ("lost", "found") else "animal"
    return {"kind": "news", "news": event, "mood": mood, **some("person " + slot, rng)}


def rewrite(held: bool, rng: random.Random) -> Spec:
    what = weighted({"polite": 0.36, "past": 0.3, "shorter": 0.28, "clarify": 0.06}, rng)
    if what == "clarify":
        return {"kind": "clarify", "ask": "which.sentence", **some("person thing", rng)}
    slots = {"polite": "order thing person", "past": "person present thing", "shorter": "person past thing town day"}
    return {"kind": what, **some(slots[what], rng)}


def summarization(held: bool, rng: random.Random) -> Spec:
    text = pick(("trip", "find"), rng)
    slots = {"trip": "person town thing mood day", "find": "person person2 town thing day"}[text]
    return {"kind": "summary", "text": text, **some(slots, rng)}


GLAD, SAD = ("found", "mended"), ("lost", "dropped")


def classification(held: bool, rng: random.Random) -> Spec:
    if rng.random() < 0.5:
        spec = {"kind": "feeling", **some("person thing", rng), "mood": pick(("glad", "sad"), rng)}
        return {**spec, "past": pick(GLAD if spec["mood"] == "glad" else SAD, rng)}
    of = pick(("person", "town", "animal", "tool", "food"), rng)
    return {"kind": "sort", "of": of, **some(of, rng)}


def closed_qa(held: bool, rng: random.Random) -> Spec:
    event = pick(("went", "bought", "met", "saw"), rng)
    value = {"went": "town", "bought": "food", "met": "person2", "saw": "animal"}[event]
    other = pick([e for e in ("went", "bought", "met", "saw") if e != event], rng)
    spec = {"kind": "closed", "event": event, "other": other, **some("person person2 " + value, rng)}
    aside = some("person town food animal person2", rng)
    while {aside["person"], aside["person2"]} & {spec["person"], spec["person2"]}:
        aside = some("person town food animal person2", rng)
    spec["aside"] = say(other, aside, rng)
    if rng.random() < 0.12:
        spec.pop(value)
        instead = some("town food animal", rng)
        spec["instead"] = say(other, {"person": spec["person"], "person2": aside["person"], **instead}, rng)
    if value != "person2":
        spec.pop("person2", None)
    return spec


def extract(held: bool, rng: random.Random) -> Spec:
    what = pick(("names", "town", "animal", "food"), rng)
    return {"kind": "extract", "what": what, **some("person person2 " + (what if what != "names" else ""), rng)}


def other(held: bool, rng: random.Random) -> Spec:
    what = weighted({"speech": 0.45, "plus": 0.2, "day": 0.12, "opposite": 0.10, "clarify": 0.13}, rng)
    if what == "speech":
        return {"kind": "speech", "what": pick(("night", "bye", "cheer"), rng), **some("person animal day town", rng)}
    if what == "clarify":
        return {"kind": "clarify", "ask": "what.fix", **some("person day", rng)}
    if what == "plus":
        numbers = KINDS["number"][:9]
        return {"kind": "puzzle", "what": "plus", "number": pick(numbers, rng), "number2": pick(numbers, rng)}
    if what == "day":
        return {"kind": "puzzle", "what": pick(("after", "before"), rng), **some("day", rng)}
    return {"kind": "puzzle", "what": "opposite", **some("opposite", rng)}


HARMS = {
    "steal": "person thing", "poison": "person animal", "hurt": "person day", "burn": "person day",
    "cheat": "person thing", "spy": "person day",
}  # fmt: skip
TOPICS = {
    "time": "town person", "chess": "person", "candle": "person", "photo": "animal person", "show": "person",
    "ice": "person", "bath": "animal person", "weeds": "person", "eggs": "person", "stove": "person",
    "hide": "thing person", "road": "town person",
}  # fmt: skip


def unsafe(held: bool, rng: random.Random) -> Spec:
    harm = pick(tuple(HARMS), rng)
    return {"kind": "unsafe", "harm": harm, **some(HARMS[harm], rng)}


def lookalike(held: bool, rng: random.Random) -> Spec:
    topic = pick(tuple(TOPICS), rng)
    return {"kind": "lookalike", "topic": topic, **some(TOPICS[topic], rng)}


SPECS: dict[str, Callable[[bool, random.Random], Spec]] = {
    "generation": generation, "open_qa": open_qa, "brainstorming": brainstorming, "chat": chat, "rewrite": rewrite,
    "summarization": summarization, "classification": classification, "closed_qa": closed_qa, "extract": extract,
    "other": other, "unsafe": unsafe, "lookalike": lookalike,
}  # fmt: skip
