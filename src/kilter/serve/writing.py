"""From token ids to text that only ever grows: no character is split, and what may become a stop string waits.

Every backend writes through this, so a stream's pieces joined are the whole answer to the letter.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Token:
    """A drawn token as a client sees it."""

    text: str
    raw: bytes
    logp: float | None
    """Natural log of its probability under the model, whatever it was drawn from; None where nothing comes before."""
    top: tuple[tuple[str, bytes, float], ...] = ()
    """The likeliest tokens at its place: text, bytes, log-probability."""


@dataclass
class Part:
    """What is new of one answer."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None
    """Why it ended: `stop` or `length`; None while it goes on."""
    drawn: int = 0
    """Tokens drawn so far, the one that ended it included."""


class Writer:
    """One answer being written."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = (), whole: bool = False) -> None:
        self.decode, self.stops = decode, tuple(stops)
        self.at_once = whole and not stops
        """Nobody reads along and nothing ends it: ids are decoded when there are no more."""
        self.ids: list[int] = []
        self.begin = self.done = 0
        """`ids[begin:done]` is written already and gives the next ones their context."""
        self.text = ""
        self.sent = 0
        self.waiting: list[tuple[int, Token]] = []
        """Tokens not yet sent, each with the place in the text where it begins."""

    def add(self, token_id: int, token: Token | None = None) -> tuple[str, list[Token], bool]:
        """One more token: the text and the tokens that can be sent now, and whether a stop string ended the answer."""
        self.ids.append(token_id)
        if token is not None:
            self.waiting.append((len(self.text), token))
        if self.at_once:
            return "", [], False
        whole = self.decode(self.ids[self.begin :])
        if whole.endswith("\ufffd"):  # the rest of the character may be the next token
            return "", [], False
        self._grow(whole)
        return self._send()

    def write(self, text: str, token: Token | None = None) -> tuple[str, list[Token], bool]:
        """The same for a piece of plain text."""
        if token is not None:
            self.waiting.append((len(self.text), token))
        self.text += text
        return self._send()

    def end(self) -> tuple[str, list[Token], bool]:
        """Whatever was held back, now that nothing follows."""
        if self.done < len(self.ids):
            self._grow(self.decode(self.ids[self.begin :]))
        text, tokens, stopped = self._send(last=True)
        return text, tokens, stopped

    def _grow(self, whole: str) -> None:
        known = self.decode(self.ids[self.begin : self.done])
        self.text += whole[len(known) :]
        self.begin, self.done = self.done, len(self.ids)

    def _send(self, last: bool = False) -> tuple[str, list[Token], bool]:
        found = [at for at in (self.text.find(s, max(0, self.sent)) for s in self.stops) if at >= 0]
        safe = min(found) if found else len(self.text) - (0 if last else self._may_stop())
        text, self.sent = self.text[self.sent : safe], max(self.sent, safe)
        over = found or last
        tokens = [t for at, t in self.waiting if at < safe or (last and not found)]
        if not over:  # a token is sent when all of its text is
            ends_at = [*(at for at, _ in self.waiting), len(self.text)][1:]
            tokens = [t for (_, t), end in zip(self.waiting, ends_at, strict=True) if end <= safe]
        self.waiting = [] if over else self.waiting[len(tokens) :]
        return text, tokens, bool(found)

    def _may_stop(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(self.text) - self.sent), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class Spelling:
    """A tokenizer's tokens, one by one, as bytes; used by one thread alone."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.alone: dict[int, str] = {}
        """Tokens decoded by themselves, which the next one's text is told apart from."""
        decoder = self.backend.decoder
        self.by_bytes = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        self.added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items()}

    def decode(self, ids: list[int]) -> str:
        """The text of ids, with nothing tidied up."""
        if len(ids) != 1:
            text: str = self.backend.decode(ids, skip_special_tokens=False)
            return text
        if ids[0] not in self.alone:
            self.alone[ids[0]] = self.backend.decode(ids, skip_special_tokens=False)
        return self.alone[ids[0]]

    @functools.lru_cache(maxsize=65536)  # noqa: B019 (as long-lived as the model)
    def bytes_of(self, token_id: int) -> bytes:
        """The token's own bytes."""
        if token_id in self.added:
            return self.added[token_id].encode()
        piece = self.tokenizer.convert_ids_to_tokens(token_id) or ""
        if self.by_bytes:
            table = _letters()
            if all(c in table for c in piece):
                return bytes(table[c] for c in piece)
        byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()

    def text_of(self, token_id: int) -> str:
        """The token as text; a part of a character as OpenAI spells it, so that no two tokens look alike."""
        raw = self.bytes_of(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)

    def token(self, token_id: int, logp: float | None, top: Sequence[tuple[int, float]] = ()) -> Token:
        named = tuple((self.text_of(i), self.bytes_of(i), value) for i, value in top)
        return Token(self.text_of(token_id), self.bytes_of(token_id), logp, named)


@functools.cache
def _letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers spell bytes: printable ones stand for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in own]
    return {**{chr(b): b for b in own}, **{chr(256 + i): b for i, b in enumerate(rest)}}
