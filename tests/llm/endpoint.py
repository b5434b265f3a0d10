"""A scripted endpoint over real HTTP on a free port of 127.0.0.1, in a thread; run as a program, in its own process.

Every request is kept. A script says what to reply to the n-th request; where it says nothing, the last message comes
back. As a program it prints its port and writes a line for every request to standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """What came."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        """The last message, or the prompt."""
        return str(self.body["prompt"] if "prompt" in self.body else self.body["messages"][-1]["content"])


@dataclass
class Reply:
    """What to send back."""

    body: Any = None
    """A text as it is, anything else as JSON."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    """Close the connection in the middle of the body."""
    drip: float = 0.0
    """Seconds between single bytes of the body."""


Script = Callable[[Request], Reply | None]


def answer(text: Any, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A chat response."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "x", "model": "toy-2026", "choices": [{**choice, **more.pop("choice", {})}], "usage": usage, **more}


def echo(request: Request) -> Reply:
    """The text that came, as an answer."""
    if request.path == "/v1/models":
        return Reply({"data": [{"id": "toy"}]})
    if request.path.endswith("/chat/completions"):
        return Reply(answer(request.text))
    choice = {"index": 0, "text": request.text, "finish_reason": "stop"}
    return Reply({"model": "toy-2026", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


class Endpoint:
    """The endpoint; `with` closes it."""

    def __init__(self, script: Script = lambda request: None, port: int = 0) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.busy = self.most_busy = 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(port, started), daemon=True)
        self._thread.start()
        assert started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> list[Request]:
        """Requests that ask for text."""
        return [r for r in self.requests if r.body]

    def _live(self, port: int, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._talk, "127.0.0.1", port, backlog=500))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields if f)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                body = json.loads(raw) if raw else {}
                request = Request(len(self.requests), line.split()[1], headers, body)
                self.requests.append(request)
                self.busy += 1
                self.most_busy = max(self.most_busy, self.busy)
                try:
                    await self._reply(self.script(request) or echo(request), writer)
                finally:
                    self.busy -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, reply: Reply, writer: asyncio.StreamWriter) -> None:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        data = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        writer.write(head.encode())
        if reply.cut:
            writer.write(data[: len(data) // 2])
            await writer.drain()
            raise ConnectionError
        if reply.drip:
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(reply.drip)
        else:
            writer.write(data)
        await writer.drain()


def main() -> None:
    """Serve until killed; with an argument, every answer takes so many seconds."""
    delay = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0

    def script(request: Request) -> Reply:
        if len(sys.argv) > 2:
            print(json.dumps({"text": request.text, "seed": request.body.get("seed")}), flush=True)
        reply = echo(request)
        reply.delay = delay
        return reply

    with Endpoint(script) as endpoint:
        print(endpoint.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
