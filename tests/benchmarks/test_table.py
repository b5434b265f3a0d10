"""From measurements to rows: medians, clocks, memory, and no ratio without its gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matrix
import pytest
import table
from matrix import Case

CASE = Case("sft", "sft", "tiny", "demonstrations", 8, 2, ("tuned", "shipped"))


def measured(seconds: float, losses: tuple[float, ...] = (7.0, 6.9), share: float = 1.0, **more: Any) -> dict[str, Any]:
    wall = [seconds, seconds, 10 * seconds]  # one step that something interrupted
    return {
        "wall": wall,
        "cpu": [share * w for w in wall],
        "losses": list(losses),
        "import_kib": 1024,
        "peak_kib": 1024 * 101,
        **more,
    }


def test_ratio_is_the_rivals_median_step_over_ours() -> None:
    found = {
        ("ours", ""): [measured(0.1), measured(0.3), measured(0.2)],
        ("rival", "tuned"): [measured(0.5), measured(0.6), measured(0.4)],
    }
    row = table.rows_of(CASE, found)[0]
    assert (row["ours"], row["rival"], row["ratio"]) == pytest.approx((0.2, 0.5, 2.5))
    assert (row["rival_setting"], row["clock"], row["runs"], row["unit"]) == ("tuned", "wall", 3, "s")
    assert row["gate"] == {"name": "losses of 2 steps", "error": 0.0, "passed": True}


def test_a_failed_gate_leaves_no_ratio_of_any_kind() -> None:
    found = {("ours", ""): [measured(0.1)], ("rival", "tuned"): [measured(0.5, (7.0, 6.8))]}
    rows = table.rows_of(CASE, found)
    assert len(rows) == 1  # no row of memory either
    assert rows[0]["ratio"] is None
    assert "ratio_wall" not in rows[0]
    assert not rows[0]["gate"]["passed"]
    assert "no gate, no ratio" in table.text(rows)
    assert "FAILED: losses of 2 steps" in table.text(rows)


def test_cpu_time_is_quoted_when_the_core_was_shared() -> None:
    found = {("ours", ""): [measured(0.4, share=0.5)], ("rival", "tuned"): [measured(0.5)]}
    row = table.rows_of(CASE, found)[0]
    assert row["clock"] == "cpu"
    assert row["ratio"] == pytest.approx(0.5 / 0.2)
    assert row["ratio_wall"] == pytest.approx(0.5 / 0.4)


def test_what_is_computed_once_is_shared_out_over_the_steps() -> None:
    assert table.step(measured(0.2, once_wall=0.05, once_cpu=0.04), "wall") == pytest.approx(0.25)
    assert table.step(measured(0.2, once_wall=0.05, once_cpu=0.04), "cpu") == pytest.approx(0.24)


def test_memory_is_counted_above_imports_and_against_the_leanest_setting() -> None:
    found = {
        ("ours", ""): [measured(0.1)],
        ("rival", "tuned"): [measured(0.5, peak_kib=1024 * 401)],
        ("rival", "shipped"): [measured(0.5, import_kib=1024 * 100, peak_kib=1024 * 300)],
    }
    row = table.rows_of(CASE, found)[-1]
    assert row["bench"] == "sft, peak memory"
    assert (row["ours"], row["rival"], row["ratio"], row["unit"]) == (100.0, 200.0, 2.0, "MiB")
    assert row["rival_setting"] == "shipped"


def test_what_is_shipped_runs_in_bf16_and_is_held_to_its_own_error() -> None:
    found = {
        ("ours", ""): [measured(0.1)],
        ("rival", "tuned"): [measured(0.5)],
        ("rival", "shipped"): [measured(0.7, (7.001, 6.9))],
    }
    gate = table.rows_of(CASE, found)[1]["gate"]
    assert gate["passed"]
    assert gate["name"].startswith("losses of 2 steps against fp32")
    del found["rival", "tuned"]
    assert table.rows_of(CASE, found)[0]["gate"] == {"name": "not measured", "error": None, "passed": False}


def test_a_side_that_was_not_measured_gives_no_row() -> None:
    assert table.rows_of(CASE, {("ours", ""): [measured(0.1)]}) == []
    assert table.rows_of(CASE, {("rival", "tuned"): [measured(0.1)]}) == []


def test_results_and_readme_are_written_between_the_marks(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    found = {("ours", ""): [measured(0.1)], ("rival", "tuned"): [measured(0.5, (7.0, float("nan")))]}
    table.write(table.rows_of(CASE, found), {"trl116": {"trl": "1.16.0"}}, tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "trl 1.16.0" in page
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {"bench", "model", "precision", "ours", "rival", "rival_setting", "ratio", "gate"} <= set(results[0])
    assert results[0]["gate"]["error"] is None  # JSON has no infinity


def test_every_quick_setting_is_one_of_the_full_ones() -> None:
    for case in matrix.CASES:
        assert set(case.quick) <= set(case.settings), case.name
        assert "shipped" not in case.quick or "tuned" in case.quick, case.name  # whose losses it is held to
