"""The closed world: who lives where, what they like, which town has the lighthouse. Everything here is true.

The knowledge base is fixed and versioned and does not depend on any run's seed, so that scores of different runs
compare. A word belongs to one kind only (`fish` is feed, never food), which lets the oracle read a sentence by
looking its words up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

VERSION = 1
"""Changes whenever a fact, a wording or a rubric changes: scores of different versions don't compare."""

SHE = "Ada Cleo Dora Edda Freya Greta Ida Juno Klara Lena Mabel Nell Olga Pia Rosa Stella Tilda Vera Xenia Yara"
HE = "Arlo Bram Cosmo Dante Elio Finn Gus Hugo Igor Jonas Linus Milo Nico Otto Pavel Rufus Sven Tom Wim Zeno"
TOWNS = (
    "Brindle Crumbly Duckford Fernwick Gullport Hobnail Larkhill Mossford Nutley Pebblewick Saltby Thistledown "
    "Willowby Wrenfield"
)
PLACES = "lighthouse windmill bridge castle market theatre fountain tower orchard maze museum harbour bakery carousel"
LANDS = "river sea lake forest hill moor"
ANIMALS = "cat dog goat hen donkey rabbit parrot tortoise ferret pony badger mouse"
FEEDS = "fish bones thistles corn carrots clover seeds lettuce eggshells oats worms crumbs"
BEDS = "basket kennel shed coop stable hutch cage box drawer barn burrow teacup"
TRAITS = "proud loyal stubborn noisy patient gentle clever slow curious brave shy tiny"
JOBS = "baker tailor sailor teacher gardener painter clockmaker shepherd doctor fiddler postman cook"
ROOMS = "mill parlour boat school greenhouse studio workshop meadow clinic tavern cottage kitchen"
TOOLS = (
    "whisk roller needle thimble rope spyglass ruler chalkboard rake spade brush palette spring magnifier crook "
    "whistle thermometer bandage bow fiddle satchel bicycle ladle pan"
)
FOODS = "honey soup cheese porridge pancakes plums pie jam toast dumplings noodles pickles pudding walnuts"
HOBBIES = "singing fishing reading dancing swimming knitting juggling skating whistling painting climbing stargazing"
THINGS = "kite scarf lamp drum kettle hat clock book mirror map ball flute blanket teapot puppet compass lantern coat"
PET_NAMES = "Biscuit Pickle Button Marble Waffle Sprout Pepper Domino Noodle Pompom"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen"
)
MOODS = "tired happy wet cold hungry late dusty cross"
ORDERS = "give bring show lend sell send"
PRESENT = "finds sells paints washes loses buys carries mends hides drops"
PAST = "found sold painted washed lost bought carried mended hid dropped"
OPPOSITES = (
    "hot/chilly big/small old/young fast/sluggish light/dark wide/narrow high/low full/empty hard/soft loud/quiet"
)

KINDS: Mapping[str, tuple[str, ...]] = {
    "person": tuple((SHE + " " + HE).split()),
    "town": tuple(TOWNS.split()),
    "place": tuple(PLACES.split()),
    "land": tuple(LANDS.split()),
    "animal": tuple(ANIMALS.split()),
    "feed": tuple(FEEDS.split()),
    "bed": tuple(BEDS.split()),
    "trait": tuple(TRAITS.split()),
    "job": tuple(JOBS.split()),
    "room": tuple(ROOMS.split()),
    "tool": tuple(TOOLS.split()),
    "food": tuple(FOODS.split()),
    "hobby": tuple(HOBBIES.split()),
    "thing": tuple(THINGS.split()),
    "petname": tuple(PET_NAMES.split()),
    "day": tuple(DAYS.split()),
    "number": tuple(NUMBERS.split()),
    "mood": tuple(MOODS.split()),
    "order": tuple(ORDERS.split()),
    "present": tuple(PRESENT.split()),
    "past": tuple(PAST.split()),
    "opposite": tuple(OPPOSITES.replace("/", " ").split()),
}
"""Every word that can fill a slot, by the slot's kind."""

PAST_OF = dict(zip(KINDS["present"], KINDS["past"], strict=True))
OPPOSITE_OF = {a: b for pair in OPPOSITES.split() for a, b in (pair.split("/"), pair.split("/")[::-1])}

