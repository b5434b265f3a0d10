"""Exact duplicates: texts that are the same once case, blanks and Unicode forms are made alike. The first stays."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped
from kilter.data.curate.texts import Field, normal, parts

STEP = "exact"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Exact duplicates."""

    field: Field = "all"
    """What must be the same: the prompt, the answers, or all of it."""


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep the first row of each text; a dropped row names it.

    Texts are compared by 128 bits of BLAKE2b: among a million rows two different texts agree with odds of 1 in 10^26.
    """
    found = list(rows.map(functools.partial(_hashes, config=config)))
    key_N = np.concatenate(found) if found else np.zeros(0, "V16")
    first_N = firsts(key_N)
    wanted = set(first_N[first_N != np.arange(len(key_N))].tolist())
    known: dict[int, tuple[str, str]] = {}
    for number, item in enumerate(rows):
        if number in wanted:
            known[number] = (item.id, item.where)
        first = int(first_N[number])
        if first == number:
            yield Kept(item)
        else:
            name, where = known[first]
            yield dropped(item, STEP, "same-text", match=name, match_where=where)
    report |= {"rows": len(key_N), "texts": int((first_N == np.arange(len(key_N))).sum())}


def firsts(key_N: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """For every key the place where it first stands."""
    if not len(key_N):
        return np.zeros(0, np.int64)
    _, first, inverse = np.unique(key_N, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _hashes(items: list[Item], config: Config) -> npt.NDArray[Any]:
    raw = b"".join(digest([normal(t) for t in parts(item, config.field)]) for item in items)
    return np.frombuffer(raw, "V16")


def digest(texts: list[str]) -> bytes:
    """128 bits that tell several texts from any others."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
