"""An endpoint as a recipe states it: where it is, how fast it may be asked, what it costs.

Nothing here is the key itself: `key_env` names the environment variable that holds it.
"""

from __future__ import annotations

import math
import os
import urllib.parse
from dataclasses import dataclass

from kilter.errors import UserError

SECRET = 16
"""Characters from which on a key is a secret; shorter ones are placeholders that local servers ask for."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible endpoint."""

    url: str
    """Its address, e.g. http://127.0.0.1:8000/v1 or https://host/v1#model-name; without a path, /v1 is meant."""
    model: str = ""
    """Which of its models; empty for the only one that it lists."""
    alias: str = ""
    """The name under which its answers are cached (default: its address); for one model that moves between hosts."""
    key_env: str = ""
    """The environment variable that holds the key; none is sent where this is empty."""
    requests_per_minute: int = 0
    """How many requests it may be sent in a minute; 0 for no limit."""
    tokens_per_minute: int = 0
    """How many tokens, sent and written, it may be asked for in a minute; 0 for no limit."""
    concurrency: int = 16
    """How many calls may be under way at once."""
    timeout: float = 120.0
    """Seconds that one request may take in all."""
    attempts: int = 5
    """How often a call is tried when it times out, loses its connection or gets what is no answer."""
    patience: float = 900.0
    """Seconds for which the endpoint may go on refusing with 429 or 5xx before the run stops; they cost no attempt."""
    pause: float = 1.0
    """Seconds of the first pause after a refusal that names none; it doubles up to a minute."""
    price_in: float = 0.0
    """Money per million tokens that are sent."""
    price_out: float = 0.0
    """Money per million tokens that are written."""
    budget: float | None = None
    """Money that all answers may cost, those of earlier runs in the cache included; needs the prices."""
    budget_tokens: int | None = None
    """Tokens, sent and written, that all answers may take."""
    budget_calls: int | None = None
    """Calls that may be answered."""
    proxy: bool = False
    """Whether proxies and certificates named in the environment are heeded; without, calls go where the address says
    and nowhere else."""

    def __post_init__(self) -> None:
        address, _, named = self.url.partition("#")
        if named and self.model and named != self.model:
            raise UserError(f"endpoint {address}: the address names model {named!r}, and `model` {self.model!r}")
        object.__setattr__(self, "model", self.model or named)
        object.__setattr__(self, "url", _address(address))
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise UserError(f"endpoint {self.url}: {name} is {getattr(self, name)}, but must be at least 1")
        for name in ("timeout", "patience", "pause"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"endpoint {self.url}: {name} is {getattr(self, name)}, but must be above 0")
        limits = ("requests_per_minute", "tokens_per_minute", "price_in", "price_out")
        for name in (*limits, "budget", "budget_tokens", "budget_calls"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"endpoint {self.url}: {name} is {getattr(self, name)}, but must not be below 0")
        if self.budget is not None and not (self.price_in or self.price_out):
            raise UserError(
                f"endpoint {self.url}: a budget of {self.budget:g} needs price_in and price_out, the money per million "
                "tokens; budget_tokens and budget_calls need no prices"
            )

    @property
    def at(self) -> str:
        """What the endpoint is in a call's key."""
        return self.alias or self.url

    def key(self) -> str:
        """The key out of the environment."""
        if not self.key_env:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise UserError(
                f"endpoint {self.url}: the environment variable {self.key_env} is not set; put the key there"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"endpoint {self.url}: what {self.key_env} holds is no key: it has spaces or other signs")
        return key


def _address(given: str) -> str:
    """An address in one spelling, so that it names one endpoint in the cache."""
    try:
        parts = urllib.parse.urlsplit(given.strip())
        port = parts.port
    except ValueError as error:
        raise UserError(f"endpoint {given!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"endpoint {given!r} is no address; give one such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query:
        raise UserError(
            f"the address of endpoint {parts.hostname} holds a user, a password or a query; a key goes into an "
            "environment variable that `key_env` names"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    path = parts.path.rstrip("/")
    for tail in ("/chat/completions", "/completions"):
        path = path.removesuffix(tail)
    return f"{parts.scheme}://{host}{f':{port}' if port and port != usual else ''}{path or '/v1'}"
