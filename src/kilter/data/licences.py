"""Licences of rows: one name for each, how strict it is, and what a file with rows of several must carry.

An export carries the strictest licence of its rows, and rows of different licences are not mixed in silence. Licences
are compared by what they ask of whoever passes the rows on; this is bookkeeping, no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

KINDS = (
    "public domain",
    "permissive",
    "attribution",
    "share-alike",
    "own terms",
    "non-commercial",
    "no derivatives",
    "unknown",
)
"""From the freest to the strictest; what nobody said counts as the strictest."""


@dataclass(frozen=True)
class Licence:
    """A licence under one name."""

    name: str
    """The SPDX identifier where there is one (without a version where none was given), else what was written."""
    kind: str
    """One of `KINDS`."""
    share_alike: bool = False
    """Whether what is made of it must stand under the same licence."""
    non_commercial: bool = False

    @property
    def strictness(self) -> int:
        """Its place in `KINDS`."""
        return KINDS.index(self.kind)


UNKNOWN = Licence("unknown", "unknown")
_PLAIN = (
    ("permissive", "Apache-2.0", ("apache", "apache2", "apache 2", "apache license 2.0", "apache license version 2.0")),
    ("permissive", "MIT", ("mit license", "mit licence", "the mit license", "expat")),
    ("permissive", "BSD-2-Clause", ("bsd 2 clause", "simplified bsd")),
    ("permissive", "BSD-3-Clause", ("bsd", "bsd 3 clause", "new bsd")),
    ("permissive", "ISC", ()),
    ("permissive", "Unlicense", ("the unlicense",)),
    ("public domain", "CC0-1.0", ("cc0", "cc 0", "cc zero", "cc zero 1.0", "cc0 1.0 universal", "public domain")),
    ("public domain", "PDDL-1.0", ("pddl", "odc pddl")),
    ("attribution", "ODC-By-1.0", ("odc by", "odc attribution")),
    ("attribution", "CDLA-Permissive-2.0", ("cdla permissive", "cdla permissive 1.0")),
    ("share-alike", "ODbL-1.0", ("odbl", "odc odbl")),
    ("share-alike", "CDLA-Sharing-1.0", ("cdla sharing",)),
    ("share-alike", "GPL-3.0", ("gpl", "gpl 3", "gplv3", "gpl 3.0 only", "gpl 3.0 or later", "agpl 3.0", "agpl")),
    ("own terms", "OpenAI-terms", ("openai", "openai terms of use", "openai terms")),
    ("own terms", "Llama-Community", ("llama", "llama2", "llama 2", "llama3", "llama 3", "llama3.1", "llama 3.1")),
    ("own terms", "Gemma-terms", ("gemma", "gemma terms")),
    ("own terms", "OpenRAIL", ("bigscience openrail m", "openrail m", "creativeml openrail m")),
)
"""Kind, name, and other spellings, after `_key`."""
SETS = {
    "alpaca": "CC-BY-NC-4.0",
    "magpie": "CC-BY-NC-4.0",
    "no_robots": "CC-BY-NC-4.0",
    "dolly": "CC-BY-SA-3.0",
    "oasst1": "Apache-2.0",
    "oasst2": "Apache-2.0",
    "helpsteer2": "CC-BY-4.0",
    "ultrachat": "MIT",
    "ultrafeedback": "MIT",
    "ultrafeedback_binarized": "MIT",
    "hh-rlhf": "MIT",
    "shp": "MIT",
}
"""What public data sets state of themselves; the cards are where to look it up."""
_WORDS = (
    (r"https?://(www\.)?creativecommons\.org/publicdomain/zero", "cc0"),
    (r"https?://(www\.)?creativecommons\.org/licenses/", "cc "),
    (r"creative ?commons", "cc"),
    (r"non ?commercial", "nc"),
    (r"share ?alike", "sa"),
    (r"no ?deriv(ative)?s?( works)?", "nd"),
    (r"attribution", "by"),
    (r"\b(international|intl|unported|generic|licen[cs]e|legalcode|deed)\b", ""),
)


def _key(name: str) -> str:
    """Lower case, one space between words, marks gone but for the point of a version."""
    return " ".join(re.sub(r"[^a-z0-9.+]+", " ", name.lower()).split())


_BY_KEY = {_key(spelling): Licence(name, kind, share_alike=kind == "share-alike")
           for kind, name, others in _PLAIN for spelling in (name, *others)}  # fmt: skip


def normal(name: str) -> Licence:
    """The licence behind any usual spelling; an unknown one keeps its name and counts as the strictest."""
    key = _key(name)
    if key in ("", "unknown", "other", "none", "null"):
        return UNKNOWN
    if key in _BY_KEY:
        return _BY_KEY[key]
    parts = re.split(r"\s+and\s+", name.strip(), flags=re.IGNORECASE)
    if len(parts) > 1:  # an expression: all of them hold
        hardest = strictest(parts)
        return replace(hardest, name=" AND ".join(sorted({normal(p).name for p in parts})))
    return _creative_commons(name) or Licence(name.strip(), "unknown")


def _creative_commons(name: str) -> Licence | None:
    text = name.lower().replace("-", " ").replace("_", " ")
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text)
    text = _key(text)
    if re.fullmatch(r"cc ?0( 1\.0)?|cc zero( 1\.0)?", text):
        return _BY_KEY["cc0"]
    found = re.fullmatch(r"cc by((?: (?:nc|sa|nd))*)(?: v?([1-4](?:\.[0-9])?))?", text)
    if not found:
        return None
    parts = [p for p in ("nc", "nd", "sa") if p in found[1].split()]
    version = f"-{found[2]}{'' if '.' in found[2] else '.0'}" if found[2] else ""
    kind = "no derivatives" if "nd" in parts else "non-commercial" if "nc" in parts else "attribution"
    kind = "share-alike" if parts == ["sa"] else kind
    return Licence("-".join(["CC-BY", *(p.upper() for p in parts)]) + version, kind, "sa" in parts, "nc" in parts)


def of_set(name: str) -> Licence:
    """What a public data set states, by its name with or without its owner; `UNKNOWN` for one that is not listed."""
    last = name.lower().rsplit("/", 1)[-1]
    return normal(SETS[last]) if last in SETS else UNKNOWN


def strictest(names: Iterable[str]) -> Licence:
    """The strictest of the rows' licences; no rows have none, which is `UNKNOWN`. Order and repeats change nothing."""
    found = {normal(n) for n in names}
    return max(found, key=lambda f: (f.strictness, f.share_alike, f.name), default=UNKNOWN)


def mixed(names: Iterable[str]) -> bool:
    """Whether the rows stand under more than one licence; an unstated one is one of its own."""
    return len({normal(n).name for n in names}) > 1


def conflict(names: Iterable[str]) -> str:
    """Why rows of these licences can't be passed on as one work, in a sentence; empty where nothing forbids it."""
    found = {normal(n) for n in names}
    alike = sorted(f.name for f in found if f.share_alike)
    others = sorted(f.name for f in found if f.non_commercial or f.kind in ("own terms", "no derivatives"))
    pairs = [(a, b) for a in alike for b in others if a != b]
    pairs += [(a, b) for a in alike for b in alike if a < b and _family(a) != _family(b)]
    if not pairs:
        return ""
    a, b = pairs[0]
    return f"{a} wants what is made of it under its own terms, which {b} does not allow"


def _family(name: str) -> str:
    return re.sub(r"-[0-9.]+$", "", name)
