"""A round of self-taught reasoning over a scripted endpoint: what is kept, what is never stored, what votes decide."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilter import pipeline
from kilter.data.records import Demonstration, read_jsonl, write_jsonl
from kilter.errors import DataError, KilterError, RunError
from kilter.evaluate import accuracy
from kilter.runs import Stage
from kilter.sandbox import riddles
from kilter.sandbox.grammar import claims, read, sentences
from kilter.sandbox.world import default_world
from kilter.synth import star
from kilter.synth.final import final, same
from kilter.synth.star import Config, majority

PROBLEMS = [("What is 1 + 1?", "2"), ("What is 2 + 2?", "4"), ("What is 3 + 3?", "6"), ("What is 4 + 4?", "8")]
EXAMPLES = [("What is 5 + 5?", "Five and five.\nAnswer: 10"), ("What is 6 + 6?", "Six and six.\nAnswer: 12")]


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def script(request: Any) -> str:
    """Knows the first sum, learns the second from the hint, gives it away for the third, never gets the fourth."""
    text = request.text
    told = "hint" in text.lower()
    if "1 + 1" in text:
        return "One and one.\nAnswer: 2"
    if "2 + 2" in text:
        return "Two and two is four.\nAnswer: 4" if told else "Two and two.\nAnswer: 5"
    if "3 + 3" in text:
        return "The hint says six.\nAnswer: 6" if told else "I can not tell what that makes, and will not guess at it."
    return "Four and four.\nAnswer: 9"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Stage]:
    """A stage over the four problems, with two worked examples."""
    write_jsonl(tmp_path / "problems.jsonl", [{"prompt": q, "answer": a} for q, a in PROBLEMS])
    write_jsonl(tmp_path / "examples.jsonl", [{"prompt": q, "answer": a} for q, a in EXAMPLES])

    def stage(url: str, name: str = "star-1", **more: Any) -> Stage:
        folder = tmp_path / "runs" / "recipe" / name
        folder.mkdir(parents=True, exist_ok=True)
        given = {"data": str(tmp_path / "problems.jsonl"), "examples": str(tmp_path / "examples.jsonl"), **more}
        return Stage(name, folder, Config(model=f"{url}#toy", **given), 3)

    return stage


def test_right_rationales_are_kept_and_wrong_ones_asked_again_with_a_hint(
    serve: Callable[..., Any], make: Callable[..., Stage]
) -> None:
    endpoint = serve(script)
    stage = make(endpoint.url)
    star.run(stage)
    found = [Demonstration.from_json(r) for r in rows(stage.path("demonstrations.jsonl"))]
    assert [(d.prompt.messages[-1]["content"], d.extra["star"]["how"]) for d in found] == [
        ("What is 1 + 1?", "solved"),
        ("What is 2 + 2?", "rationalised"),
    ]
    assert stage.extra["star"] == {"problems": 4, "rationalised": 1, "solved": 1, "accuracy": 0.25}
    assert {(r["name"], r["raw"]) for r in rows(stage.path("rejects.jsonl"))} == {
        ("tells-of-hint", "The hint says six.\nAnswer: 6"),
        ("wrong", "Four and four.\nAnswer: 9"),
    }
    # four problems once, the three wrong ones a second time, all greedy
    assert [len(r.body["messages"]) for r in endpoint.calls] == [5] * 7
    assert {r.body["temperature"] for r in endpoint.calls} == {0}
    assert sum("(Hint: the answer is" in r.text for r in endpoint.calls) == 3
    assert found[1].generator["call"] == found[1].extra["star"]["calls"][-1]
    assert len(found[1].extra["star"]["calls"]) == 2


def test_what_is_stored_never_holds_the_hint(serve: Callable[..., Any], make: Callable[..., Stage]) -> None:
    stage = make(serve(script).url)
    star.run(stage)
    text = stage.path("demonstrations.jsonl").read_text()
    assert "int: the answer" not in text
    tried = {r["prompt"]["messages"][-1]["content"]: r for r in rows(stage.path("star.jsonl"))}
    assert [len(tried[q]["hinted"]) for q, _ in PROBLEMS] == [0, 1, 1, 1]
    assert tried["What is 3 + 3?"]["hinted"][0]["text"].startswith("The hint says")  # kept for people, not for training


def test_examples_are_shown_and_told_their_answers_only_beside_a_hint(
    serve: Callable[..., Any], make: Callable[..., Stage]
) -> None:
    endpoint = serve(script)
    star.run(make(endpoint.url, shots=1))
    for request in endpoint.calls:
        shown = request.body["messages"][:-1]
        told = "Hint" in request.text
        assert [m["role"] for m in shown] == ["user", "assistant"]
        assert shown[0]["content"] == "What is 5 + 5?" + ("\n(Hint: the answer is 10.)" if told else "")
    assert Config(model="m", data="d").shots == 10
    assert Config(model="m", data="d").votes == 32
    assert Config(model="m", data="d").vote_temperature == 0.7


def test_without_rationalisation_nothing_is_asked_twice(serve: Callable[..., Any], make: Callable[..., Stage]) -> None:
    endpoint = serve(script)
    stage = make(endpoint.url, rationalise=False)
    star.run(stage)
    assert len(endpoint.calls) == 4
    assert [r["name"] for r in rows(stage.path("rejects.jsonl"))] == ["wrong", "no-answer", "wrong"]


def test_without_labels_the_vote_decides(serve: Callable[..., Any], make: Callable[..., Stage], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "asked.jsonl", [{"prompt": q} for q, _ in PROBLEMS[:3]])
    seeds: dict[str, list[int]] = {}

    def vote(request: Any) -> str:
        mine = seeds.setdefault(request.text, [])
        mine.append(request.body["seed"])
        turn = len(mine) % 4
        if "1 + 1" in request.text:  # three of four say two, in two wordings
            return ["Surely.\nAnswer: 2", "Surely.\nAnswer: 2", "Clearly.\nAnswer: 2.0", "Hm.\nAnswer: 3"][turn]
        if "2 + 2" in request.text:  # level
            return f"So.\nAnswer: {4 + turn % 2}"
        return "I will not say what comes of adding those two up."

    endpoint = serve(vote)
    stage = make(endpoint.url, labels="none", votes=8, data=str(tmp_path / "asked.jsonl"))
    star.run(stage)
    found = [Demonstration.from_json(r) for r in rows(stage.path("demonstrations.jsonl"))]
    assert {d.answer for d in found} == {"Surely.\nAnswer: 2", "Clearly.\nAnswer: 2.0"}
    assert {d.extra["star"]["share"] for d in found} == {0.75}
    assert len(found) == 2  # the same rationale is kept once
    rejects = rows(stage.path("rejects.jsonl"))
    assert [r["name"] for r in rejects] == ["no-majority", "no-majority"]
    assert all(len(set(s)) == 8 for s in seeds.values())
    assert {r.body["temperature"] for r in endpoint.calls} == {0.7}
    assert stage.extra["star"]["accuracy"] is None


@pytest.mark.parametrize(
    ("finals", "answer", "share"),
    [
        (["2", "2.0", "3", ""], "2", 0.5),
        (["2", "3"], "", 0.5),
        (["", ""], "", 0.0),
        ([], "", 0.0),
        (["The castle", "castle", "moor"], "The castle", 2 / 3),
    ],
)
def test_a_majority_is_of_all_votes_and_never_level(finals: list[str], answer: str, share: float) -> None:
    assert majority(finals) == (answer, pytest.approx(share))


def test_an_example_without_an_answer_is_refused_before_any_call(
    serve: Callable[..., Any], make: Callable[..., Stage], tmp_path: Path
) -> None:
    endpoint = serve(script)
    write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "?", "answer": "I think that it may well be about seven or so."}])
    with pytest.raises(DataError, match="example 1 ends in no answer"):
        star.run(make(endpoint.url, examples=str(tmp_path / "bad.jsonl")))
    assert endpoint.calls == []


def test_a_round_that_keeps_nothing_says_so(serve: Callable[..., Any], make: Callable[..., Stage]) -> None:
    with pytest.raises(RunError, match="no rationale of 4 problems is kept"):
        star.run(make(serve(lambda request: "Answer: none of your business, dear friend of mine").url))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hint": "psst"}, r"must hold \{question\} and \{answer\}"),
        ({"votes": 1}, "votes must be at least 2"),
        ({"labels": "none", "hinter": "x"}, "there is no hint to give"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**{"model": "m", "data": "d", **changed})


def test_riddles_are_true_solved_by_their_rationales_and_split_by_what_they_are_about(tmp_path: Path) -> None:
    stage = Stage("riddles", tmp_path, riddles.Config(problems=200, heldout=100), 3)
    riddles.run(stage)
    learnt, held = rows(tmp_path / "problems.jsonl"), rows(tmp_path / "problems-heldout.jsonl")
    groups = [{r["prompt"]["split_group"] for r in some} for some in (learnt, held)]
    assert not groups[0] & groups[1]
    assert {r["prompt"]["category"] for r in learnt} == {*riddles.WALKS, "sum"}
    examples, hinted = rows(tmp_path / "examples.jsonl"), rows(tmp_path / "examples-hinted.jsonl")
    assert rows(tmp_path / "warmup.jsonl") == examples + hinted
    assert len(examples) == 10
    for plain, told in zip(examples, hinted, strict=True):
        found = final(plain["answer"])
        assert found is not None
        assert told["prompt"]["messages"][-1]["content"].endswith(f" The answer is {found.answer}.")
        assert told["answer"] == plain["answer"]
        for sentence in sentences(plain["answer"].split("\nAnswer:")[0]):
            reading = read(sentence)
            assert reading is not None
            assert all(claims(reading))


def test_every_walk_has_one_answer() -> None:
    facts = default_world().facts
    for key in riddles.WALKS:
        for relation in key.split("."):
            assert all(len(values) == 1 for (r, _), values in facts.items() if r == relation)
    with pytest.raises(KilterError, match="different riddles of this side"):
        list(riddles.riddles(1, 5000, riddles.Config(), held=True))


def test_accuracy_counts_what_models_end_in(
    serve: Callable[..., Any], make: Callable[..., Stage], tmp_path: Path
) -> None:
    good = serve(lambda r: f"Answer: {next(a for q, a in PROBLEMS if q == r.text)}")
    config = accuracy.Config(
        models={"toy": f"{serve(script).url}#toy", "good": f"{good.url}#good"},
        prompts=str(make(good.url).config.data),
        baseline="toy",
    )
    stage = Stage("accuracy", tmp_path / "runs" / "recipe" / "accuracy", config, 3)
    stage.folder.mkdir(parents=True)
    accuracy.run(stage)
    figures = json.loads(stage.path("accuracy.json").read_text())["models"]
    assert figures["toy"]["accuracy"]["mean"] == 0.25
    assert figures["toy"]["without_answer"] == 0.25
    assert figures["good"]["accuracy"]["mean"] == 1.0
    assert figures["good"]["over_baseline"]["mean"] == 0.75
    shown = rows(stage.path("answers.jsonl"))
    assert all(same(r["answers"]["good"]["final"], r["answer"]) for r in shown)


def test_rounds_are_stages_and_each_trains_from_the_base(
    recipe: Callable[..., Path], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """A recipe of two rounds: the second asks what the first trained, and both train from the same base."""
    write_jsonl(tmp_path / "problems.jsonl", [{"prompt": q, "answer": a} for q, a in PROBLEMS])
    seen: Counter[str] = Counter()

    def known(request: Any) -> str:
        seen[request.text] += 1
        return script(request)

    asked = {"method": "star", "model": f"{serve(known).url}#toy", "data": str(tmp_path / "problems.jsonl")}
    train = {"method": "sft", "model": "llama", "steps": 2, "row_tokens": 48}
    stages = {
        "star-1": asked,
        "sft-1": {**train, "data": "star-1"},
        "star-2": {**asked, "hinter": "sft-1", "max_tokens": 8},
        "sft-2": {**train, "data": "star-2"},
    }
    run = pipeline.run(str(recipe(stages)), runs_dir=str(tmp_path / "runs")).folder
    base = [json.loads((run / f"sft-{k}" / "stage.json").read_text())["config"]["model"] for k in (1, 2)]
    assert base[0] == base[1]
    first, second = (json.loads((run / f"star-{k}" / "DONE").read_text()) for k in (1, 2))
    assert first["star"]["rationalised"] == 1
    assert any(text.endswith("sft-1/model") for text in second["calls"])
