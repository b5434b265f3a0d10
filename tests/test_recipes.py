"""A recipe is checked whole before anything runs: names, types, references, cycles, each with the remedy beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kilter import recipes
from kilter.errors import RecipeError


@pytest.fixture
def check(tmp_path: Path) -> Any:
    """Check stages as they would stand in a file beside the data they name."""
    for name in ("d.jsonl", "r.jsonl", "p.jsonl"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "base").mkdir()

    def run(stages: Any, overrides: dict[str, Any] | None = None, **top: Any) -> recipes.Recipe:
        return recipes.check({"name": "r", "stages": stages, **top}, overrides or {}, tmp_path / "r.yaml")

    return run


SFT = {"model": "base", "data": "d.jsonl"}
REWARD = {"model": "sft", "data": "r.jsonl"}


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_recipes_are_sound(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("demos", "rankings", "prompts", "corpus"):
        (tmp_path / f"{file}.jsonl").write_text("{}\n")
    (tmp_path / "base").mkdir()
    given = {"sft.model": "base", "reward.model": "sft"} if name in ("compare-methods", "instructgpt") else {}
    plan = recipes.load(name, given)
    assert plan.about
    assert plan.name == name


def test_stages_stand_in_an_order_in_which_they_can_run(check: Any) -> None:
    plan = check({"ppo": {"model": "sft", "reward": "reward", "data": "p.jsonl"}, "reward": REWARD, "sft": SFT})
    assert list(plan.stages) == ["sft", "reward", "ppo"]
    assert list(check({"b": {"method": "sft", **SFT}, "a": {"method": "sft", **SFT}}).stages) == ["b", "a"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"stf": SFT}, r"unknown method 'stf'; did you mean 'sft'\?"),
        ({"x": {**SFT, "method": "qqq"}}, r"unknown method 'qqq'; allowed: .*dpo.*ppo"),
        ({"sft": {**SFT, "learning_rate": 1}}, "stage 'sft': unknown field 'learning_rate'"),
        ({"sft": {**SFT, "warmupp": 1}}, r"unknown field 'warmupp'; did you mean 'warmup'\?"),
        ({"sft": {**SFT, "steps": "many"}}, r"sft.steps is 'many' \(str\), but must be a whole number"),
        ({"sft": {**SFT, "lr": [1]}}, r"sft.lr is \[1\]"),
        ({"sft": {**SFT, "optimizer": "adam"}}, r"sft.optimizer is 'adam'.*did you mean 'adamw'\?"),
        ({"sft": {"model": "base"}}, "stage 'sft': field 'data' must be given"),
        (
            {"sft": {**SFT, "model": "pretrian/x/y"}, "pretrain": {"model": "base", "data": "d.jsonl"}},
            r"reads 'pretrian/x/y', which is neither a stage.*did you mean 'pretrain'\?",
        ),
        ({"sft": {**SFT, "data": "demos.jsonl"}}, "reads 'demos.jsonl', which is neither a stage, a file"),
        ({"sft": {**SFT, "model": "sft"}}, "stage 'sft' reads itself"),
        (
            {
                "a": {"method": "sft", "model": "b", "data": "d.jsonl"},
                "b": {"method": "sft", "model": "a", "data": "d.jsonl"},
            },
            "cycle: a -> b -> a",
        ),
        ({"sft": 3}, "stage 'sft' must be a mapping"),
        ({"Sft!": SFT}, "stage name 'Sft!' must be lower-case"),
        ({"../x": SFT}, "stage name"),
        ({}, "at least one stage"),
        ([1], "at least one stage"),
    ],
)
def test_what_can_not_run_is_refused_with_the_remedy(check: Any, stages: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(stages)


def test_an_unknown_top_field_is_refused(check: Any) -> None:
    with pytest.raises(RecipeError, match=r"unknown field 'sede'; did you mean 'seed'\?"):
        check({"sft": SFT}, sede=1)
    with pytest.raises(RecipeError, match="seed is 'one'"):
        check({"sft": SFT}, seed="one")


def test_the_doctor_is_sent_away_by_one_field(check: Any) -> None:
    assert check({"sft": SFT}).doctor
    assert "doctor" not in check({"sft": SFT}).plain()
    plan = check({"sft": SFT}, doctor=False)
    assert not plan.doctor
    assert plan.plain()["doctor"] is False
    with pytest.raises(RecipeError, match="doctor is 'never'"):
        check({"sft": SFT}, doctor="never")


def test_overrides_reach_fields_and_are_checked_alike(check: Any) -> None:
    plan = check({"sft": SFT}, {"sft.steps": 7, "seed": 4, "threads": 1})
    assert plan.stages["sft"].given["steps"] == 7
    assert (plan.seed, plan.threads) == (4, 1)
    for key, message in {
        "stf.steps": r"no stage 'stf'; did you mean 'sft'\?",
        "steps": "give stage.field=value",
        "sft.stepz": r"did you mean 'steps'\?",
        "sft.lr.x": "unknown field|not a mapping",
    }.items():
        with pytest.raises(RecipeError, match=message):
            check({"sft": {**SFT, "lr": 1e-3}}, {key: 1})


def test_a_recipe_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'sandbx'.*did you mean 'sandbox'\?"):
        recipes.load("sandbx")
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(RecipeError, match="not valid UTF-8"):
        recipes.load(str(tmp_path / "r.yaml"))


def test_a_method_file_is_checked_before_it_is_run(check: Any, tmp_path: Path) -> None:
    for text, message in {"x = (": "not valid Python", "x = 1": "lacks Config, EATS, NEEDS, PARAMS"}.items():
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(RecipeError, match=message):
            check({"sft": {**SFT, "method": "./mine.py"}})
    with pytest.raises(RecipeError, match="no such file"):
        check({"sft": {**SFT, "method": "./other.py"}})


def test_a_weighted_sum_reads_its_sources(check: Any, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def score(prompts, answers): ...\n")
    rewards = {"reward": 1, "judge.py:score": 0.5, "http://127.0.0.1:8000/x": 2}
    plan = check({"ppo": {"model": "sft", "reward": rewards, "data": "p.jsonl"}, "reward": REWARD, "sft": SFT})
    assert list(plan.stages) == ["sft", "reward", "ppo"]
    assert set(plan.stages["ppo"].references()) == {"sft", "p.jsonl", *rewards}
    assert plan.find("judge.py:score") == tmp_path / "judge.py"
    with pytest.raises(RecipeError, match=r"has no function 'scores'; did you mean 'score'\?"):
        check({"grpo": {"model": "base", "reward": {"judge.py:scores": 1}, "data": "p.jsonl"}})


def test_the_policy_is_no_input_of_a_value_model(check: Any) -> None:
    given = {"model": "base", "reward": "http://127.0.0.1:8000/x", "data": "p.jsonl", "value": "policy"}
    assert "policy" not in set(check({"ppo": given}).stages["ppo"].references())
    with pytest.raises(RecipeError, match="reads 'polcy', which is neither a stage"):
        check({"ppo": {**given, "value": "polcy"}})
