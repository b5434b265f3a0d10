"""Decontamination: overlaps with their evidence, templates masked, short rows, scripts without spaces, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.data.curate import decontaminate
from kilter.data.curate.decontaminate import Config, windows
from kilter.data.records import write_jsonl
from kilter.errors import DataError

HEAD = "Answer the following multiple choice question with exactly one of the letters given below the question please."
FACTS = [
    "Which of the seven hills of the old harbour town carries the lighthouse that the fishermen painted red",
    "What did the second expedition leave behind in the cave when the river froze earlier than anyone expected",
    "How many barrels of oil did the merchant of the northern isle trade for a single bolt of blue silk",
    "Why do the bells of the lower chapel ring twice at noon although the clock tower has only one hammer",
    "Where did the apprentice hide the three brass keys before the guild master came back from the long fair",
    "Who wrote the letter that persuaded the council to open the eastern gate during the winter of the flood",
]


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.jsonl"
    write_jsonl(path, [{"id": n, "question": f"{HEAD} {f}?", "choices": ["a", "b"]} for n, f in enumerate(FACTS)])
    return path


def test_windows_are_the_same_wherever_a_run_stands() -> None:
    hashed = np.array([5, 6, 7, 8, 5, 6, 7, 9], np.uint64)
    found = windows(hashed, 3)
    assert len(found) == 6
    assert found[0] == found[4]
    assert len(set(found.tolist())) == 5
    assert windows(hashed, 4)[0] not in found
    assert len(windows(hashed, 9)) == 0


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_windows_agree_with_slices(values: list[int], size: int) -> None:
    found = windows(np.array(values, np.uint64), size).tolist()
    slices = [tuple(values[i : i + size]) for i in range(len(values) - size + 1)]
    assert len(set(zip(found, slices, strict=True))) == len(set(slices)) == len(set(found))


def test_pain_20_a_shared_template_is_no_contamination_and_evidence_is_shown(make: Any, bench: Path) -> None:
    template_only = make.prompt(f"{HEAD} Which of these two numbers is larger, nine or eleven?")
    leaked = make.demo("Tell me something", f"Somebody once asked: {FACTS[2].upper()}! I never knew.")
    clean = make.prompt("How do I make tea?")
    found, report = make.run(decontaminate, [template_only, leaked, clean], Config(benchmarks=(str(bench),)))
    (drop,) = make.drops(found)
    (overlap,) = drop.evidence["overlaps"]
    assert drop.reason == "overlap"
    assert overlap["benchmark"] == "bench.jsonl:3"
    assert overlap["span"] == FACTS[2].lower()
    assert overlap["tokens"] == overlap["outside_template"] == 20
    assert overlap["text"] == 1  # the answer
    assert overlap["begin"] == 3
    assert FACTS[2].lower() in overlap["benchmark_text"]
    note = found[0].notes[0]
    assert note.reason == "template-only"
    assert note.evidence["overlaps"][0]["outside_template"] < 8
    assert any("multiple choice question" in t for t in report["templates"])
    # without the mask it would have been a false alarm
    bare = Config(benchmarks=(str(bench),), template_share=1.0, template=50)
    assert len(make.drops(make.run(decontaminate, [template_only], bare)[0])) == 1


def test_a_template_followed_by_a_leaked_question_is_still_found(make: Any, bench: Path) -> None:
    found, _ = make.run(decontaminate, [make.prompt(f"{HEAD} {FACTS[0]}?")], Config(benchmarks=(str(bench),)))
    (drop,) = make.drops(found)
    assert drop.evidence["overlaps"][0]["outside_template"] >= 17


def test_what_training_rows_share_with_several_benchmark_rows_is_a_template(make: Any, tmp_path: Path) -> None:
    """Two of a hundred benchmark rows carry the phrase, which is no share of theirs; every training row does."""
    phrase = "let us think about this step by step and then give the final answer in a box"
    rows = [{"q": f"{f} {phrase if n < 2 else ''}"} for n, f in enumerate(FACTS)]
    write_jsonl(tmp_path / "b.jsonl", rows)
    training = [make.prompt(f"Solve riddle {n * 7} of mine, {phrase}") for n in range(25)]
    config = Config(benchmarks=(str(tmp_path / "b.jsonl"),))
    found, report = make.run(decontaminate, training, config, 10)
    assert not make.drops(found)
    assert report["common_ngrams"] > 0
    assert len(make.drops(make.run(decontaminate, training[:10], config)[0])) == 10  # ten rows are no custom yet
    # a benchmark row that leaked into many training rows stands once in the benchmark and is never masked
    leaks = [make.prompt(f"{n} {FACTS[4]}") for n in range(30)]
    assert len(make.drops(make.run(decontaminate, leaks, config)[0])) == 30


@pytest.mark.parametrize(
    ("question", "leak"),
    [
        (
            "在古老的港口小镇的七座山丘中哪一座山上有渔民们漆成红色的灯塔呢请回答",
            "有人问：在古老的港口小镇的七座山丘中哪一座山上有渔民们漆成红色的灯塔呢请回答。",
        ),
        (
            "古い港町の七つの丘のうち漁師たちが赤く塗った灯台が立っているのはどれですか",
            "質問です。古い港町の七つの丘のうち漁師たちが赤く塗った灯台が立っているのはどれですか！",
        ),
    ],
)
def test_scripts_without_spaces_by_characters(make: Any, tmp_path: Path, question: str, leak: str) -> None:
    write_jsonl(tmp_path / "b.jsonl", [{"q": question}])
    config = Config(benchmarks=(str(tmp_path / "b.jsonl"),))
    found, _ = make.run(decontaminate, [make.prompt(leak), make.prompt(question[:20])], config)
    assert [d.id for d in make.drops(found)] == [make.prompt(leak).id]
    assert make.drops(found)[0].evidence["overlaps"][0]["tokens"] >= 26


def test_short_benchmark_rows_count_whole_and_shorter_ones_are_told(make: Any, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("which town has the tallest wooden lighthouse today\n\nwho is it\n")
    config = Config(benchmarks=(str(tmp_path / "b.txt"),))
    rows = [
        make.prompt("Tell me: which town has the tallest wooden lighthouse today, and why?"),
        make.prompt("which town has the tallest wooden lighthouse"),
        make.prompt("who is it"),
    ]
    found, report = make.run(decontaminate, rows, config)
    assert [d.id for d in make.drops(found)] == [rows[0].id]
    assert report["too_short_to_check"] == 1


def test_people_overrule(make: Any, bench: Path, tmp_path: Path) -> None:
    leaked, clean = make.prompt(FACTS[1]), make.prompt("How do I make tea?")
    write_jsonl(
        tmp_path / "v.jsonl",
        [{"id": leaked.id, "verdict": "clean", "by": "ann"}, {"id": clean.id, "verdict": "contaminated"}],
    )
    config = Config(benchmarks=(str(bench),), verdicts=str(tmp_path / "v.jsonl"))
    found, report = make.run(decontaminate, [leaked, clean], config)
    assert found[0].notes[0].reason == "verdict-clean"
    assert found[0].notes[0].evidence["overlaps"]
    assert make.drops(found)[0].reason == "verdict"
    assert report["verdicts"] == {"clean": 1, "contaminated": 1}
    write_jsonl(tmp_path / "v.jsonl", [{"id": "x", "verdict": "maybe"}])
    other = Config(benchmarks=(str(bench),), verdicts=str(tmp_path / "v.jsonl"), least=7)
    with pytest.raises(DataError, match="clean or contaminated"):
        make.run(decontaminate, [leaked], other)


def test_parts_change_nothing(make: Any, bench: Path) -> None:
    rows = [make.prompt(f"{n} {FACTS[n % 6] if n % 3 == 0 else 'tea'}") for n in range(12)]
    config = Config(benchmarks=(str(bench),))
    one, many = make.run(decontaminate, rows, config)[0], make.run(decontaminate, rows, config, 5)[0]
    assert [d.to_json() for d in make.drops(one)] == [d.to_json() for d in make.drops(many)]
    assert len(make.drops(one)) == 4


def test_what_can_not_be_checked_against_is_refused(make: Any, bench: Path) -> None:
    with pytest.raises(DataError, match="no benchmark files"):
        make.run(decontaminate, [make.prompt("x")], Config())
    with pytest.raises(DataError, match="no field 'questions'"):
        make.run(decontaminate, [make.prompt("x")], Config(benchmarks=(str(bench),), columns=("questions",)))
