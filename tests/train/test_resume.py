"""Exact resume, for real: processes killed with SIGKILL and started again end with the very same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")

STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")
RUN = """
import os, signal, sys
from kilter import pipeline

calls = 0
def deadly(call):
    def counted(*given, **named):
        global calls
        calls += 1
        if calls == int(os.environ.get("KILL_AT_WRITE", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return counted

for name in ("fsync", "mkdir", "replace", "rename", "unlink", "rmdir"):
    setattr(os, name, deadly(getattr(os, name)))
pipeline.run(sys.argv[1], runs_dir=sys.argv[2])
"""
Watch = Callable[[Path], bool]
"""Looks at a run's folder and says when to kill."""


def start(recipe: Path, runs: Path, **environ: str) -> subprocess.Popen[bytes]:
    source = str(Path(__import__("kilter").__file__ or "", "..", "..").resolve())
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "KILTER_QUIET": "1", **environ}
    with open(runs.parent / "stderr.txt", "wb") as errors:
        return subprocess.Popen([sys.executable, "-c", RUN, str(recipe), str(runs)], env=environment, stderr=errors)


def finish(process: subprocess.Popen[bytes], runs: Path) -> None:
    assert process.wait(timeout=300) == 0, (runs.parent / "stderr.txt").read_text()[-3000:]


def kill_when(process: subprocess.Popen[bytes], folder: Path, watch: Watch) -> bool:
    """SIGKILL at the moment that `watch` says so; False when the run ended before."""
    while process.poll() is None:
        if watch(folder):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0002)
    return False


def steps_done(stage: str, at_least: int, delay: float) -> Watch:
    """Some time after a stage has `at_least` rows of metrics on disk and goes on."""
    seen: list[float] = []

    def watch(folder: Path) -> bool:
        path = folder / stage / "metrics.jsonl"
        if not seen and path.exists() and path.read_bytes().count(b"\n") >= at_least:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= delay

    return watch


def after(stage: str, delay: float) -> Watch:
    """Some time after a stage has begun, wherever it then is."""
    seen: list[float] = []

    def watch(folder: Path) -> bool:
        if not seen and (folder / stage).exists():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= delay

    return watch


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """A stage's metrics or samples, without what no run can repeat."""
    path = folder / name
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def whole(world: Path, place: Path) -> tuple[Path, Path]:
    """(recipe, folder of a run of it that nobody interrupted)."""
    import yaml

    common: dict[str, Any] = {"checkpoint_every": 3, "row_tokens": 48}
    stages = {
        "pretrain": {"model": "blank", "scratch": True, "data": "corpus.jsonl", "steps": 12, "warmup": 2, **common},
        "sft": {
            "model": "pretrain",
            "data": "demos.jsonl",
            "corpus": "corpus.jsonl",
            "steps": 10,
            "micro_tokens": 200,
            "warmup": 2,
            **common,
        },
        "reward": {
            "model": "sft",
            "data": "rankings.jsonl",
            "batch": 6,
            "steps": 10,
            "checkpoint_every": 3,
            "warmup": 2,
        },
        "dpo": {
            "model": "sft",
            "data": "rankings.jsonl",
            "batch": 4,
            "steps": 8,
            "checkpoint_every": 3,
            "lora_rank": 2,
            "merge": True,
        },
        "ppo": {
            "model": "sft",
            "reward": "reward",
            "data": "prompts.jsonl",
            "corpus": "corpus.jsonl",
            "batch": 8,
            "steps": 6,
            "max_new": 12,
            "kl_target": 0.5,
            "micro_tokens": 150,
            **common,
            "checkpoint_every": 2,
        },
    }
    place_of = {
        n: {
            k: str(world / v) if isinstance(v, str) and (world / v).exists() and v not in stages else v
            for k, v in s.items()
        }
        for n, s in stages.items()
    }
    recipe = place / "small.yaml"
    recipe.write_text(yaml.safe_dump({"seed": 3, "threads": 1, "stages": place_of}, sort_keys=False))
    finish(start(recipe, place / "whole"), place / "whole")
    return recipe, place / "whole" / "small"


