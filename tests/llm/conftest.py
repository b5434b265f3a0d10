"""A scripted endpoint for each test that asks for one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `endpoint.py` beside this file."""
    name = "kilter_tests_llm_endpoint"
    spec = importlib.util.spec_from_file_location(name, HERE / "endpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(fake: ModuleType) -> Iterator[Callable[..., Any]]:
    """Start an endpoint with a script; all are closed after the test."""
    opened: list[Any] = []

    def start(script: Any = lambda request: None, **given: Any) -> Any:
        opened.append(fake.Endpoint(script, **given))
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__()


@pytest.fixture
def client() -> Iterator[Callable[..., Any]]:
    """A client of an endpoint, with pauses short enough for a test; closed after the test."""
    from kilter.llm.client import Client

    opened: list[Client] = []

    def open_(endpoint: Any, cache: Any = None, **given: Any) -> Client:
        settings = {"url": f"{endpoint.url}#toy", "pause": 0.05, "concurrency": 8, **given}
        url = settings.pop("url")
        opened.append(Client(url, cache, **settings))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()
