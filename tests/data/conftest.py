"""Rows of every public format for the tests of this room."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def examples() -> Any:
    """The module with rows of every format: `examples.ROWS["alpaca"]`."""
    spec = importlib.util.spec_from_file_location("examples", Path(__file__).with_name("examples.py"))
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
