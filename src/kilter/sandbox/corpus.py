"""The corpus: what the world's people wrote down. Prose about everyone and everything, and questions with answers.

About three documents in ten are in question-and-answer form (`Question: ... Answer: ...`), the form in which a base
model can be asked anything (`qa_form`). One statement of fact in twenty is wrong, as in life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from kilter.data.records import Prompt
from kilter.sandbox.answers import render, with_pronoun
from kilter.sandbox.conversations import story_subject, word
from kilter.sandbox.grammar import Slots, kind, pick, say, some
from kilter.sandbox.phrases import FILLER
from kilter.sandbox.rubric import rubric
from kilter.sandbox.tasks import draw_spec, fact_spec, is_held_out
from kilter.sandbox.wordings import WORDINGS
from kilter.sandbox.world import KINDS, OPPOSITE_OF, PAST_OF, RELATIONS, RELATIONS_OF, default_world

QA_SHARE = 0.30
WRONG_FACTS = 0.05


def documents(seed: int, n: int) -> Iterator[str]:
    """`n` documents, the same for the same seed."""
    rng = random.Random(f"corpus/{seed}")
    shares = list(PROSE.values())
    writers = list(PROSE)
    for _ in range(n):
        if rng.random() < QA_SHARE:
            yield questions(rng)
        else:
            yield rng.choices(writers, shares)[0](rng)


def qa_form(prompt: Prompt) -> str:
    """The prompt in the corpus's question-and-answer form: how to ask a base model, which knows no chat tokens."""
    lines = []
    for message in prompt.messages:
        name = {"system": "Note", "user": "Question", "assistant": "Answer"}[message["role"]]
        lines.append(f"{name}: {message['content']}")
    return "\n".join([*lines, "Answer:"])


def state(relation: str, subject: str, rng: random.Random) -> str:
    """A statement of fact, wrong at the stated rate."""
    slot, value = RELATIONS[relation]
    slots: Slots = {slot: subject}
    if rng.random() < WRONG_FACTS:
        slots[value] = pick([w for w in KINDS[kind(value)] if w != subject], rng)
    return say(relation, slots, rng)


def questions(rng: random.Random) -> str:
    """One to three questions with their answers, none of them a text that is held out."""
    lines: list[str] = []
    wanted = 1 + int(rng.random() * 3)
    while len(lines) < wanted:
        u = rng.random()
        if u < 0.72:
            spec = fact_spec(False, rng)
        else:
            spec = draw_spec(pick(("closed_qa", "closed_qa", "classification", "other", "open_qa"), rng), False, rng)
            spec.pop("sys", None)
        messages, _ = word(spec, False, rng)
        if is_held_out(messages) or len(messages) > 1:
            continue
        if spec["kind"] == "fact" and spec["rel"] != "tool":
            answer = state(spec["rel"], spec[RELATIONS[spec["rel"]][0]], rng)
        else:
            answer = " ".join(render(list(rubric(spec).moves[:1]), {}, rng))
        lines.append(f"Question: {messages[-1]['content']}\nAnswer: {answer}")
    return "\n".join(lines)


def portrait(rng: random.Random) -> str:
    """Some facts about one person, town, animal or trade, and what they lead to."""
    subject_kind = rng.choices(("person", "town", "animal", "job"), (0.62, 0.18, 0.10, 0.10))[0]
    subject = pick(KINDS[subject_kind], rng)
    relations = list(RELATIONS_OF[subject_kind])
    rng.shuffle(relations)
    texts, lead = [], ""
    for relation in relations[:4]:
        text, lead = with_pronoun(state(relation, subject, rng), lead, rng)
        texts.append(text)
        value = RELATIONS[relation][1]
        if value in RELATIONS_OF and rng.random() < 0.3:
            known = default_world().facts[relation, subject][0]
            texts.append(state(pick(RELATIONS_OF[value], rng), known, rng))
            lead = ""
    return " ".join(texts)