RELATIONS: Mapping[str, tuple[str, str]] = {
    "home": ("person", "town"),
    "job": ("person", "job"),
    "pet": ("person", "animal"),
    "food": ("person", "food"),
    "hobby": ("person", "hobby"),
    "near": ("town", "town2"),
    "famous": ("town", "place"),
    "land": ("town", "land"),
    "feed": ("animal", "feed"),
    "bed": ("animal", "bed"),
    "trait": ("animal", "trait"),
    "room": ("job", "room"),
    "tool": ("job", "tool"),
}
"""Each relation's subject slot and value slot, as the sentences name them."""

RELATIONS_OF: Mapping[str, tuple[str, ...]] = {
    kind: tuple(r for r, (subject, _) in RELATIONS.items() if subject == kind)
    for kind in ("person", "town", "animal", "job")
}


@dataclass(frozen=True)
class World:
    """All entities and everything true of them."""

    version: int
    kinds: Mapping[str, tuple[str, ...]]
    """Slot kind → its words."""
    kind_of: Mapping[str, str]
    """Lower-cased word → its one kind."""
    proper: Mapping[str, str]
    """Lower-cased word → the word as it is written."""
    facts: Mapping[tuple[str, str], tuple[str, ...]]
    """(relation, subject) → the true values; only a job's tools are more than one."""
    held_out: frozenset[tuple[str, str]]
    """Facts that the corpus states, but that nothing outside the `eval` split asks about or tells."""

    @property
    def people(self) -> tuple[str, ...]:
        return self.kinds["person"]

    @property
    def towns(self) -> tuple[str, ...]:
        return self.kinds["town"]

    def true(self, relation: str, subject: str, value: str) -> bool:
        """Whether the world holds this fact."""
        return value in self.facts.get((relation, subject), ())

    def pronoun(self, person: str) -> str:
        return "she" if person in SHE_SET else "he"


SHE_SET = frozenset(SHE.split())
HELD_OUT_FACTS = 24
KB_SEED = 20


def deal(rng: random.Random, hands: int, cards: tuple[str, ...]) -> list[str]:
    """Give every hand one card, each card about equally often."""
    pile = [cards[i % len(cards)] for i in range(hands)]
    rng.shuffle(pile)
    return pile


@cache
def default_world() -> World:
    """The one world of this version. Its facts are dealt once from a fixed seed of its own."""
    rng = random.Random(KB_SEED)
    facts: dict[tuple[str, str], tuple[str, ...]] = {}
    people, towns = KINDS["person"], KINDS["town"]
    for relation in RELATIONS_OF["person"]:
        kind = RELATIONS[relation][1]
        for person, value in zip(people, deal(rng, len(people), KINDS[kind]), strict=True):
            facts[relation, person] = (value,)
    shuffled = list(towns)
    rng.shuffle(shuffled)
    for a, b in zip(shuffled[::2], shuffled[1::2], strict=True):
        facts["near", a], facts["near", b] = (b,), (a,)
    for town, place, land in zip(
        towns, deal(rng, len(towns), KINDS["place"]), deal(rng, len(towns), KINDS["land"]), strict=True
    ):
        facts["famous", town], facts["land", town] = (place,), (land,)
    for i, animal in enumerate(KINDS["animal"]):
        for relation in RELATIONS_OF["animal"]:
            facts[relation, animal] = (KINDS[relation][i],)
    for i, job in enumerate(KINDS["job"]):
        facts["room", job] = (KINDS["room"][i],)
        facts["tool", job] = (KINDS["tool"][2 * i], KINDS["tool"][2 * i + 1])
    personal = sorted(key for key in facts if RELATIONS[key[0]][0] == "person")
    held_out = frozenset(rng.sample(personal, HELD_OUT_FACTS))
    kind_of = {word.lower(): kind for kind, words in KINDS.items() for word in words}
    proper = {word.lower(): word for words in KINDS.values() for word in words}
    assert len(kind_of) == sum(map(len, KINDS.values())), "a word must belong to one kind only"
    return World(VERSION, KINDS, kind_of, proper, facts, held_out)
