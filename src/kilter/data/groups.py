"""Judgments of one prompt brought together, in bounded memory however large the file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

from kilter.data.records import Judgment

HELD = 20_000
"""Judgments that are grouped in memory; more go through files of buckets in a temporary folder."""
BUCKETS = 256


def by_prompt(judgments: Iterable[Judgment], held: int = HELD, buckets: int = BUCKETS) -> Iterator[list[Judgment]]:
    """All judgments of each prompt together.

    Prompts come in the order in which they first appear; of more than `held` judgments, in that order within each
    bucket, where the bucket is a hash of the prompt's id.
    """
    given = iter(judgments)
    first = list(islice(given, held + 1))
    if len(first) <= held:
        yield from _grouped(first)
        return
    with tempfile.TemporaryDirectory(prefix="kilter-") as folder:
        paths = [Path(folder) / f"{n}.jsonl" for n in range(buckets)]
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, "w", encoding="utf-8")) for path in paths]
            for j in chain(first, given):
                files[_bucket(j.prompt.id, buckets)].write(json.dumps(j.to_json()) + "\n")
        first.clear()
        for path in paths:
            with open(path, encoding="utf-8") as lines:
                yield from _grouped(Judgment.from_json(json.loads(line)) for line in lines)
            path.unlink()


def _grouped(judgments: Iterable[Judgment]) -> Iterator[list[Judgment]]:
    groups: dict[str, list[Judgment]] = {}
    for j in judgments:
        groups.setdefault(j.prompt.id, []).append(j)
    yield from groups.values()


def _bucket(name: str, buckets: int) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") % buckets
