"""Faults on request: what endpoints do to their clients on bad days, so that clients are tried before they meet it.

    429             refused, with a short Retry-After
    timeout         nothing comes until the client gives up, or for a stated time
    truncated-json  the reply breaks off in its middle, though it says that it is whole
    prose           friendly words stand around the reply
    wrong-language  the reply is not in the language that was asked in
    refusal         a refusal stands where the reply should

A fault is drawn by (seed, the request's hash, how often that request has come), so a retry has luck of its own and a
run is the same every time whatever the order of its requests.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from kilter.errors import UserError, nearest

KINDS = ("429", "timeout", "truncated-json", "prose", "wrong-language", "refusal")
BEFORE, AFTER = "Sure! Here is what you asked for:\n\n", "\n\nI hope that this helps. Let me know if you need more!"
ELSEWHERE = "很抱歉，我只能用中文回答这个问题。您所问的事情，我需要再想一想。"
REFUSED = "I'm sorry, but I can't help with that."


@dataclass
class Faults:
    """Shares of faults, and what has been asked so far."""

    shares: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    """How many of each were made."""

    def draw(self, body: bytes) -> str:
        """The fault for this request, empty for none."""
        if not self.shares:
            return ""
        name = hashlib.sha256(body).hexdigest()
        self.seen[name] += 1
        digest = hashlib.sha256(f"{self.seed}/{name}/{self.seen[name]}".encode()).digest()
        luck = int.from_bytes(digest[:8], "big") / 2**64
        for kind, share in self.shares.items():
            luck -= share
            if luck < 0:
                return kind
        return ""


def read_faults(given: Sequence[str], seed: int) -> Faults:
    """`429=0.2` as often as given."""
    shares: dict[str, float] = {}
    for item in given:
        kind, equals, share = item.partition("=")
        if kind not in KINDS:
            raise UserError(f"--fault {item}: there is no fault {kind!r}{nearest(kind, KINDS)}")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise UserError(f"--fault {item}: give {kind}=SHARE, e.g. {kind}=0.1") from None
        if not equals or not math.isfinite(shares[kind]) or not 0 <= shares[kind] <= 1:
            raise UserError(f"--fault {item}: a share is a number from 0 to 1")
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"the faults' shares add up to {sum(shares.values()):g}, but must not exceed 1")
    return Faults(shares, seed)


def spoil(text: str, kind: str) -> str:
    """The reply as a fault leaves it."""
    if kind == "truncated-json":
        return text[: max(1, 3 * len(text) // 5)]
    if kind == "prose":
        return BEFORE + text + AFTER
    if kind == "wrong-language":
        return ELSEWHERE
    return REFUSED if kind == "refusal" else text
