"""The nouns that every room hands over, and their JSONL.

A **Prompt** is what someone asks; a **Demonstration** is a prompt with an answer worth imitating; a **Candidate** is
an answer some model gave, with all that produced it; a **Judgment** is what one rater said about several candidates.
Records are frozen, their ids are hashes of their content, and keys kilter does not know travel along in `extra`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kilter.errors import DataError

Message = dict[str, str]
"""One turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


def content_id(*parts: Any) -> str:
    """A short stable id: the first 16 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Record:
    """JSON in and out for the frozen dataclasses below."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Build from a JSON object; unknown keys are kept in `extra`."""
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        given = {k: v for k, v in row.items() if k in known}
        unknown = {k: v for k, v in row.items() if k not in known}
        if unknown:
            given["extra"] = {**dict(given.get("extra") or {}), **unknown}
        for name, value in given.items():
            if isinstance(value, list):
                given[name] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """A JSON object holding every field that differs from its default."""
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.default is not dataclasses.MISSING and value == f.default:
                continue
            if f.default_factory is not dataclasses.MISSING and value == f.default_factory():
                continue
            out[f.name] = value
        return out


@dataclass(frozen=True, kw_only=True)
class Text(Record):
    """A document of a corpus."""

    text: str
    source: str = ""
    license: str = ""
    lang: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prompt(Record):
    """What someone asks: the conversation up to the turn that is wanted, and where it came from."""

    messages: tuple[Message, ...]
    id: str = ""
    source: str = ""
    author_hash: str = ""
    category: str = ""
    license: str = ""
    lang: str = ""
    """The language as ISO 639-1, empty where nobody said."""
    split_group: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id([dict(m) for m in self.messages]))

    @property
    def text(self) -> str:
        """The whole conversation as plain lines, for people and for telling duplicates apart."""
        return "\n".join(f"{m['role']}: {m['content']}" for m in self.messages)


@dataclass(frozen=True, kw_only=True)
class Demonstration(Record):
    """A prompt and an answer to imitate."""

    prompt: Prompt
    answer: str
    generator: dict[str, Any] = field(default_factory=dict)
    """Who or what wrote the answer: as a candidate's, or a person's {"rater": ...}."""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return super().from_json({**row, "prompt": Prompt.from_json(row["prompt"])})

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "prompt": self.prompt.to_json()}


@dataclass(frozen=True, kw_only=True)
class Candidate(Record):
    """One answer to a prompt, and everything that made it."""

    prompt_id: str
    answer: str
    id: str = ""
    generator: dict[str, Any] = field(default_factory=dict)
    """Model, revision hash, template hash, sampler settings, seed, draw index, log-prob sum, token count, finished."""
    parent: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.prompt_id, self.answer, self.generator))


@dataclass(frozen=True, kw_only=True)
class Judgment(Record):
    """What one rater said about candidates of one prompt: a weak order, and whatever else the rater gave.

    `tiers` holds positions into `candidates`, best tier first; candidates in one tier are tied.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    tiers: tuple[tuple[int, ...], ...]
    kind: str = "ranking"
    order_shown: tuple[int, ...] = ()
    strength: float | None = None
    """How far the best tier stands above the last, 0 or more."""
    ratings: tuple[float, ...] = ()
    """A number per candidate, higher for better; never against the tiers."""
    probability: float | None = None
    """How sure the order is: above 0.5, at most 1."""
    flags: tuple[bool | None, ...] = ()
    """Per candidate: good, bad, or not said."""
    aspects: tuple[dict[str, float | None], ...] = ()
    """Per candidate a number for each aspect that was asked for; None where the rater gave none."""
    all_bad: bool = False
    rater: dict[str, Any] = field(default_factory=dict)
    guideline: str = ""
    raw: str = ""
    seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        placed = sorted(i for tier in self.tiers for i in tier)
        if placed != list(range(len(self.candidates))):
            raise DataError(
                f"tiers {self.tiers} of prompt {self.prompt.id!r} must name each of the {len(self.candidates)} "
                "candidates exactly once"
            )
        self._check_ratings()
        if self.strength is not None and not (is_number(self.strength) and self.strength >= 0):
            raise DataError(f"the strength (or margin) must be a finite number of at least 0, got {self.strength!r}")
        if self.probability is not None and not (is_number(self.probability) and 0.5 < self.probability <= 1):
            raise DataError(
                f"the probability that the order is right must be above 0.5 and at most 1, got {self.probability!r}; "
                "turn the order round, or tie the answers"
            )
        known = all(isinstance(f, bool) or f is None for f in self.flags)
        if self.flags and not (known and len(self.flags) == len(self.candidates)):
            raise DataError(f"flags {self.flags} must hold true, false or null for each of the candidates")

    def _check_ratings(self) -> None:
        if not self.ratings:
            return
        if len(self.ratings) != len(self.candidates) or not all(map(is_number, self.ratings)):
            raise DataError(
                f"ratings must be a finite number for each of the {len(self.candidates)} answers, got {self.ratings!r}"
            )
        least = float("inf")
        for tier in self.tiers:
            mine = [self.ratings[i] for i in tier]
            if max(mine, default=least) > least:
                raise DataError(f"ratings {self.ratings} and tiers {self.tiers} order the answers differently")
            least = min(mine, default=least)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return super().from_json(
            {
                **row,
                "prompt": Prompt.from_json(row["prompt"]),
                "candidates": [Candidate.from_json(c) for c in row["candidates"]],
            }
        )

    def to_json(self) -> dict[str, Any]:
        return {
            **super().to_json(),
            "prompt": self.prompt.to_json(),
            "candidates": [c.to_json() for c in self.candidates],
        }


def is_number(value: Any) -> bool:
    """Whether a value out of JSON is a finite number (Python reads NaN and Infinity there, and true is an int)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every line of a JSONL file that is not blank.

    A line that is not UTF-8, not JSON, or not an object raises `DataError` with file and line.
    """
    with open(path, "rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            yield number, parse_line(raw, f"{path}:{number}")


def parse_line(raw: bytes, where: str) -> dict[str, Any]:
    """One JSONL line as an object, or a `DataError` that says where and why."""
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
        row = json.loads(text)
        if "\\u" in text:  # JSON can spell half of a surrogate pair, which no tokenizer takes
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: a text holds half of a surrogate pair ({error.object[error.start]!a})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not valid UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, got {type(row).__name__}")
    return row


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any] | Record]) -> int:
    """Write rows whole or not at all (temporary file, fsync, rename); returns their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with open(partial, "w", encoding="utf-8") as out:
        for row in rows:
            data = row.to_json() if isinstance(row, Record) else row
            out.write(json.dumps(data, ensure_ascii=False) + "\n")
            count += 1
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, path)
    return count
