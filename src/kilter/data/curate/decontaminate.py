"""Decontamination: rows that share a long n-gram with a benchmark, with the evidence, and templates masked.

13 words as for GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C), twice as many characters in scripts without
spaces; a shorter benchmark row counts whole. What many rows of a benchmark share ("Answer the following question with
A, B, C or D") is its template and no evidence: short n-grams that stand in more than a share of its rows, or that
stand in several of its rows and in more than a share of the training rows, are masked, and what is left of an overlap
must still be long. A file of verdicts by people overrules either way.
"""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped, noted
from kilter.data.curate.minhash import U64, Words, scramble
from kilter.data.curate.texts import TOKEN, Field, clipped, parts, unspaced
from kilter.data.records import read_jsonl
from kilter.errors import DataError

STEP = "decontaminate"
VERDICTS = ("clean", "contaminated")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Benchmark decontamination."""

    benchmarks: tuple[str, ...] = ()
    """Benchmark files: JSONL, of which all texts of a row count, or text with a row on each line."""
    columns: tuple[str, ...] = ()
    """Fields of a benchmark row that count; empty for all its texts."""
    field: Field = "all"
    """Which texts of a row are checked, each by itself."""
    ngram: int = 13
    """Words of an overlap."""
    per_word: int = 2
    """Characters that count as one word in scripts without spaces."""
    least: int = 8
    """A benchmark row of fewer words than `ngram` must match whole; below so many it is only counted."""
    content: int = 8
    """Words of an overlap that must lie outside of templates."""
    template: int = 6
    """Words of the n-grams by which templates are found."""
    template_share: float = 0.05
    """Share of a benchmark's rows from which an n-gram is its template (and at least five rows)."""
    common_share: float = 0.01
    """Share of training rows (and at least 20) from which an n-gram that several benchmark rows hold is a template."""
    verdicts: str = ""
    """A JSONL file of people's verdicts: id, verdict (clean or contaminated), by, why."""

    def __post_init__(self) -> None:
        if not 1 <= self.content <= self.ngram or min(self.least, self.template) < 1:
            raise ValueError("least and template must be at least 1, and content from 1 to ngram")
        if self.per_word < 1:
            raise ValueError(f"per_word is {self.per_word}, but must be at least 1")


def files(config: Config) -> list[str]:
    """What the step reads beside the rows."""
    return [*config.benchmarks, *([config.verdicts] if config.verdicts else [])]


# --- benchmarks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A text in the form that is compared, and its tokens' places and hashes."""

    text: str
    spans: list[tuple[int, int]]
    hashed: U64
    factor: int
    """Tokens that count as one word here."""

    @classmethod
    def of(cls, text: str, words: Words, per_word: int) -> Cut:
        seen = unicodedata.normalize("NFKC", text).casefold()
        found = [m.span() for m in TOKEN.finditer(seen)]
        tokens = [seen[a:b] for a, b in found]
        return cls(seen, found, np.array(words(tokens), np.uint64), per_word if unspaced(tokens) else 1)

    def shown(self, begin: int, end: int) -> str:
        """The text from one token to another."""
        return self.text[self.spans[begin][0] : self.spans[end - 1][1]]


ODD = 0x9E3779B97F4A7C15
INVERSE = pow(ODD, -1, 1 << 64)


def windows(hashed: U64, size: int) -> U64:
    """A hash of every run of `size` tokens: sums of t_j B^j between two places, taken back by B^-i, modulo 2^64."""
    count = len(hashed) - size + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        power = np.full(len(hashed) + 1, ODD, np.uint64)
        power[0] = 1
        power = np.cumprod(power, dtype=np.uint64)
        back = np.full(count, INVERSE, np.uint64)
        back[0] = 1
        back = np.cumprod(back, dtype=np.uint64)
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scramble(hashed) * power[:-1], dtype=np.uint64)])
        return scramble((total[size:] - total[:-size]) * back + np.uint64(size))


@dataclass(frozen=True)
class Index:
    """Benchmarks ready to be looked up in."""

    places: list[str]
    cuts: list[Cut]
    grams: dict[int, tuple[U64, npt.NDArray[np.int64]]]
    """Size -> sorted hashes, and for each the row and place that hold it (row << 32 | place)."""
    templates: U64
    """Hashes of the benchmarks' own template n-grams, sorted."""
    repeated: U64
    """Hashes of short n-grams that several benchmark rows hold, sorted: a template if training rows share them, too."""
    told: list[str]
    """The commonest template n-grams as text."""
    short: int
    """Rows too short to be checked."""


