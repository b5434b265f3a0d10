"""A real server on a free loopback port, in a thread of its own, and the official client."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from kilter.serve import start

KEY = "a-key-for-tests"


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """`with serving("sandbox:oracle", faults=[...]) as served:` gives url, endpoint and a client."""

    @contextlib.contextmanager
    def run(*models: str, key: str = KEY, **flags: Any) -> Iterator[Served]:
        served = start.endpoint(start.Flags(models=models, **flags), key)
        place = start.listen("127.0.0.1", 0)
        server = start.server(served)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        found = Served(f"http://127.0.0.1:{place.getsockname()[1]}", served, key)
        found.server = server
        try:
            yield found
        finally:
            found.client.close()
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive(), "the server ends when it is told to"

    return run


class Served:
    """A running server."""

    server: Any = None

    def __init__(self, url: str, endpoint: Any, key: str) -> None:
        self.url, self.endpoint, self.key = url, endpoint, key
        self.client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=60)

    def say(self, model: str, text: str, **given: Any) -> str:
        """One chat answer's text."""
        messages = [{"role": "user", "content": text}]
        reply = self.client.chat.completions.create(model=model, messages=messages, **given)
        return reply.choices[0].message.content


@pytest.fixture(scope="session")
def tiny(world: Path, serving: Callable[..., Any]) -> Iterator[Served]:
    """The three families' tiny models and the oracle, with room for 16 rows."""
    names = [f"{family}={world / family}" for family in ("llama", "qwen2", "gpt2")]
    with serving(*names, "sandbox:oracle", queue=48, max_tokens=64) as served:
        yield served
