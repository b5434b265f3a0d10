"""Rows of every public format for the tests of this room, which also share `judged.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)


@pytest.fixture(scope="session")
def examples() -> Any:
    """The module with rows of every format: `examples.ROWS["alpaca"]`."""
    spec = importlib.util.spec_from_file_location("examples", Path(__file__).with_name("examples.py"))
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
