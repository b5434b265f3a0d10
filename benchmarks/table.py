"""Measurements → rows → the printed table, results.json and the README's table.

A row is {bench, model, precision, ours, rival, rival_setting, ratio, gate: {name, error, passed}} and what explains it:
`unit`, `clock`, `ratio_wall`, `ratio_cpu`, `runs`. `ratio` is null where the gate has not passed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gates
from gates import Gate
from matrix import HERE, Case

CLEAN = 0.95
"""Below this share of CPU in wall time, other work was on the core and CPU time is quoted instead."""
BEGIN, END = "<!-- table: written by bench.py -->", "<!-- end of table -->"
Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def rows_of(case: Case, found: Found) -> list[dict[str, Any]]:
    """A row of time for each of the rival's settings that was measured, and one of memory against the leanest."""
    ours = found.get(("ours", ""), [])
    rows, memory = [], []
    for setting in case.settings:
        theirs = found.get(("rival", setting), [])
        if not ours or not theirs:
            continue
        gate = gate_of(case, found, setting)
        rows.append(row(case, setting, gate, times(ours, theirs)))
        if gate and gate.passed and ours[0].get("peak_kib"):
            memory.append((setting, gate, median([over_imports(m) for m in theirs])))
    if memory and case.method != "generate":
        setting, gate, theirs_mib = min(memory, key=lambda m: m[2])
        mine = median([over_imports(m) for m in ours])
        values = {"ours": mine, "rival": theirs_mib, "ratio": theirs_mib / mine, "unit": "MiB", "runs": len(ours)}
        rows.append(row(case, setting, gate, values) | {"bench": f"{case.bench}, peak memory"})
    return rows


def row(case: Case, setting: str, gate: Gate | None, values: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(values)
    passed = gate is not None and gate.passed
    return {
        "bench": case.bench,
        "model": case.model,
        "precision": case.precision,
        "ours": given.pop("ours"),
        "rival": given.pop("rival"),
        "rival_setting": setting,
        "ratio": given.pop("ratio") if passed else None,
        "gate": finite(dataclasses.asdict(gate or Gate("not measured", math.inf, False))),
        **{k: v for k, v in given.items() if passed or not k.startswith("ratio")},
    }


def gate_of(case: Case, found: Found, setting: str) -> Gate | None:
    """The test that a comparison must pass; None where what it needs was not measured."""
    ours, rival = found[("ours", "")][0], found[("rival", setting)][0]
    if case.method == "generate":
        return gates.ids(ours, rival)
    if case.method in ("ppo", "grpo", "rloo"):
        replay = found.get(("ours", f"replay {setting}"), [])
        test = gates.ppo_round if case.method == "ppo" else gates.policy_gradient
        if (
            setting == "shipped" and case.method != "ppo"
        ):  # bf16: held to its own fp32 round by the tuned setting's gate
            return gate_of(case, found, "tuned") if ("rival", "tuned") in found else None
        return test(replay[0], rival) if replay else None
    if case.precision == "bf16" or setting == "shipped":
        exact = found.get(("rival", "exact" if case.precision == "bf16" else "tuned"), [])
        return gates.reduced(ours, rival, exact[0]) if exact else None
    return gates.losses(ours, rival)


def times(ours: Sequence[Mapping[str, Any]], rival: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median seconds a step by both clocks; the headline is wall time unless the core was shared."""
    mine, theirs = (
        {clock: median([step(m, clock) for m in side]) for clock in ("wall", "cpu")} for side in (ours, rival)
    )
    shared = min(m["cpu"] / m["wall"] for m in (mine, theirs)) < CLEAN
    clock = "cpu" if shared else "wall"
    return {
        "ours": mine[clock],
        "rival": theirs[clock],
        "ratio": theirs[clock] / mine[clock],
        "unit": "s",
        "clock": clock,
        "ratio_wall": theirs["wall"] / mine["wall"],
        "ratio_cpu": theirs["cpu"] / mine["cpu"],
        "runs": min(len(ours), len(rival)),
    }


def step(measurement: Mapping[str, Any], clock: str) -> float:
    """Median seconds of a step, with its share of what was computed once before the first."""
    return median(measurement[clock]) + float(measurement.get(f"once_{clock}", 0.0))


def over_imports(measurement: Mapping[str, Any]) -> float:
    """MiB of the highest memory above what imports alone take."""
    return float(measurement["peak_kib"] - measurement["import_kib"]) / 1024


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def finite(gate: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an error that can't be computed is null."""
    return {**gate, "error": gate["error"] if math.isfinite(gate["error"]) else None}


HEAD = ("bench", "model", "precision", "kilter", "TRL", "setting", "ratio", "clock", "runs", "gate", "error")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as words."""
    number = (lambda v: f"{v:.0f} MiB") if row["unit"] == "MiB" else (lambda v: f"{1000 * v:.0f} ms")
    gate = row["gate"]
    error = "not known" if gate["error"] is None else f"{gate['error']:.1e}"
    return (
        row["bench"],
        row["model"],
        row["precision"],
        number(row["ours"]),
        number(row["rival"]),
        row["rival_setting"],
        "no gate, no ratio" if row["ratio"] is None else f"{row['ratio']:.2f}",
        row.get("clock", ""),
        str(row["runs"]),
        gate["name"] if gate["passed"] else f"FAILED: {gate['name']}",
        error,
    )


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for the README."""
    lines = [HEAD, ("---",) * len(HEAD), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, Any], folder: Path = HERE) -> None:
    """results.json, and the README's part between its marks."""
    (folder / "results.json").write_text(json.dumps(list(rows), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    readme = folder / "README.md"
    page = readme.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    note = f"{datetime.date.today():%d %B %Y}, {machine()}. {said(versions)}"
    readme.write_text(f"{before}{BEGIN}\n{note}\n\n{markdown(rows)}\n{END}{after}", encoding="utf-8")


def machine() -> str:
    """The processor and what it can do, without the machine's name."""
    name = cpu().get("model name", platform.processor() or platform.machine())
    return f"{name}, one of {os.cpu_count()} cores, {', '.join(bf16_instructions()) or 'no bf16 instructions'}"


def bf16_instructions() -> list[str]:
    """Those that multiply bf16 numbers; without one bf16 is slower than fp32 and not worth a row."""
    return [f for f in ("amx_bf16", "avx512_bf16") if f in cpu().get("flags", "").split()]


def cpu() -> dict[str, str]:
    """The last processor's fields of /proc/cpuinfo; nothing where there is no such file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def said(versions: Mapping[str, Mapping[str, str]]) -> str:
    sides = (("kilter", "kilter on "), ("trl116", ""), ("trl112", "PPO: "))
    return (
        "; ".join(
            begin
            + ", ".join(f"{n} {v}" for n, v in versions.get(name, {}).items() if n in ("trl", "torch", "transformers"))
            for name, begin in sides
        )
        + "."
    )
