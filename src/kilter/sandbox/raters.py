"""Simulated raters: they see the truth through noise, and have the tastes and faults that people and judges have.

A rater's opinion of an answer is

    gold + noise · Gumbel + length_taste · log(words) + position_bias · (1 - 2 · place / (K - 1))

and answers whose opinions lie within `tie_width` of their neighbour share a tier. Every draw is keyed by the caller's
key, the rater and the answer, never by a shared generator: the same question gets the same judgment in any order.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from kilter.data.records import Candidate, Judgment, Prompt
from kilter.errors import DataError
from kilter.sandbox.oracle import score

GUIDELINE = "sandbox-1"


@dataclass(frozen=True)
class Rater:
    """One simulated person; with every field but `id` at zero they read the oracle exactly."""

    id: str
    """Who they are."""
    noise: float = 0.18
    """Scale of the Gumbel noise on what an answer is worth."""
    leniency: float = 0.0
    """How far below 0.25 their bar lies; where no answer reaches it they flag all of them as bad."""
    length_taste: float = 0.0
    """Liking for long answers: added per unit of the logarithm of the number of words."""
    position_bias: float = 0.0
    """Liking for what is shown first: added at the first place, subtracted at the last."""
    carelessness: float = 0.05
    """The share of prompts that they rank without reading."""
    tie_width: float = 0.05
    """Neighbours closer than this share a tier."""


BAR = 0.25
"""The opinion that an answer must reach not to be called bad, before leniency."""


def pool(seed: int = 0, size: int = 8, noise: float = Rater.noise) -> tuple[Rater, ...]:
    """The default pool: the same noise, small differing tastes, some more careless or lenient than others."""
    people = []
    for i in range(size):
        rng = random.Random(f"rater/{seed}/{i}")
        people.append(
            Rater(
                id=f"rater-{seed}-{i}",
                noise=noise,
                leniency=round(rng.gauss(0.0, 0.05), 3),
                length_taste=round(rng.gauss(0.0, 0.02), 3),
                position_bias=round(abs(rng.gauss(0.0, 0.02)), 3),
                carelessness=round(rng.uniform(0.02, 0.08), 3),
                tie_width=round(rng.uniform(0.04, 0.06), 3),
            )
        )
    return tuple(people)


def uniform(*key: str) -> float:
    """A number in (0, 1) that depends on the key alone."""
    digest = hashlib.blake2b("\x1f".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


def opinion(rater: Rater, prompt: Prompt, candidate: Candidate, key: str, place: float) -> float:
    """What the rater thinks of one answer shown at a relative place (0 first, 1 last)."""
    gold = score(prompt, candidate.answer, bool(candidate.generator.get("finished", True))).gold
    gumbel = -math.log(-math.log(uniform("noise", key, rater.id, candidate.answer)))
    words = max(1, len(candidate.answer.split()))
    return gold + rater.noise * gumbel + rater.length_taste * math.log(words) + rater.position_bias * (1 - 2 * place)


def order_shown(rater: Rater, key: str, k: int) -> tuple[int, ...]:
    """The order in which this rater sees the candidates."""
    order = list(range(k))
    random.Random(f"order/{key}/{rater.id}").shuffle(order)
    return tuple(order)


def rank(rater: Rater, prompt: Prompt, candidates: Sequence[Candidate], key: str) -> Judgment:
    """The rater's weak order of the candidates, best tier first."""
    if not candidates:
        raise DataError(f"prompt {prompt.id!r} has no candidates to rank; give at least one")
    shown = order_shown(rater, key, len(candidates))
    place = {c: i / max(1, len(shown) - 1) for i, c in enumerate(shown)}
    careless = uniform("careless", key, rater.id) < rater.carelessness
    opinions = [
        uniform("guess", key, rater.id, c.answer) if careless else opinion(rater, prompt, c, key, place[i])
        for i, c in enumerate(candidates)
    ]
    order = sorted(range(len(candidates)), key=lambda i: (-opinions[i], shown.index(i)))
    tiers: list[list[int]] = []
    for i in order:
        if tiers and opinions[tiers[-1][-1]] - opinions[i] <= rater.tie_width:
            tiers[-1].append(i)
        else:
            tiers.append([i])
    return Judgment(
        prompt=prompt,
        candidates=tuple(candidates),
        tiers=tuple(tuple(sorted(tier)) for tier in tiers),
        order_shown=shown,
        all_bad=not careless and max(opinions) < BAR - rater.leniency,
        rater={"id": rater.id, "type": "simulated"},
        guideline=GUIDELINE,
        extra={"key": key},
    )