@pytest.fixture(scope="module")
def online(world: Path, place: Path) -> tuple[Path, Path]:
    """The same for the methods that learn from their own answers, with held-out prompts and their best weights."""
    import yaml

    (place / "tea.py").write_text(
        "def tea(prompts, answers):\n    return [sum(c in 'tea' for c in a) / 10 for a in answers]\n"
    )
    common: dict[str, Any] = {
        "model": str(world / "llama"),
        "data": str(world / "prompts.jsonl"),
        "heldout": str(world / "heldout.jsonl"),
        "reward": f"{place / 'tea.py'}:tea",
        "eval_every": 2,
        "checkpoint_every": 3,
        "steps": 10,
        "max_new": 10,
        "lr": 1e-2,
    }
    stages = {
        "ppo": {**common, "batch": 8, "kl_target": 0.5, "kl_stop": 0.05, "value_lr": 1e-3},
        "grpo": {**common, "batch": 4, "answers": 3, "variant": "dapo", "beta": 0.01, "minibatches": 2, "keep": 2},
        "online-dpo": {**common, "batch": 4, "answers": 3, "lora_rank": 2, "lr": 5e-2},
    }
    recipe = place / "online.yaml"
    recipe.write_text(yaml.safe_dump({"name": "small", "seed": 3, "threads": 1, "stages": stages}, sort_keys=False))
    finish(start(recipe, place / "online"), place / "online")
    return recipe, place / "online" / "small"


def assert_identical(
    found: Path, wanted: Path, digest: Callable[[Path], dict[str, str]], stages: tuple[str, ...] = STAGES
) -> None:
    weights = digest(wanted)
    assert all(any(name.startswith(f"{stage}/model/") for name in weights) for stage in stages)
    assert not (found / ".superseded").exists()
    assert digest(found) == weights
    for stage in stages:
        for name in ("metrics.jsonl", "samples.jsonl", "eval.jsonl"):
            assert rows(found / stage, name) == rows(wanted / stage, name), f"{stage}/{name}"
        assert not (found / stage / "checkpoints").exists()
    for path in wanted.rglob("kilter.json"):
        assert (found / path.relative_to(wanted)).read_text() == path.read_text()
    steps = [r["step"] for r in rows(found / "ppo", "metrics.jsonl")]
    assert steps == list(range(24 if stages == STAGES else len(steps)))


def run_with_kills(recipe: Path, runs: Path, watches: list[tuple[str, Watch]]) -> list[str]:
    """Start, kill, start again ...; returns the names of the kills that struck."""
    struck = []
    for name, watch in watches:
        process = start(recipe, runs)
        if kill_when(process, runs / "small", watch):
            struck.append(name)
        else:
            finish(process, runs)
    finish(start(recipe, runs), runs)
    return struck


