"""How the world's people answer: composing answers of stated quality from a rubric's moves.

Demonstrations are written by imperfect hands at visible rates (`Hands`), so that imitation alone is mediocre: the
plain, decent answer is the most common and the best one is rare.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from kilter.data.records import Demonstration, Prompt
from kilter.sandbox.grammar import Slots, kind, pick, say, speak
from kilter.sandbox.phrases import FACTS, FRAMES
from kilter.sandbox.rubric import SHORT, Move, Rubric, Spec, binding, rubric
from kilter.sandbox.tasks import prompts
from kilter.sandbox.world import KINDS, RELATIONS, default_world

QUALITIES = ("best", "plain", "curt", "rambling", "wrong", "missed", "refusal")
UNSAFE_QUALITIES = ("best", "plain", "curt", "comply")


@dataclass(frozen=True)
class Hands:
    """Who writes the demonstrations: the share of each quality, for harmless and for unsafe requests."""

    best: float = 0.14
    """Makes every move."""
    plain: float = 0.30
    """Decent: worth about 0.7, and the most common."""
    curt: float = 0.11
    """One word or one move."""
    rambling: float = 0.16
    """Plain, with sentences that belong nowhere."""
    wrong: float = 0.13
    """Someone or something is mistaken for another."""
    missed: float = 0.12
    """The instruction was overlooked."""
    refusal: float = 0.04
    """Refuses what is harmless."""
    unsafe_best: float = 0.18
    """Refuses an unsafe request by name, says why, offers something better."""
    unsafe_plain: float = 0.20
    """Refuses with two of the three moves."""
    unsafe_curt: float = 0.22
    """Refuses barely."""
    unsafe_comply: float = 0.40
    """Gives the unsafe help."""

    def draw(self, unsafe: bool, rng: random.Random) -> str:
        """A quality at the stated rates."""
        names = UNSAFE_QUALITIES if unsafe else QUALITIES
        rates = [getattr(self, ("unsafe_" if unsafe else "") + name) for name in names]
        return rng.choices(names, rates)[0]


def demonstrations(seed: int, n: int, hands: Hands | None = None) -> Iterator[Demonstration]:
    """`n` prompts of the `sft` split with an answer each, by imperfect hands."""
    hands = hands or Hands()
    rng = random.Random(f"demonstrations/{seed}")
    for prompt in prompts("sft", seed, n):
        quality = hands.draw(prompt.category == "unsafe", rng)
        yield Demonstration(prompt=prompt, answer=write(prompt, quality, rng), extra={"quality": quality})


def best(prompt: Prompt, rng: random.Random) -> str:
    """An answer that makes every move: gold 1."""
    return write(prompt, "best", rng)


def write(prompt: Prompt, quality: str, rng: random.Random) -> str:
    """An answer of this quality (one of `QUALITIES`, for unsafe prompts also `comply`)."""
    spec = prompt.extra["sandbox"]
    plan = rubric(spec)
    if plan.harm:
        return write_unsafe(spec, plan, quality, rng)
    if quality == "refusal":
        return " ".join(FRAMES["refuse"][::-1] if rng.random() < 0.5 else [say("refuse", {}, rng)])
    if quality == "missed":
        text = missed(spec, plan, rng)
        return f"{text} {aside(spec, rng)}" if rng.random() < 0.5 else text
    if quality == "wrong" and (texts := mistaken(spec, rng)):
        return " ".join(texts)
    moves = [m for m in plan.moves if m.worth]
    shares = dict.fromkeys(range(len(moves)), 1.0)
    if quality == "curt":
        moves, shares = curt(moves)
    elif quality != "best" and not (quality == "wrong" and rng.random() < 0.85):
        moves, shares = plain(moves, rng)
        if plan.sentences:
            moves = miscounted(plan, rng)
    texts = render(moves, shares, rng, changed=swap(moves, rng) if quality == "wrong" else None)
    if quality == "rambling":
        for _ in range(2 + (rng.random() < 0.3)):
            places = [i for i in range(1, len(texts)) if not texts[i].startswith(("He ", "She ", "It "))]
            texts.insert(pick([*places, len(texts)], rng), aside(spec, rng))
    if quality in ("best", "plain", "rambling"):
        texts = with_persona(plan, texts, rng)
    return " ".join(texts)


def plain(moves: list[Move], rng: random.Random) -> tuple[list[Move], dict[int, float]]:
    """The moves whose worth comes nearest to 0.7: one of them left out, or the core one made less well."""
    if len(moves) == 1:
        return moves, {0: 0.7}
    left_out = [[m for j, m in enumerate(moves) if j != i] for i in range(1 if moves[0].worth > 0.3 else 0, len(moves))]
    gap = [abs(sum(m.worth for m in some) - 0.7) + 0.12 * rng.random() for some in left_out]
    kept = left_out[gap.index(min(gap))]
    named = {m.name for m in kept}
    kept = [m for m in kept if not m.among or m.among in named]
    return kept, dict.fromkeys(range(len(kept)), 1.0)


def curt(moves: list[Move]) -> tuple[list[Move], dict[int, float]]:
    """One move, made in the way that earns about a third."""
    core = max(moves, key=lambda m: m.worth)
    return [core], {0: min(core.frames.values(), key=lambda s: abs(s * core.worth - 0.35))}


def mistaken(spec: Spec, rng: random.Random) -> list[str]:
    """The mistakes that are more than one wrong word: going along, inventing, answering without having asked."""
    kind_, slots = spec["kind"], {k: v for k, v in spec.items() if isinstance(v, str)}
    if kind_ == "why":
        true = default_world().true(spec["rel"], spec["person"], spec[RELATIONS[spec["rel"]][1]])
        return [say(("not." if true else "because.") + spec["rel"], slots, rng)]
    if kind_ == "unknown":
        return [say("guess." + spec["what"], slots, rng)]
    if kind_ == "clarify":
        return [say("idk", {}, rng), say("gladly", {}, rng)]
    if kind_ == "ideas":
        other = pick([w for w in ("thing", "food", "petname") if IDEA_OF[w] != spec["topic"]], rng)
        return [say(f"list.{other}.{spec['n']}", {}, rng), say(f"pick.{other}", {}, rng)]
    if kind_ in ("describe", "news", "thanks", "hello", "feeling"):
        return mistaken_person(spec, rng)
    return []


IDEA_OF = {"thing": "gift", "food": "dinner", "petname": "petname"}


def mistaken_person(spec: Spec, rng: random.Random) -> list[str]:
    """Tells untrue things, takes good news for bad, calls people by another's name."""
    if spec["kind"] == "describe":
        entity = next(k for k in ("person", "town", "animal", "job") if k in spec)
        texts = []
        for relation in rng.sample([r for r in RELATIONS if RELATIONS[r][0] == entity], 2):
            value = RELATIONS[relation][1]
            true = set(default_world().facts[relation, spec[entity]]) | {spec[entity]}
            word = another(value, true, rng) if rng.random() < 0.7 else pick(sorted(true - {spec[entity]}), rng)
            texts.append(say(relation, {entity: spec[entity], value: word}, rng))
        return texts
    if spec["kind"] in ("news", "feeling"):
        mood = "glad" if spec["mood"] == "sad" else "sad"
        if spec["kind"] == "feeling":
            return [say(f"class.{mood}", {}, rng)]
        return [say(f"feel.{mood}", spec, rng), say(f"ask.{mood}", {}, rng)]
    name = {"person": another("person", {spec["person"]}, rng)}
    frames = ("welcome", "else") if spec["kind"] == "thanks" else ("hello", "serve")
    return [say(frame, name, rng) for frame in frames]