def tale(rng: random.Random) -> str:
    """A story, most often under its title: an opening, one or two things that happen, an ending."""
    shape = pick(("person", "person thing", "person animal", "person town", "person person2",
                  "person town thing", "person town animal"), rng)  # fmt: skip
    slots = some(shape, rng)
    opening = "open.town" if "town" in slots else pick(("open", "open.town"), rng)
    event = "event." + ("thing" if "thing" in slots else "animal" if "animal" in slots else "person")
    asked = any(k in slots for k in ("thing", "animal", "person2"))
    events = [event if asked else pick(("event", "event.thing", "event.animal", "event.person"), rng)]
    if rng.random() < 0.3:
        events.append(pick(("event", "event.thing", "event.animal", "event.person"), rng))
    texts = [f"The story of {story_subject(slots)}."] if rng.random() < 0.7 else []
    texts += [say(frame, slots, rng) for frame in (opening, *events, "end")]
    return with_pronouns(texts, rng)


def with_pronouns(texts: list[str], rng: random.Random) -> str:
    out, lead = [], ""
    for text in texts:
        text, lead = with_pronoun(text, lead, rng)
        out.append(text)
    return " ".join(out)


NOTES = {
    "thanks": "A thank you note from {person} to {person2} for the {thing}.",
    "invite": "An invitation from {person} to {person2} for {day}.",
    "birthday": "A birthday note from {person} to {person2}.",
    "sorry": "A sorry note from {person} to {person2} for the {thing}.",
    "well": "A get well note from {person} to {person2}.",
}


def letter(rng: random.Random) -> str:
    """A letter, most often under a line that says from whom to whom."""
    occasion = pick(tuple(NOTES), rng)
    slots = some("person person2 thing day", rng)
    texts = [NOTES[occasion].format_map(slots)] if rng.random() < 0.7 else []
    texts.append(say("dear", {"person": slots["person2"]}, rng))
    texts += [say(f"{part}.{occasion}", slots, rng) for part in ("note", "warm")]
    return " ".join([*texts, say("sign", slots, rng)])


def parrot(rng: random.Random) -> str:
    """What the parrot heard and said again, word for word. From such games a reader learns to copy."""
    words = [pick(KINDS[pick(ECHOED, rng)], rng) for _ in range(2 + int(rng.random() * 4))]
    heard = ", ".join(words)
    names = rng.sample(KINDS["person"], 2)
    return pick((
        f"The parrot heard: {heard}. The parrot said: {heard}.",
        f"{names[0]} said: {heard}. {names[1]} said: {heard}. {names[0]} said: {heard}.",
    ), rng)  # fmt: skip


ECHOED = ("person", "person", "thing", "thing", "town", "animal", "food", "order", "present", "past", "mood", "day")


def rhyme(rng: random.Random) -> str:
    slots = some("person animal", rng)
    couplets = rng.sample(("couplet.wall", "couplet.moon", "couplet.sea", "couplet.gown", "couplet.snow"), 2)
    return " ".join(say(frame, slots, rng) for frame in ("title", *couplets))


def day_out(rng: random.Random) -> str:
    """A trip or a loss, told long and then short."""
    slots = some("person person2 town thing mood day", rng)
    pro = default_world().pronoun(slots["person"]).capitalize()
    person, person2, town, thing = (slots[k] for k in ("person", "person2", "town", "thing"))
    if rng.random() < 0.5:
        long = f"On {slots['day']} {person} went to {town}. {pro} bought a {thing}. {pro} came home {slots['mood']}."
        return f"{long} {say('sum.trip.3', slots, rng)}"
    long = f"On {slots['day']} {person} went to {town} with a {thing}. {pro} lost it. Later {person2} found it."
    return f"{long} {say('sum.find.3', slots, rng)}"


