"""The sandbox against its bars on three seeds: what the README claims, run anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the three runs go; KILTER_BARS_RUNS keeps them (a finished run there is used again, not repeated)."""
    kept = os.environ.get("KILTER_BARS_RUNS")
    return Path(kept) if kept else tmp_path_factory.mktemp("bars")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_sandbox_meets_every_bar(seed: int, runs_folder: Path) -> None:
    """DPO and PPO beat SFT honestly: not by length, not by refusing, not by sharpening, at a bounded tax."""
    command = [
        sys.executable,
        "-m",
        "kilter",
        "run",
        "sandbox",
        "--set",
        f"seed={seed}",
        "--runs",
        str(runs_folder),
        "--name",
        f"seed{seed}",
    ]
    subprocess.run(command, check=True, timeout=1500)
    run = runs_folder / f"seed{seed}"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["evaluation"]["prompts"]["main"] >= 600
    assert {"base", "sft", "best-of-n", "dpo", "ppo"} <= set(summary["models"])
    missed = [f"{b['name']}: {b['value']:.3f}, bar {b['bar']}" for b in summary["bars"] if not b["passed"]]
    assert not missed, "\n".join(missed)
    assert (run / "report.html").stat().st_size > 50_000
