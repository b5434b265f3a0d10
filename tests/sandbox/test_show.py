"""What `kilter sandbox show` prints and `export` writes, and that the room needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from kilter.data.records import Demonstration, Judgment, Prompt, read_jsonl
from kilter.errors import DataError
from kilter.sandbox.answers import demonstrations
from kilter.sandbox.corpus import documents
from kilter.sandbox.show import KINDS_EXPORTED, export, show

RECORDS = {"prompts": Prompt, "demos": Demonstration, "rankings": Judgment}


def test_show_prints_prompts_answers_scores_and_reasons():
    text = show(3, seed=1, split="eval")
    assert text == show(3, seed=1, split="eval")
    assert text.count("gold 1.00") >= 3
    assert "user: " in text
    assert "missing: " in text
    assert "[3]" in text


@pytest.mark.parametrize("kind", KINDS_EXPORTED)
def test_exports_read_back_as_records(kind, tmp_path):
    out = tmp_path / "rows.jsonl"
    assert export(kind, 40, 2, out) == 40
    rows = [row for _, row in read_jsonl(out)]
    assert len(rows) == 40
    if kind in RECORDS:
        assert [json.loads(json.dumps(RECORDS[kind].from_json(r).to_json())) for r in rows] == rows
    else:
        assert all(r["text"] for r in rows)
    if kind == "rankings":
        assert {len(r["candidates"]) for r in rows} <= set(range(4, 10))


def test_an_unknown_kind_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(DataError, match="did you mean 'rankings'"):
        export("ranking", 1, 0, tmp_path / "x.jsonl")


def test_sixty_thousand_rows_take_seconds():
    start = time.perf_counter()
    for _ in documents(1, 6000):
        pass
    for _ in demonstrations(1, 6000):
        pass
    assert time.perf_counter() - start < 3


def test_the_room_imports_no_torch():
    rooms = "adversarial answers conversations corpus oracle raters show tasks tokenizer world"
    code = "import sys\n" + "\n".join(f"import kilter.sandbox.{name}" for name in rooms.split())
    code += "\nassert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