def test_a_killed_run_ends_with_the_same_bits(
    whole: tuple[Path, Path], tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    """Killed while a checkpoint is half written, between checkpoints of SFT, and in PPO with its controller moved."""
    recipe, wanted = whole

    def torn(folder: Path) -> bool:
        return any((folder / "pretrain" / "checkpoints").glob(".round-*.partial"))

    watches = [("torn", torn), ("sft", steps_done("sft", 3, 0.02)), ("ppo", steps_done("ppo", 8, 0.05))]
    assert run_with_kills(recipe, tmp_path / "runs", watches) == ["torn", "sft", "ppo"]
    assert_identical(tmp_path / "runs" / "small", wanted, digest)


ONLINE = ("ppo", "grpo", "online-dpo")


@pytest.mark.slow
def test_online_methods_that_were_killed_end_with_the_same_bits(
    online: tuple[Path, Path], tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    """Killed in the middle of PPO's rounds, while GRPO's best weights are being written, and in online DPO."""
    recipe, wanted = online

    def writing_the_best(folder: Path) -> bool:
        """After a checkpoint of GRPO, while a later evaluation writes better weights."""
        place = folder / "grpo" / "checkpoints"
        return any(place.glob("round-*")) and any(place.glob("best-*.partial"))

    watches = [
        ("ppo", steps_done("ppo", 8, 0.03)),
        ("best", writing_the_best),
        ("online-dpo", steps_done("online-dpo", 3, 0.1)),
    ]
    assert run_with_kills(recipe, tmp_path / "runs", watches) == ["ppo", "best", "online-dpo"]
    assert_identical(tmp_path / "runs" / "small", wanted, digest, ONLINE)
    for stage in ONLINE:
        assert [r["round"] for r in rows(wanted / stage, "eval.jsonl")] == [0, 2, 4, 6, 8, 10]
        assert len(list((wanted / stage / "best").glob("*model.safetensors"))) == 1  # a model's, or an adapter's


@pytest.mark.slow
def test_online_methods_killed_in_the_middle_of_their_writing(
    online: tuple[Path, Path], tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    recipe, wanted = online
    runs, draw, lives = tmp_path / "runs", random.Random(1), 0
    while True:
        process = start(recipe, runs, KILL_AT_WRITE=str(draw.randint(40, 180)))
        lives += 1
        assert lives < 40
        if process.wait(timeout=300) == 0:
            break
        assert process.returncode == -signal.SIGKILL, (tmp_path / "stderr.txt").read_text()[-3000:]
    assert lives > 4
    assert_identical(runs / "small", wanted, digest, ONLINE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_random_moments_of_every_stage(
    whole: tuple[Path, Path], tmp_path: Path, seed: int, digest: Callable[[Path], dict[str, str]]
) -> None:
    recipe, wanted = whole
    draw = random.Random(seed)
    watches: list[tuple[str, Watch]] = []
    for stage in STAGES:
        watches += [
            (stage, after(stage, draw.uniform(0.0, 0.8))),
            (stage, steps_done(stage, 3, draw.uniform(0.0, 0.2))),
        ]
    struck = run_with_kills(recipe, tmp_path / "runs", watches)
    assert set(struck) == set(STAGES)
    assert_identical(tmp_path / "runs" / "small", wanted, digest)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_a_run_killed_in_the_middle_of_its_writing(
    whole: tuple[Path, Path], tmp_path: Path, seed: int, digest: Callable[[Path], dict[str, str]]
) -> None:
    """Every life ends at a random call that makes, syncs, renames or removes a file: checkpoints, folders, DONE."""
    recipe, wanted = whole
    runs, draw, lives = tmp_path / "runs", random.Random(seed), 0
    while True:
        process = start(recipe, runs, KILL_AT_WRITE=str(draw.randint(15, 90)))
        lives += 1
        assert lives < 40
        if process.wait(timeout=300) == 0:
            break
        assert process.returncode == -signal.SIGKILL, (tmp_path / "stderr.txt").read_text()[-3000:]
    assert lives > 4
    assert_identical(runs / "small", wanted, digest)


@pytest.mark.slow
def test_collecting_goes_on_from_its_finished_parts(tmp_path: Path) -> None:
    """The world, its answers and their rankings after kills at random writes are those of a run left in peace."""
    import yaml

    few = {"documents": 60, "demonstrations": 60, "rank_prompts": 24, "heldout_rank_prompts": 8, "rl_prompts": 16}
    held = {"eval_prompts": 8, "eval_special": 4, "heldout_documents": 8, "width": 32, "hidden": 48}
    asked = {"data": "world/prompts-rank.jsonl", "heldout": "world/prompts-rank-heldout.jsonl"}
    stages = {
        "world": {"method": "sandbox", **few, **held},
        "pretrain": {"model": "world/blank", "scratch": True, "data": "world/corpus.jsonl", "steps": 4},
        "collect": {"model": "pretrain", **asked, "part": 3, "max_new": 16},
        "reward": {"model": "pretrain", "data": "collect/rankings.jsonl", "steps": 2},
    }
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump({"seed": 5, "threads": 1, "stages": stages}, sort_keys=False))
    finish(start(recipe, tmp_path / "whole"), tmp_path / "whole")
    runs, draw, lives = tmp_path / "runs", random.Random(1), 0
    while True:
        process = start(recipe, runs, KILL_AT_WRITE=str(draw.randint(20, 120)))
        lives += 1
        assert lives < 30
        if process.wait(timeout=300) == 0:
            break
        assert process.returncode == -signal.SIGKILL, (tmp_path / "stderr.txt").read_text()[-3000:]
    assert lives > 2

    def outputs(folder: Path) -> dict[str, dict[str, str]]:
        return {p.parent.name: json.loads(p.read_text())["outputs"] for p in (folder / "small").glob("*/DONE")}

    assert set(outputs(runs)) == set(stages)
    assert outputs(runs) == outputs(tmp_path / "whole")
