"""A run that is cut off between two checkpoints and started again ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilter import config
from kilter.runs import Stage
from kilter.train.loop import train

METHODS: dict[str, dict[str, Any]] = {  # a method, and what is special about it
    "reward plackett-luce": {"data": "rankings.jsonl", "loss": "plackett-luce"},
    "reward pointwise": {"data": "rated.jsonl", "loss": "pointwise"},
    "reward ensemble": {"data": "rankings.jsonl", "ensemble": 2, "loss": "davidson"},
    "dpo plackett-luce": {"data": "rankings.jsonl", "loss": "plackett-luce"},
    "dpo ld": {"data": "repeated.jsonl", "ld_alpha": 0.5, "pool": True},
    "dpo orpo lora": {"data": "rankings.jsonl", "loss": "orpo", "lora_rank": 2},
    "kto": {"data": "labels.jsonl"},
    "cpl": {"data": "rankings.jsonl"},
    "preferred_ft": {"data": "rankings.jsonl", "warmup": 2},
    "unlikelihood": {"data": "rankings.jsonl"},
}


class CutOff(Exception):
    """Stands for whatever ends a process."""


class Cut:
    """A method that is cut off when a round begins."""

    def __init__(self, method: Any, at: int) -> None:
        self._method, self._at = method, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def batches(self, actors: Any, streams: Any, state: Any) -> Iterator[Any]:
        if state.round == self._at:
            raise CutOff
        return self._method.batches(actors, streams, state)


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_cut_off_goes_on_to_the_same_bits(
    world: Path, tmp_path: Path, digest: Callable[[Path], dict[str, str]], name: str
) -> None:
    method = importlib.import_module(f"kilter.methods.{name.split()[0]}")
    common = {"model": "llama", "batch": 6, "steps": 7, "checkpoint_every": 3, "lr": 1e-3, "micro_tokens": 200}
    given = {
        k: str(world / v) if isinstance(v, str) and (world / v).exists() else v
        for k, v in {**common, **METHODS[name]}.items()
    }
    c = config.build(method.Config, given, name)
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    train(Stage("stage", tmp_path / "whole", c, 1), method)
    for at in (2, 5):  # before the first checkpoint, and between two
        with pytest.raises(CutOff):
            train(Stage("stage", tmp_path / "cut", c, 1), Cut(method, at))
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").glob("round-*")] == ["round-0000003"]
    train(Stage("stage", tmp_path / "cut", c, 1), method)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert digest(tmp_path / "whole")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) == 7
