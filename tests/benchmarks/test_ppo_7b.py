"""The memory benchmark runs through on a tiny shape, and counts one backbone for four roles."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ppo_7b.py"


def run(*given: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("ppo_7b", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.main(["--shape", "tiny", "--device", "cpu", *given]))


@pytest.mark.parametrize(
    ("dtype", "quantize"), [("float32", "none"), ("bfloat16", "nf4"), ("float16", "nf4")], ids=lambda v: v
)
def test_two_rounds_on_one_backbone(dtype: str, quantize: str) -> None:
    if quantize == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    done = run("--dtype", dtype, "--quantize", quantize)
    assert done["steps_taken"] == len(done["steps"]) == 4
    assert done["steps"][0]["kl_max"] == 0.0
    assert [p["phase"] for p in done["phases"]][:3] == ["backbone", "roles", "round 0: rollout and scores"]
    held = done["held_bytes"]
    linear = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    rest = 2 * 320 * 64 + 9 * 64  # embeddings and head; norms
    adapter = 4 * 16 * (2 * 128 + 2 * 96 + 3 * 192)
    wide = 4 if dtype == "float32" else 2
    expected = {
        "reference": adapter * wide,  # frozen starts in the compute type, shared with who starts there
        "policy": adapter * 4,
        "reward": adapter * wide + 4 * 64,
        "value": adapter * 4 + 4 * 65,
    }
    assert {k: v for k, v in held.items() if k != "backbone"} == expected
    if quantize == "none":
        assert held["backbone"] == (linear + rest) * wide
    else:  # half a byte each, a byte per 64, four per 256 of those, and two tables for each of the 28 layers
        assert held["backbone"] == rest * wide + linear // 2 + linear // 64 + 28 * (4 + 4 * 256 + 4 * 16)


@pytest.mark.parametrize(
    ("shape", "cap", "change"),
    [
        ("llama2-7b", 14, {}),
        ("qwen2.5-7b", 14, {}),
        ("llama2-7b", 8, {"rollout_rows"}),
        ("qwen2.5-7b", 8, {"micro_tokens"}),
    ],
)
def test_the_shape_under_a_cap_is_what_the_plan_recommends(shape: str, cap: int, change: set[str]) -> None:
    planned = run("--shape", shape, "--device", "cuda", "--cap", str(cap), "--plan-only")["plan"]
    assert set(planned["change"]) == set(change)
    peaks = {phase: parts["total"] - parts["driver"] for phase, parts in planned["phases_gib"].items()}
    assert max(peaks.values()) <= cap
    assert max(peaks, key=lambda phase: peaks[phase]) in ("rollout", "update")