def miscounted(plan: Rubric, rng: random.Random) -> list[Move]:
    """All of a story's moves but in the wrong number of sentences."""
    if plan.sentences == 4:
        return [m for m in plan.moves if m.name != "what happens next"]
    return list(plan.moves)


def missed(spec: Spec, plan: Rubric, rng: random.Random) -> str:
    """An answer that overlooks the instruction: the system message's, the count, or the thing asked for."""
    if spec.get("sys") in SHORT:
        full = rubric({**spec, "sys": ""})
        texts = render(list(full.moves), {}, rng)
        return " ".join(texts if len(texts) > 1 else [*texts, say("filler", {}, rng)])
    if plan.persona:
        return " ".join(render(plain(list(plan.moves), rng)[0], {}, rng))
    moves = list(plan.moves)
    if plan.sentences:
        return " ".join(render([moves[0], moves[-1]] if plan.sentences != 2 else [moves[0]], {}, rng))
    soft = [s for m in moves for s in m.soft if s in m.bind]
    if soft:
        drop = pick(soft, rng)
        moves = [m._replace(bind={k: v for k, v in m.bind.items() if k != drop}) for m in moves]
        moves = [m._replace(frames=dict.fromkeys(m.frames, 1.0)) if drop in m.soft else m for m in moves]
        return " ".join(render(plain(moves, rng)[0], {}, rng))
    if len(moves) == 1:
        return " ".join([*render(moves, {0: 0.4}, rng), say("filler", {}, rng)])
    core = max(moves, key=lambda m: m.worth)
    rest = [m for m in moves if m is not core and m.among != core.name]
    return " ".join(render(rest, {}, rng))


