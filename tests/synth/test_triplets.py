"""Triplets: orders, counts worked by hand, and that no preference can be read out of likeness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from kilter.data.judgments import ranking
from kilter.data.records import Candidate, Judgment, Prompt, read_jsonl, write_jsonl
from kilter.data.rows import judgment
from kilter.errors import RunError, UserError
from kilter.runs import Stage
from kilter.sandbox import protocol
from kilter.synth import triplets
from kilter.synth.triplets import PAIRS, Config, Triplet, by_words, cosine, counted, orders_of

ANSWERS = ("A cat eats fish.", "A cat likes fish.", "Ada lives in Saltby.")


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


@pytest.fixture
def rankings(tmp_path: Path) -> str:
    path = tmp_path / "rankings.jsonl"
    write_jsonl(
        path,
        [
            {"prompt": "What does a cat eat?", "answers": list(ANSWERS), "tiers": [[2], [1], [0]]},
            {"prompt": "And a dog?", "answers": ["Bones.", "Bones.", "Fish."], "tiers": [[0, 1], [2]]},
        ],
    )
    return str(path)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Stage]:
    def stage(**given: Any) -> Stage:
        folder = tmp_path / "runs" / "recipe" / "triplets"
        folder.mkdir(parents=True, exist_ok=True)
        return Stage("triplets", folder, Config(**given), 3)

    return stage


def honest(request: Any) -> str:
    """Names the two answers about the cat, wherever they stand."""
    ask = protocol.parse(request.text)
    assert ask is not None
    return " and ".join("ABC"[i] for i, a in enumerate(ask.answers) if "cat" in a)


def test_all_six_orders_are_asked_and_agree(serve: Callable[..., Any], make: Any, rankings: str) -> None:
    endpoint = serve(honest)
    stage = make(data=rankings, judge=f"{endpoint.url}#judge")
    triplets.run(stage)
    (row,) = rows(stage.path("triplets.jsonl"))
    found = Judgment.from_json(row)
    assert found.kind == "triplet"
    assert [c.answer for c in found.candidates] == list(ANSWERS)
    about = found.extra
    assert (about["closer"], about["odd"], about["agreed"]) == ([0, 1], 2, 1.0)
    assert about["counts"] == {"0-1": 6, "0-2": 0, "1-2": 0}
    assert sorted(tuple(a["order"]) for a in about["asked"]) == sorted(permutations(range(3)))
    shown = [protocol.parse(r.text).answers for r in endpoint.calls]  # type: ignore[union-attr]
    assert Counter(shown) == Counter(permutations(ANSWERS))
    assert {r.body["temperature"] for r in endpoint.calls} == {0}
    assert [(r["name"], r["detail"]) for r in rows(stage.path("rejects.jsonl"))] == [
        ("too-few-answers", "2 different answers, at least 3")
    ]


def test_no_preference_can_be_read_out_of_a_triplet(serve: Callable[..., Any], make: Any, rankings: str) -> None:
    stage = make(data=rankings, judge=f"{serve(honest).url}#judge")
    triplets.run(stage)
    found = judgment(rows(stage.path("triplets.jsonl"))[0], "x")
    assert found.tiers == ((0, 1, 2),)
    assert ranking(found).pairs == ()


def test_a_judge_that_goes_by_the_place_is_seen_through(serve: Callable[..., Any], make: Any, rankings: str) -> None:
    stage = make(data=rankings, judge=f"{serve(lambda r: 'A B').url}#judge")
    triplets.run(stage)
    about = rows(stage.path("triplets.jsonl"))[0]["extra"]
    assert about["counts"] == {"0-1": 2, "0-2": 2, "1-2": 2}
    assert (about["closer"], about["odd"], about["agreed"]) == (None, None, 0.0)
    assert stage.extra["triplets"] == {"triplets": 1, "decided": 0, "unanimous": 0}


def test_replies_that_can_not_be_read_are_kept_and_count_for_nothing(
    serve: Callable[..., Any], make: Any, rankings: str
) -> None:
    def vague(request: Any) -> str:
        ask = protocol.parse(request.text)
        return "All of them." if ask and "cat" not in ask.answers[0] else honest(request)

    stage = make(data=rankings, judge=f"{serve(vague).url}#judge")
    triplets.run(stage)
    about = rows(stage.path("triplets.jsonl"))[0]["extra"]
    assert about["counts"] == {"0-1": 4, "0-2": 0, "1-2": 0}
    assert [a["closer"] for a in about["asked"]].count(None) == 2
    assert [r["name"] for r in rows(stage.path("rejects.jsonl"))].count("unread-reply") == 2
    with pytest.raises(RunError, match="no triplet came of 2 rows"):
        triplets.run(make(data=rankings, judge=f"{serve(lambda r: 'No.').url}#mute"))


def test_counts_are_kept_where_orders_disagree() -> None:
    told = [{"closer": p} for p in ([0, 1], [0, 1], [1, 2], None)]
    found = counted(told)
    assert (found["closer"], found["odd"], found["agreed"]) == ([0, 1], 2, pytest.approx(2 / 3))
    assert found["counts"] == {"0-1": 2, "0-2": 0, "1-2": 1}
    assert counted([{"closer": [0, 1]}, {"closer": [0, 2]}])["closer"] is None
    assert counted([{"closer": None}]) == {}


def triplet(name: str) -> Triplet:
    prompt = Prompt(messages=({"role": "user", "content": name},))
    return Triplet(prompt, tuple(Candidate(prompt_id=prompt.id, answer=a) for a in ANSWERS))


def test_rotations_put_each_answer_in_each_place_once() -> None:
    firsts = set()
    for n in range(40):
        t = triplet(f"p{n}")
        three, six = orders_of(t, 3, 1), orders_of(t, 6, 1)
        assert all(sorted(place) == [0, 1, 2] for place in zip(*three, strict=True))
        assert six[:3] == three
        assert sorted(six) == sorted(permutations(range(3)))
        assert orders_of(t, 1, 1) == three[:1]
        firsts.add(three[0])
    assert len(firsts) == 6  # the first is keyed and not always the order of the file


def test_shared_words_by_hand(make: Any, rankings: str) -> None:
    vectors = by_words(["a b", "a c", "d"])
    rare, common = math.log(4 / 2) + 1, math.log(4 / 3) + 1
    assert vectors["a b"] == {"a": pytest.approx(common), "b": pytest.approx(rare)}
    assert cosine(vectors["a b"], vectors["a c"]) == pytest.approx(common**2 / (common**2 + rare**2))
    assert cosine(vectors["a b"], vectors["d"]) == 0.0
    assert cosine({}, vectors["d"]) == 0.0
    stage = make(data=rankings, by="words")
    triplets.run(stage)
    about = rows(stage.path("triplets.jsonl"))[0]["extra"]
    assert about["closer"] == [0, 1]
    assert set(about["similarity"]) == {"0-1", "0-2", "1-2"}


def test_vectors_of_a_checkpoint(make: Any, rankings: str, world: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    answers = ["tom likes tea", "tom likes tea and corn", "the cat eats fish in bell"]
    write_jsonl(path, [{"prompt": "x", "answers": answers, "tiers": [[0], [1], [2]]}])
    stage = make(data=str(path), by="vectors", embedder=str(world / "llama"))
    triplets.run(stage)
    alike = rows(stage.path("triplets.jsonl"))[0]["extra"]["similarity"]
    import torch

    from kilter.models import load

    model, tokenizer = load.load(str(world / "llama"), "causal"), load.load_tokenizer(str(world / "llama"))
    with torch.no_grad():
        means = [
            model(torch.tensor([tokenizer(a).input_ids]), output_hidden_states=True).hidden_states[-1][0].mean(0)
            for a in answers
        ]
    for i, j in PAIRS:
        assert alike[f"{i}-{j}"] == pytest.approx(float(torch.cosine_similarity(means[i], means[j], 0)), abs=1e-5)
    with pytest.raises(UserError, match="is no checkpoint"):
        triplets.run(make(data=str(path), by="vectors", embedder="nowhere"))


def test_a_model_answers_three_times_and_the_sandbox_judges(make: Any, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "p.jsonl", [{"prompt": f"Tell me about {name}."} for name in ("Ada", "Bram", "Cleo", "Dora")]
    )
    stage = make(data=str(tmp_path / "p.jsonl"), model="sandbox:weak", judge="sandbox:oracle", orders=3)
    triplets.run(stage)
    found = rows(stage.path("triplets.jsonl"))
    assert found
    for row in found:
        assert len({c["generator"]["draw"] for c in row["candidates"]}) == 3
        assert sum(row["extra"]["counts"].values()) == len(row["extra"]["asked"]) == 3


def test_the_sandbox_goes_by_what_is_said_and_not_by_its_words(make: Any, tmp_path: Path) -> None:
    answers = ["Ada lives in Saltby.", "Ada lives in Nutley.", "Ada has a house in Saltby."]
    write_jsonl(
        tmp_path / "r.jsonl", [{"prompt": "Where does Ada live?", "answers": answers, "tiers": [[0], [1], [2]]}]
    )
    found = []
    for given in ({"judge": "sandbox:oracle"}, {"by": "words"}):
        stage = make(data=str(tmp_path / "r.jsonl"), **given)
        triplets.run(stage)
        found.append(rows(stage.path("triplets.jsonl"))[0]["extra"]["closer"])
    assert found == [[0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "`judge` must be given"),
        ({"by": "vectors"}, "`embedder` must be given"),
        ({"by": "words", "judge": "x"}, "leave it out"),
        ({"judge": "x", "triplets": -1}, "triplets and limit"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(data="d", **given)
