"""A teacher's answers: settings on the wire, whole conversations, what is cut off, and a model that trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilter import pipeline
from kilter.data.records import read_jsonl

TALK = [
    {"role": "user", "content": "tom likes tea"},
    {"role": "assistant", "content": "ann: yes\n\nand fish"},
    {"role": "user", "content": "and bob?"},
]


@pytest.fixture
def prompts(tmp_path: Path, write_rows: Callable[..., Path]) -> Path:
    rows = [{"messages": TALK}, {"prompt": "the cat"}, {"prompt": "the dog"}, {"prompt": "the cat"}]
    return write_rows(tmp_path / "prompts.jsonl", rows)


def test_each_prompt_is_answered_and_trains_the_next_stage(
    serve: Callable[..., Any], fake: Any, prompts: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    def script(request: Any) -> Any:
        if "dog" in request.text:
            return fake.Reply(fake.answer("the dog eats and", "length"))
        return f"bob sings {'tea' if request.body.get('seed', 0) % 2 else 'corn'}"

    endpoint = serve(script)
    teacher = {"method": "teacher", "model": f"{endpoint.url}#big", "data": str(prompts), "samples": 2}
    sft = {"model": "llama", "data": "answers", "steps": 2, "row_tokens": 48}
    run = pipeline.run(str(recipe({"answers": teacher, "sft": sft})), runs_dir=str(tmp_path / "runs"))
    rows = [row for _, row in read_jsonl(run.folder / "answers" / "demonstrations.jsonl")]
    bodies = [r.body for r in endpoint.calls]
    assert len(bodies) == 3 * 2
    assert {(b["temperature"], b["top_p"], b["max_tokens"], b["model"]) for b in bodies} == {(1.0, 1.0, 1024, "big")}
    assert bodies[0]["messages"] == rows[0]["prompt"]["messages"] == TALK
    assert {r["generator"]["writer"] for r in rows} == {"big"}
    rejects = [row for _, row in read_jsonl(run.folder / "answers" / "rejects.jsonl")]
    assert [(r["name"], r["raw"]) for r in rejects] == [("answer-unfinished", "the dog eats and")] * 2
    assert run.model("sft").is_dir()