def read_benchmark(path: str, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(place, text) of each row of a benchmark file."""
    name = Path(path).name
    if path.endswith((".txt", ".text")):
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                yield f"{name}:{number}", line
        return
    for number, row in read_jsonl(path):
        unknown = [c for c in columns if c not in row]
        if unknown:
            raise DataError(f"{path}:{number}: no field {unknown[0]!r} (row has {sorted(row)})")
        text = "\n".join(_leaves({c: row[c] for c in columns} if columns else row))
        if text.strip():
            yield f"{name}:{number}", text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)


def index_of(config: Config) -> Index:
    """Benchmarks read, cut and indexed; made once in each process, and again when a file has changed."""
    return _index(config, tuple((s.st_mtime_ns, s.st_size) for s in map(os.stat, config.benchmarks)))


@functools.lru_cache(maxsize=2)
def _index(config: Config, _stamp: tuple[tuple[int, int], ...]) -> Index:
    words, places = Words(), []
    cuts: list[Cut] = []
    templates: dict[int, str] = {}
    counts: Counter[int] = Counter()
    for path in config.benchmarks:
        mine: Counter[int] = Counter()
        begin = len(cuts)
        for place, text in read_benchmark(path, config.columns):
            places.append(place)
            cuts.append(Cut.of(text, words, config.per_word))
            mine.update(set(windows(cuts[-1].hashed, config.template * cuts[-1].factor).tolist()))
        enough = max(5, config.template_share * (len(cuts) - begin))
        found = {h for h, n in mine.most_common() if n >= enough}
        templates |= _spelled(cuts[begin:], found, config)
        counts.update(mine)
    grams, short = _grams(cuts, config)
    repeated = [h for h, n in counts.items() if n > 1]
    told = list(dict.fromkeys(templates[h] for h, _ in counts.most_common() if h in templates))[:20]
    return Index(places, cuts, grams, _sorted(templates), _sorted(repeated), told, short)


def _spelled(cuts: Sequence[Cut], wanted: set[int], config: Config) -> dict[int, str]:
    """The text of each wanted short n-gram."""
    out: dict[int, str] = {}
    for cut in cuts:
        size = config.template * cut.factor
        for place, gram in enumerate(windows(cut.hashed, size).tolist() if wanted else ()):
            if gram in wanted and gram not in out:
                out[gram] = cut.shown(place, place + size)
    return out


def _sorted(values: Any) -> U64:
    return np.sort(np.fromiter(values, np.uint64))


def _grams(cuts: Sequence[Cut], config: Config) -> tuple[dict[int, tuple[U64, npt.NDArray[np.int64]]], int]:
    found: dict[int, list[tuple[U64, npt.NDArray[np.int64]]]] = {}
    short = 0
    for row, cut in enumerate(cuts):
        size = min(config.ngram * cut.factor, len(cut.hashed))
        if size < config.least * cut.factor:
            short += 1
            continue
        hashed = windows(cut.hashed, size)
        found.setdefault(size, []).append((hashed, np.int64(row) << 32 | np.arange(len(hashed))))
    grams = {}
    for size, pieces in found.items():
        hashed, place = np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])
        order = np.argsort(hashed, kind="stable")
        grams[size] = hashed[order], place[order]
    return grams, short


def inside(values: U64, known: U64) -> npt.NDArray[np.bool_]:
    """Which values stand in a sorted list."""
    if not len(known):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[at] == values
    return found


# --- rows -------------------------------------------------------------------------------------------------------------


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Drop rows that overlap with a benchmark beyond its template; masked overlaps are noted."""
    if not config.benchmarks:
        raise DataError("no benchmark files; give them with `benchmarks` (or --benchmark) or leave the step out")
    index, verdicts = index_of(config), _verdicts(config.verdicts)
    common = _common(rows, config)
    report |= {
        "benchmarks": dict(Counter(place.rpartition(":")[0] for place in index.places)),
        "too_short_to_check": index.short,
        "template_ngrams": len(index.templates),
        "templates": index.told,
        "common_ngrams": len(common),
        "verdicts": dict(Counter(verdicts.values())),
        "method": f"{config.ngram} words, {config.content} of them outside of templates; {config.per_word} characters "
        "count as one word in scripts without spaces",
    }  # fmt: skip
    masks = np.unique(np.concatenate([index.templates, common]))
    for part, found in zip(rows.parts, rows.map(functools.partial(_overlaps, config=config, masks=masks)), strict=True):
        yield from _outcomes(part, found, verdicts)


def _outcomes(part: Any, found: list[list[dict[str, Any]]], verdicts: Mapping[str, str]) -> Iterator[Outcome]:
    for item, overlaps in zip(Rows([part]), found, strict=True):
        real = [o for o in overlaps if not o["masked"]]
        verdict = verdicts.get(item.id)
        if verdict == "contaminated":
            yield dropped(item, STEP, "verdict", overlaps=overlaps[:3])
        elif real and verdict == "clean":
            yield Kept(item, (noted(item, STEP, "verdict-clean", overlaps=real[:3]),))
        elif real:
            yield dropped(item, STEP, "overlap", overlaps=real[:3])
        elif overlaps:
            yield Kept(item, (noted(item, STEP, "template-only", overlaps=overlaps[:3]),))
        else:
            yield Kept(item)


def _common(rows: Rows, config: Config) -> U64:
    """Short n-grams of several benchmark rows that are common in the training rows as well."""
    index = index_of(config)
    if not len(index.repeated):
        return np.zeros(0, np.uint64)
    count, total = np.zeros(len(index.repeated), np.int64), 0
    for held, n in rows.map(functools.partial(_held, config=config)):
        count += held
        total += n
    return index.repeated[count >= max(20, config.common_share * total)]


def _held(items: list[Item], config: Config) -> tuple[npt.NDArray[np.int64], int]:
    """In how many of these rows each repeated n-gram stands."""
    index, words = index_of(config), Words()
    count = np.zeros(len(index.repeated), np.int64)
    for item in items:
        cuts = [Cut.of(t, words, config.per_word) for t in parts(item, config.field)]
        grams = np.unique(
            np.concatenate([windows(c.hashed, config.template * c.factor) for c in cuts] or [index.repeated[:0]])
        )
        count[np.searchsorted(index.repeated, grams[inside(grams, index.repeated)])] += 1
    return count, len(items)


def _overlaps(items: list[Item], config: Config, masks: U64) -> list[list[dict[str, Any]]]:
    """For each row its overlaps with benchmark rows, longest first."""
    index, words = index_of(config), Words()
    out = []
    for item in items:
        found = []
        for number, text in enumerate(parts(item, config.field)):
            found += [{"text": number, **o} for o in overlaps_of(text, index, masks, words, config)]
        out.append(sorted(found, key=lambda o: (o["masked"], -o["tokens"])))
    return out


def overlaps_of(text: str, index: Index, masks: U64, words: Words, config: Config) -> list[dict[str, Any]]:
    """Where a text holds benchmark n-grams: the span, the benchmark row, how much of it is no template."""
    cut = Cut.of(text, words, config.per_word)
    places = _places(cut, index)
    if not places:
        return []
    size = config.template * cut.factor
    masked = np.zeros(len(cut.hashed), bool)
    for begin in np.flatnonzero(inside(windows(cut.hashed, size), masks)).tolist():
        masked[begin : begin + size] = True
    out = []
    for row, begin, end, at in places:
        left = int((~masked[begin:end]).sum())
        needed = min(config.content * cut.factor, end - begin)
        out.append({
            "benchmark": index.places[row],
            "span": clipped(cut.shown(begin, end), 400),
            "benchmark_text": clipped(_around(index.cuts[row], at, end - begin), 400),
            "begin": begin, "tokens": end - begin, "outside_template": left, "masked": left < needed,
        })  # fmt: skip
    return out


def _around(cut: Cut, at: int, size: int) -> str:
    return cut.shown(max(0, at - 5), min(len(cut.spans), at + size + 5))


def _places(cut: Cut, index: Index) -> list[tuple[int, int, int, int]]:
    """Overlaps as (benchmark row, begin, end, place in the benchmark), neighbouring windows joined."""
    spans: list[tuple[int, int, int, int]] = []
    for size, (known, where) in index.grams.items():
        hashed = windows(cut.hashed, size)
        for begin in np.flatnonzero(inside(hashed, known)).tolist():
            home = int(where[np.searchsorted(known, hashed[begin])])
            row, at = home >> 32, home & 0xFFFFFFFF
            if spans and spans[-1][0] == row and begin <= spans[-1][2]:
                spans[-1] = row, spans[-1][1], begin + size, spans[-1][3]
            else:
                spans.append((row, begin, begin + size, at))
    return spans


def _verdicts(path: str) -> dict[str, str]:
    """People's verdicts by row id; the last one counts."""
    out = {}
    for number, row in read_jsonl(path) if path else ():
        if row.get("verdict") not in VERDICTS or not isinstance(row.get("id"), str):
            raise DataError(
                f"{path}:{number}: a verdict needs an id and a verdict, clean or contaminated, got {row!r:.120}"
            )
        out[row["id"]] = str(row["verdict"])
    return out


def account(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an export says of its decontamination, also when there was none."""
    steps = [s for s in done if s["step"] == STEP]
    if not steps:
        return {"checked": False, "note": "these rows were not checked against any benchmark"}
    last = steps[-1]
    return {
        "checked": True,
        "rows": last["entered"],
        "dropped": last["dropped"],
        "template_only": last["notes"].get("template-only", 0),
        "overruled": last["notes"].get("verdict-clean", 0),
        **last["report"],
        "settings": last["config"],
        "examples": [{k: e[k] for k in ("id", "where", "reason", "evidence")} for e in last["examples"]],
    }
