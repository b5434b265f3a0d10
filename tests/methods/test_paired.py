"""The reference's log-probabilities are taken once, and found again in memory and beside the checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kilter.methods import paired

ROWS = SimpleNamespace(sequences=[[3, 4, 5, 6], [3, 4, 7], [8, 9, 5]], starts=[2, 2, 1])


def actors_of(model: Any, folder: Path | None, name: str = "abc") -> Any:
    return SimpleNamespace(
        policy=model,
        reference=model,
        folder=folder,
        cache={},
        origins={"reference": {"hash": name}},
        config=SimpleNamespace(dtype="float32"),
    )


@pytest.fixture
def asked(make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int]]:
    """A model, and how many answers its forward was asked for."""
    counts: list[int] = []
    plain = paired.sequence_logps

    def counting(model: Any, sequences: Any, starts: Any) -> torch.Tensor:
        counts.append(len(sequences))
        return plain(model, sequences, starts)

    monkeypatch.setattr(paired, "sequence_logps", counting)
    return make_model(), counts


def test_a_second_epoch_takes_no_reference_pass(asked: tuple[Any, list[int]]) -> None:
    model, counts = asked
    actors = actors_of(model, None)
    once = paired.reference_logps(actors, [ROWS], first=False)
    again = paired.reference_logps(actors, [ROWS], first=False)
    assert torch.equal(once, again)
    assert once.dtype == again.dtype
    assert counts == [3]


def test_a_run_that_goes_on_reads_them_to_the_last_bit(asked: tuple[Any, list[int]], tmp_path: Path) -> None:
    model, counts = asked
    once = paired.reference_logps(actors_of(model, tmp_path), [ROWS], first=False)
    with open(tmp_path / "reference.jsonl", "a") as out:
        out.write('{"torn')
    resumed = actors_of(model, tmp_path)
    assert torch.equal(paired.reference_logps(resumed, [ROWS], first=False), once)
    assert counts == [3]
    more = SimpleNamespace(sequences=[[3, 4, 7], [3, 9]], starts=[2, 1])
    assert paired.reference_logps(resumed, [more], first=False)[0] == once[1]
    assert counts == [3, 2]
    assert len(paired.Known.of(actors_of(model, tmp_path)).logps) == 4


def test_another_reference_or_another_cut_is_not_found(asked: tuple[Any, list[int]], tmp_path: Path) -> None:
    model, counts = asked
    paired.reference_logps(actors_of(model, tmp_path), [ROWS], first=False)
    paired.reference_logps(actors_of(model, tmp_path, "other"), [ROWS], first=False)
    moved = SimpleNamespace(sequences=ROWS.sequences, starts=[1, 1, 2])
    paired.reference_logps(actors_of(model, tmp_path), [moved], first=False)
    assert counts == [3, 3, 3]


def test_before_the_first_step_both_are_taken_all_the_same(asked: tuple[Any, list[int]], tmp_path: Path) -> None:
    model, counts = asked
    for _ in range(2):
        paired.reference_logps(actors_of(model, tmp_path), [ROWS], first=True)
    assert counts == [3, 3, 3, 3]
