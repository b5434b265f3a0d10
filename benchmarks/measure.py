"""What both sides' runners share: a clock between steps, memory from /proc, and the result's one file. Stdlib only."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any


class Clock:
    """Marks after each step; a step's time runs from mark to mark, so that fetching rows and logging are in it."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def steps(self, warm: int) -> dict[str, list[float]]:
        """Wall and CPU seconds of each step after `warm` of them (the first mark ends step one)."""
        kept = self.marks[max(0, warm - 1) :]
        pairs = list(itertools.pairwise(kept))
        return {"wall": [b[0] - a[0] for a, b in pairs], "cpu": [b[1] - a[1] for a, b in pairs]}


def memory(name: str) -> int:
    """KiB from /proc/self/status: VmRSS now, VmHWM at the highest; 0 where there is no such file."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return 0
    line = next(x for x in path.read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1])


def read_spec() -> dict[str, Any]:
    """The measurement asked for: a JSON file named on the command line."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return spec


def read_rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Token ids of every row, in the order in which both sides train on them."""
    return [json.loads(line) for line in Path(spec["rows"]).read_text(encoding="utf-8").splitlines()]


def write_result(spec: dict[str, Any], result: dict[str, Any]) -> None:
    """Write what was measured, with the process's highest memory."""
    Path(spec["out"]).write_text(json.dumps({**result, "peak_kib": memory("VmHWM")}), encoding="utf-8")
