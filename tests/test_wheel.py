"""The wheel in an empty environment, away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_installs_and_runs_without_the_repository(tmp_path: Path) -> None:
    """Build, install with dependencies into a fresh environment, and use it from an empty folder."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    wheel = next(tmp_path.glob("kilter-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "kilter/recipes/sandbox.yaml" in names
    assert "kilter/reporting/style.css" in names
    assert not any(n.startswith(("tests/", "docs/")) for n in names)
    venv, away = tmp_path / "venv", tmp_path / "away"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [
        str(venv / "bin/python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    away.mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def kilter(*words: str) -> str:
        done = subprocess.run([str(venv / "bin/kilter"), *words], cwd=away, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "sandbox" in kilter("recipes")
    assert "kl_coef" in kilter("train", "ppo", "--help")
    kilter("init", "sandbox")
    assert (away / "sandbox.yaml").is_file()
    small = ["--set", "world.documents=3000", "--set", "world.demonstrations=2000", "--set", "pretrain.steps=20"]
    kilter("run", "sandbox.yaml", "--until", "sft", "--set", "sft.steps=10", *small, "--name", "small")
    assert (away / "runs/small/sft/model/model.safetensors").is_file()
    assert (away / "runs/small/report.html").is_file()
