"""Licences that travel with rows: names brought to one spelling, and which of several is the strictest."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNKNOWN = "not-stated"
OPEN = ("cc0-1.0", "pddl", "unlicense", "public-domain", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "apache-2.0")
"""Without conditions beyond naming the source, freest first."""
SHARED = ("odbl", "gpl-2.0", "gpl-3.0", "agpl-3.0")


def spelled(license: str) -> str:
    """`CC BY-NC 4.0` → `cc-by-nc-4.0`."""
    return re.sub(r"[\s_/-]+", "-", license.strip().lower()) or UNKNOWN


def strictness(license: str) -> tuple[int, str]:
    """A licence's place: open, naming the source, alike, not commercial, unchanged, unknown words, nothing stated."""
    name = spelled(license)
    parts = set(name.split("-"))
    if name == UNKNOWN:
        return 100, name
    if " and " in license.lower():
        return max(strictness(part) for part in re.split(r"(?i) and ", license))
    if name in OPEN:
        return OPEN.index(name), name
    if name in SHARED or parts & {"gpl", "agpl", "lgpl", "odbl"}:
        return 30, name
    if name.startswith("cc-by") or parts & {"odc", "by"}:
        return 20 + 10 * ("sa" in parts) + 20 * ("nc" in parts) + 25 * ("nd" in parts), name
    return 90, name


def strictest(licenses: Iterable[str]) -> str:
    """The strictest of several; where nothing is stated for some rows, nothing can be promised for all."""
    return max((spelled(given) for given in licenses), key=strictness, default=UNKNOWN)