def gossip(rng: random.Random) -> str:
    """Two people, what they did, and what the text says about it."""
    slots = some("person person2 town food animal", rng)
    event = pick(("went", "bought", "met", "saw"), rng)
    other = {**some("town food animal", rng), "person": slots["person2"], "person2": slots["person"]}
    texts = [say(event, slots, rng), say(pick(("went", "bought", "saw"), rng), other, rng)]
    rng.shuffle(texts)
    end = rng.choices((f"text.{event}", event, f"text.not.{event}", "names.two"), (0.4, 0.2, 0.2, 0.2))[0]
    return " ".join([*texts, say(end, other if end.startswith("text.not") else slots, rng)])


def talk(rng: random.Random) -> str:
    """What people say to each other: news and comfort, greetings, farewells, advice."""
    slots = some("person thing animal", rng)
    what = pick(("lost", "ill", "found", "prize", "hello", "speech", "advice"), rng)
    if what == "hello":
        return " ".join(say(f, slots, rng) for f in ("hello", "meet", "serve"))
    if what == "speech":
        word_ = pick(("night", "bye", "cheer"), rng)
        return f"{say('say.' + word_, slots, rng)} {say('then.' + word_, slots, rng)}"
    if what == "advice":
        spec = draw_spec("lookalike", False, rng)
        spec.pop("sys", None)
        return " ".join(render(list(rubric(spec).moves), {}, rng))
    mood = "sad" if what in ("lost", "ill") else "glad"
    news = pick(WORDINGS[f"news.{what}"].texts, rng).format_map(slots)
    comfort = (f"feel.{mood}", f"hope.{what}", f"ask.{mood}")
    return " ".join([f"{slots['person']} says: {news}", *(say(f, slots, rng) for f in comfort)])


def desk(rng: random.Random) -> str:
    """Small truths and exercises: sums, days, opposites, verbs, what is polite, lists."""
    what = pick(("plus", "days", "opposite", "past", "polite", "polite", "past", "ideas", "sort", "feeling"), rng)
    slots = some("person thing present animal order", rng)
    if what in ("plus", "days", "opposite", "sort", "feeling"):
        return " ".join(exercise(what, rng) for _ in range(2))
    if what == "past":
        return f"{say('present', slots, rng)} {say('past', {**slots, 'past': PAST_OF[slots['present']]}, rng)}"
    if what == "polite":
        return " ".join(say(f, slots, rng) for f in ("polite.not", "polite", "thanks"))
    n, of = pick(("two", "three"), rng), pick(("thing", "food", "petname"), rng)
    return f"{say(f'list.{of}.{n}', {}, rng)} {say(pick(tuple(FILLER), rng), {}, rng)}"


def exercise(what: str, rng: random.Random) -> str:
    if what == "plus":
        a, b = int(rng.random() * 9), int(rng.random() * 9)
        numbers = KINDS["number"]
        return say("plus", {"number": numbers[a], "number2": numbers[b], "number3": numbers[a + b + 1]}, rng)
    if what == "days":
        i, step = int(rng.random() * 7), pick((1, -1), rng)
        days = {"day": KINDS["day"][i], "day2": KINDS["day"][(i + step) % 7]}
        return say("after" if step == 1 else "before", days, rng)
    if what == "opposite":
        word_ = pick(KINDS["opposite"], rng)
        return say("opposite", {"opposite": word_, "opposite2": OPPOSITE_OF[word_]}, rng)
    if what == "sort":
        return say("is." + pick(("person", "town", "animal", "tool", "food"), rng), {}, rng)
    mood, past = pick((("glad", "found"), ("glad", "mended"), ("sad", "lost"), ("sad", "dropped")), rng)
    return say(f"class.{mood}.why", {"past": past}, rng)


PROSE: dict[Callable[[random.Random], str], float] = {
    portrait: 0.34, tale: 0.15, letter: 0.07, rhyme: 0.03, day_out: 0.09, gossip: 0.09, talk: 0.06, desk: 0.08,
    parrot: 0.09,
}  # fmt: skip
"""Kinds of prose and their shares."""