def write_unsafe(spec: Spec, plan: Rubric, quality: str, rng: random.Random) -> str:
    """Refusals of falling worth, or the unsafe help."""
    refuse, why, offer = plan.moves
    if quality in ("comply", "missed"):
        slots = dict(refuse.bind)
        if "animal" in slots:
            slots["feed"] = default_world().facts["feed", slots["animal"]][0]
        texts = [say(f"comply.{plan.harm}", slots, rng)]
        if rng.random() < 0.8 and (step := say(f"comply.{plan.harm}", slots, rng)) not in texts:
            texts.append(step)
        return " ".join(texts + ([say("comply.also", {}, rng)] if rng.random() < 0.8 else []))
    if quality == "best":
        return " ".join(render([refuse, why, offer], {}, rng))
    if quality in ("curt", "refusal"):
        return " ".join(render([refuse], {0: pick((0.4, 0.6, 0.6, 1.0), rng)}, rng))
    texts = render([refuse, pick((why, offer), rng)], {}, rng)
    if quality == "wrong":
        texts = render([refuse], {}, rng, changed=swap([refuse], rng))
    return " ".join(texts + ([aside(spec, rng)] if quality == "rambling" else []))


def with_persona(plan: Rubric, texts: list[str], rng: random.Random) -> list[str]:
    if plan.persona == "ahoy":
        return ["Ahoy!", *texts]
    if plan.persona == "sweet":
        return [*texts, "Have a sweet day!"]
    return texts


def swap(moves: list[Move], rng: random.Random) -> Slots:
    """A mistake: one slot that the moves agree on gets another word of its kind."""
    slots = sorted({slot for m in moves for slot in m.bind if len(KINDS[kind(slot)]) > 2})
    if not slots:
        return {}
    slot = pick(slots, rng)
    return {slot: another(slot, {m.bind[slot] for m in moves if slot in m.bind}, rng)}


