"""`kilter sandbox show` and `export`: the world's prompts, answers, scores and rankings for people and for files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

from kilter.data.records import Candidate, Judgment, Prompt, write_jsonl
from kilter.errors import DataError, nearest
from kilter.sandbox.answers import QUALITIES, UNSAFE_QUALITIES, demonstrations, write
from kilter.sandbox.corpus import documents
from kilter.sandbox.oracle import score
from kilter.sandbox.raters import pool, rank
from kilter.sandbox.tasks import prompts
from kilter.sandbox.world import VERSION

KINDS_EXPORTED = ("prompts", "demos", "rankings", "corpus")
SHOWN = {False: ("best", "plain", "rambling", "wrong", "refusal"), True: ("best", "curt", "comply")}


def show(n: int = 5, seed: int = 0, split: str = "eval") -> str:
    """`n` prompts, each with answers of differing quality, the oracle's scores and its reasons."""
    blocks = []
    for i, prompt in enumerate(prompts(split, seed, n)):
        lines = [f"[{i + 1}] {prompt.category}"]
        lines += [f"    {m['role']}: {m['content']}" for m in prompt.messages]
        for quality in SHOWN[prompt.category == "unsafe"]:
            answer = write(prompt, quality, random.Random(f"show/{seed}/{prompt.id}/{quality}"))
            s = score(prompt, answer)
            lines.append(f"  {quality:>9}  gold {s.gold:.2f}  helpful {s.helpful:.2f}  honest {s.honest:.2f}  "
                         f"harmless {s.harmless:.2f}")  # fmt: skip
            lines.append(f"             {answer}")
            lines += [f"             - {reason}" for reason in s.reasons]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def candidates(prompt: Prompt, seed: int) -> tuple[Candidate, ...]:
    """Four to nine answers of differing quality by the world's hands."""
    rng = random.Random(f"candidates/{seed}/{prompt.id}")
    names = UNSAFE_QUALITIES if prompt.category == "unsafe" else QUALITIES
    found = []
    for draw in range(rng.randint(4, 9)):
        quality = rng.choice(names)
        generator = {"model": "sandbox:hands", "quality": quality, "seed": seed, "draw": draw, "finished": True}
        found.append(Candidate(prompt_id=prompt.id, answer=write(prompt, quality, rng), generator=generator))
    return tuple(found)


def rankings(seed: int, n: int) -> Iterator[Judgment]:
    """`n` prompts of the `rank` split, each with its candidates ranked by one rater of the pool."""
    people = pool(seed)
    for i, prompt in enumerate(prompts("rank", seed, n)):
        yield rank(people[i % len(people)], prompt, candidates(prompt, seed), key=f"export/{seed}/{prompt.id}")


def rows(kind: str, n: int, seed: int) -> Iterator[Any]:
    """The rows of an export."""
    if kind not in KINDS_EXPORTED:
        raise DataError(f"the sandbox exports no {kind!r}{nearest(kind, KINDS_EXPORTED)}")
    if kind == "prompts":
        return prompts("sft", seed, n)
    if kind == "demos":
        return demonstrations(seed, n)
    if kind == "rankings":
        return rankings(seed, n)
    return ({"text": text, "source": "sandbox", "world": VERSION} for text in documents(seed, n))


def export(kind: str, n: int, seed: int, out: str | os.PathLike[str]) -> int:
    """Write `n` rows of a kind as JSONL; returns how many were written."""
    return write_jsonl(out, rows(kind, n, seed))
