"""The share of true claims by model: figures worked by hand over scripted models of the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kilter.data.records import read_jsonl
from kilter.evaluate import claims
from kilter.runs import Stage
from kilter.sandbox import inquiries
from kilter.sandbox.world import default_world


@pytest.fixture
def asked(tmp_path: Path) -> Stage:
    folder = tmp_path / "runs" / "recipe" / "inquiries"
    folder.mkdir(parents=True)
    stage = Stage("inquiries", folder, inquiries.Config(prompts=60, heldout=40), 3)
    inquiries.run(stage)
    return stage


def test_no_subject_stands_on_both_sides(asked: Stage) -> None:
    sides = {}
    for name in ("prompts", "prompts-heldout"):
        rows = [row for _, row in read_jsonl(asked.path(f"{name}.jsonl"))]
        specs = [row["extra"]["sandbox"] for row in rows]
        sides[name] = {s.get("person") or s.get("town") or s.get("animal") or s["job"] for s in specs}
        assert len({row["messages"][-1]["content"] for row in rows}) == len(rows)
        assert {row["category"] for row in rows} == {"portrait", "question"}
        held = default_world().held_out
        assert not [s for s in specs if s["kind"] == "fact" and (s["rel"], s.get("person")) in held]
    assert not sides["prompts"] & sides["prompts-heldout"]
    assert len(sides["prompts"]) > 2 * len(sides["prompts-heldout"])


def test_held_out_requests_do_not_depend_on_the_seed(asked: Stage, tmp_path: Path) -> None:
    other = Stage("other", tmp_path, asked.config, 4)
    inquiries.run(other)
    assert other.path("prompts-heldout.jsonl").read_bytes() == asked.path("prompts-heldout.jsonl").read_bytes()
    assert other.path("prompts.jsonl").read_bytes() != asked.path("prompts.jsonl").read_bytes()


def test_figures_are_those_of_the_answers(asked: Stage) -> None:
    folder = asked.folder.parent / "evaluate"
    folder.mkdir()
    config = claims.Config(
        models={"sft": "sandbox:weak", "best": "sandbox:oracle"},
        prompts=str(asked.path("prompts-heldout.jsonl")),
        helper="sandbox:oracle",
        checker="sandbox:oracle",
        answers=3,
    )
    stage = Stage("evaluate", folder, config, 3)
    claims.run(stage)
    summary = json.loads(stage.path("claims.json").read_text())["models"]
    rows = [row for _, row in read_jsonl(stage.path("answers.jsonl"))]
    for name, figures in summary.items():
        answers = [a for row in rows for a in row["answers"][name]]
        found = [c["true"] for a in answers for c in a["claims"]]
        assert len(answers) == 120
        assert figures["true"]["mean"] == pytest.approx(sum(found) / len(found))
        assert figures["true"]["n"] == len(found)
        assert figures["claims_per_answer"] == pytest.approx(len(found) / 120)
        assert figures["true"]["lo"] <= figures["true"]["mean"] <= figures["true"]["hi"]
    assert summary["best"]["true"]["mean"] == 1.0
    assert summary["sft"]["true"]["mean"] < 0.95
    gap = summary["best"]["true_over_baseline"]
    assert gap["mean"] == pytest.approx(1.0 - summary["sft"]["true"]["mean"])
    assert gap["lo"] > 0
    assert summary["sft"]["true_over_baseline"] == {"mean": 0.0, "lo": 0.0, "hi": 0.0, "n": 40}


def test_the_baseline_must_be_among_the_models() -> None:
    with pytest.raises(ValueError, match="baseline 'sft' is not among"):
        claims.Config(models={"dpo": "x"}, prompts="p", helper="h", checker="c")