def render(moves: list[Move], shares: dict[int, float], rng: random.Random, changed: Slots | None = None) -> list[str]:
    """One sentence a move: a frame at (or nearest to) the wanted share, its slots as bound, said once only."""
    texts: list[str] = []
    used: set[tuple[str, str]] = set()
    chosen: dict[str, Slots] = {}
    lead = ""
    for i, move in enumerate(moves):
        wanted = shares.get(i, 1.0)
        gap = min(abs(s - wanted) for s in move.frames.values())
        frames = [f for f, s in move.frames.items() if abs(s - wanted) == gap]
        frame, slots = choose(move, frames, used, changed or {}, rng)
        if move.among and move.among in chosen:
            slots = {kind(k): v for k, v in rng.sample(sorted(chosen[move.among].items()), 1)}
        text, filled = speak(frame, slots, rng)
        used |= {(frame, filled.get(RELATIONS[frame][1], "")) if frame in RELATIONS else (frame, "")}
        chosen[move.name] = filled
        text, lead = with_pronoun(text, lead, rng)
        texts.append(text)
    return texts


def choose(
    move: Move, frames: list[str], used: set[tuple[str, str]], changed: Slots, rng: random.Random
) -> tuple[str, Slots]:
    """A frame for the move and its slots; what was said already and facts that are held out are passed over."""
    frame, slots = frames[0], move.bind
    for frame in rng.sample(frames, len(frames)):
        slots = {**binding(move, frame), **changed} if changed else dict(binding(move, frame))
        if changed and move.short and frame.startswith("curt.") and frame != "curt.two":
            slots = {frame[5:]: another(frame[5:], {move.short}, rng)}
        if (frame, "") in used or not fact_fits(move, frame, slots, used, rng):
            continue
        break
    return frame, slots


def fact_fits(move: Move, frame: str, slots: Slots, used: set[tuple[str, str]], rng: random.Random) -> bool:
    """For statements of fact: puts a true value that was not said yet into the slots; False when there is none."""
    world = default_world()
    if frame == "list.tool.two":
        slots["tool"], slots["tool2"] = rng.sample(world.facts["tool", slots["job"]], 2)
    if frame not in RELATIONS:
        return True
    subject, value = RELATIONS[frame]
    if subject not in slots or (len(move.frames) <= 2 and value in move.bind):
        return True
    if (frame, slots[subject]) in world.held_out:
        return False
    fresh = [v for v in world.facts[frame, slots[subject]] if (frame, v) not in used]
    if fresh:
        slots[value] = pick(fresh, rng)
    return bool(fresh)


def another(slot: str, taken: set[str], rng: random.Random) -> str:
    """A word for the slot that is none of these."""
    word = pick(KINDS[kind(slot)], rng)
    while word in taken:
        word = pick(KINDS[kind(slot)], rng)
    return word


def with_pronoun(text: str, lead: str, rng: random.Random) -> tuple[str, str]:
    """Says he, she or it for the subject of the sentence before, about half the time; returns the new subject too."""
    world = default_world()
    first, _, rest = text.partition(" ")
    if first == "A":
        noun, _, rest = rest.partition(" ")
        if noun in RELATIONS_KINDS["animal"]:
            return (f"It {rest}", lead) if noun == lead and rng.random() < 0.5 else (text, noun)
        return text, ""
    if first in RELATIONS_KINDS["person"]:
        if first == lead and rng.random() < 0.5:
            return f"{world.pronoun(first).capitalize()} {rest}", lead
        return text, first
    if first in RELATIONS_KINDS["town"]:
        return (f"It {rest}", lead) if first == lead and rng.random() < 0.5 else (text, first)
    return text, ""


RELATIONS_KINDS = {k: frozenset(KINDS[k]) for k in ("person", "town", "animal")}


def aside(spec: Spec, rng: random.Random) -> str:
    """A sentence that belongs nowhere: a filler, or something true about someone else."""
    if rng.random() < 0.5:
        return say("filler", {}, rng)
    relation = pick(tuple(FACTS), rng)
    subject = RELATIONS[relation][0]
    world = default_world()
    for _ in range(8):
        word = pick(KINDS[subject], rng)
        if word not in spec.values() and (relation, word) not in world.held_out:
            break
    return say(relation, {subject: word}, rng)
