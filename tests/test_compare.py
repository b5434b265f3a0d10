"""Runs side by side: what is read from their files, how they are matched, seeds as one line, and what is refused."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kilter import compare, pipeline
from kilter.cli import main
from kilter.errors import UserError
from kilter.reporting.compared import headline, page
from kilter.reporting.contest import Contestant, budgets

STAGES: dict[str, dict[str, Any]] = {
    "sft": {"model": "/models/start", "data": "/rows/demos.jsonl"},
    "collect": {"model": "sft", "data": "/rows/prompts.jsonl"},
    "reward": {"model": "sft", "data": "collect/rankings.jsonl"},
    "dpo": {"model": "sft", "data": "collect/rankings.jsonl"},
    "grpo": {"model": "sft", "reward": "reward", "data": "/rows/prompts.jsonl"},
    "evaluate": {"models": {"sft": "sft", "dpo": "dpo", "grpo": "grpo"}, "reward": "reward"},
}
SECONDS = {"sft": 50.0, "collect": 10.0, "reward": 20.0, "dpo": 30.0, "grpo": 60.0, "evaluate": 5.0}
WIN, KL = {"dpo": 0.7, "grpo": 0.6}, {"sft": 0.0, "dpo": 1.5, "grpo": 2.5}


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def whole(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def interval(mean: float, half: float = 0.03) -> dict[str, float]:
    return {"mean": mean, "lo": mean - half, "hi": mean + half, "n": 40}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A finished run of three methods: DPO takes 4 steps of 2 rows and 100 tokens; GRPO 3 rounds of 2 steps, each round
    2 prompts with 2 answers of 5 tokens, and 80 tokens in each step; its held-out prompts are asked before each round.
    """

    def make(name: str, seed: int = 1, better: float = 0.0, prompts: str = "p", verdict: bool = True) -> Path:
        folder = tmp_path / "runs" / name
        whole(folder / "recipe.yaml", {"name": name, "seed": seed, "stages": STAGES})
        for stage in STAGES:
            whole(folder / stage / "stage.json", {"method": stage, "key": f"{stage}-{name}"})
            done: dict[str, Any] = {"key": f"{stage}-{name}", "seconds": SECONDS[stage], "peak_mb": 100.0 + seed}
            if stage == "collect":
                done["rankings"] = {"judgments": 8, "pairs": 50}
            whole(folder / stage / "DONE", done)
        lines(
            folder / "dpo" / "metrics.jsonl",
            [{"step": i, "round": i, "rows": 2.0, "tokens_trained": 100.0} for i in range(4)],
        )
        lines(
            folder / "grpo" / "metrics.jsonl",
            [{"step": i, "round": i // 2, "rows": 2.0, "tokens_trained": 80.0, "reward": 0.1} for i in range(6)],
        )
        asked = [(r, {"id": f"{r}-{p}"}) for r in range(3) for p in range(2)]
        drawn = [{"round": r, "prompt": p, "tokens": 5} for r, p in asked for _ in range(2)]
        lines(folder / "grpo" / "samples.jsonl", drawn)
        lines(
            folder / "grpo" / "eval.jsonl",
            [
                {"round": r, "reward": 0.2 * r, "win_rate": 0.5 + 0.1 * r, "kl": 0.5 * r, "seconds": 20.0 * r}
                for r in range(4)
            ],
        )
        if verdict:
            models = {
                m: {
                    "win_vs_sft": interval(WIN.get(m, 0.5) + (better if m != "sft" else 0.0)),
                    "oracle": 0.4 + KL[m] / 10,
                    "kl": KL[m],
                    "length": 12.0,
                    "proxy": interval(KL[m] / 2),
                }
                for m in KL
            }
            terms = {"prompts": {"main": 40}, "seed": 11, "baseline": "sft"}
            whole(folder / "summary.json", {"models": models, "evaluation": terms, "seed": seed})
            spoken = [{"messages": [{"role": "user", "content": f"{prompts} {i}"}]} for i in range(3)]
            shown = [{"set": "main", "prompt": p, "answers": {"sft": {}}} for p in spoken]
            lines(folder / "evaluate" / "answers.jsonl", shown)
        return folder

    return make


def by_name(found: Any) -> dict[str, Contestant]:
    return {g.label: g.members[0] for g in found.groups}


# --- what was spent ---------------------------------------------------------------------------------------------------


def test_what_each_method_spent_is_read_from_its_files(run: Callable[..., Path]) -> None:
    found = by_name(compare.compare([str(run("one"))]))
    assert set(found) == {"sft", "dpo", "grpo"}
    dpo, grpo = found["dpo"].spent, found["grpo"].spent
    assert (dpo.prompts, dpo.sampled, dpo.trained, dpo.tokens, dpo.steps) == (8.0, 0.0, 400.0, 400.0, 4.0)
    assert (grpo.prompts, grpo.sampled, grpo.trained, grpo.tokens, grpo.steps) == (6.0, 60.0, 480.0, 540.0, 6.0)
    assert (dpo.rewards, grpo.rewards) == (0.0, 12.0)
    assert found["sft"].spent.tokens == 0.0  # what all others start from


def test_what_stands_before_a_method_counts_with_it(run: Callable[..., Path]) -> None:
    found = by_name(compare.compare([str(run("one"))], prices={"ranking": 0.5, "reward": 0.25}))
    assert (found["dpo"].before, found["grpo"].before) == (10.0, 30.0)  # collecting; and the reward model
    seconds = {n: m.budget("seconds", m.spent, {}) for n, m in found.items()}
    assert seconds == {"sft": 0.0, "dpo": 40.0, "grpo": 90.0}
    assert found["dpo"].labels == found["grpo"].labels == {"ranking": 8.0, "comparison": 50.0}
    prices = {"ranking": 0.5, "reward": 0.25}
    assert found["dpo"].budget("cost", found["dpo"].spent, prices) == 4.0
    assert found["grpo"].budget("cost", found["grpo"].spent, prices) == 4.0 + 12 * 0.25


def test_a_stage_that_recorded_no_tokens_has_none_and_not_zero(run: Callable[..., Path]) -> None:
    folder = run("one")
    lines(folder / "dpo" / "metrics.jsonl", [{"step": i, "round": i} for i in range(4)])
    found = compare.compare([str(folder)])
    assert by_name(found)["dpo"].spent.tokens is None
    tokens = [m for m in found.matched if m.axis == "tokens"]
    assert [u.group.label for u in tokens[-1].left_out] == ["dpo"]
    told = next(m for m in compare.plain(found)["matched"] if m["axis"] == "tokens")
    assert told["not_matched"] == [{"method": "dpo", "why": "did not record what it spent", "first": None}]


# --- equal budgets ----------------------------------------------------------------------------------------------------


def at(found: Any, axis: str, budget: float) -> dict[str, Any]:
    """method -> the one measurement of it at a budget."""
    (match,) = [m for m in found.matched if m.axis == axis and m.budget == budget]
    return {g.label: points[0][1] for g, points in match.lines}


def test_methods_are_matched_at_what_each_spent_in_all(run: Callable[..., Path]) -> None:
    found = compare.compare([str(run("one"))])
    assert [m.budget for m in found.matched if m.axis == "tokens"] == [400.0, 540.0]
    assert [m.budget for m in found.matched if m.axis == "prompts"] == [6.0, 8.0]
    assert [m.budget for m in found.matched if m.axis == "seconds"] == [40.0, 90.0]
    within = at(found, "tokens", 400.0)
    assert (within["dpo"].by, within["dpo"].got["win"].mean) == ("oracle", 0.7)
    assert within["grpo"].spent.tokens == 2 * (2 * 80 + 20)  # two whole rounds, the third would go over
    assert (within["grpo"].by, within["grpo"].got["win"].mean) == ("reward", pytest.approx(0.7))
    assert "after round 2 of 3" in within["grpo"].where
    assert at(found, "tokens", 540.0)["grpo"].got["win"].mean == 0.6  # all of it: the verdict
    assert "dpo" not in at(found, "prompts", 6.0)  # it was measured once, at 8
    assert at(found, "seconds", 40.0)["grpo"].spent.seconds == 0.0  # thirty seconds were gone before it began


def test_no_measurement_is_taken_from_beyond_its_budget(run: Callable[..., Path]) -> None:
    found = compare.compare([str(run("one")), str(run("two", better=0.05)) + ":dpo"], prices={"ranking": 1.0})
    for match in found.matched:
        for _, points in match.lines:
            for one, point in points:
                spent = one.budget(match.axis, point.spent, found.prices)
                assert spent is not None
                assert spent <= (match.budget or 0.0)


def test_totals_that_are_nearly_alike_are_one_budget(run: Callable[..., Path]) -> None:
    found = compare.compare([str(run("one"))])
    assert budgets(found.groups, "cost", {"ranking": 1.0}) == [8.0]
    assert budgets(found.groups, "prompts", {}) == [6.0, 8.0]
    assert not any(m.axis == "cost" for m in found.matched)  # labels have no cost where no price is given


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_by_seed_alone_are_one_line(run: Callable[..., Path]) -> None:
    folders = [run(f"s{seed}", seed=seed, better=0.01 * seed, prompts=f"of {seed}") for seed in (1, 2, 3)]
    found = compare.compare([str(f) for f in folders])
    assert [g.label for g in found.groups] == ["sft", "dpo", "grpo"]
    dpo = found.groups[1]
    win = dpo.end("win")
    assert dpo.seeds == [1, 2, 3]
    assert win is not None
    assert (win.mean, win.lo, win.hi) == pytest.approx((0.72, 0.71, 0.73))
    assert dpo.spread("win") == pytest.approx(statistics.stdev([0.71, 0.72, 0.73]))
    told = compare.plain(found)["methods"][1]["got"]["win"]
    assert told == {"mean": pytest.approx(0.72), "lo": 0.71, "hi": 0.73, "sd": pytest.approx(0.01)}
    assert found.notes == ["The seeds were judged on 3 sets of prompts, and every method on all of them."]
    assert [m.budget for m in found.matched if m.axis == "tokens"] == [400.0, 540.0]


def test_runs_that_differ_in_a_setting_are_two_lines(run: Callable[..., Path]) -> None:
    one, two = run("one"), run("two", better=0.05)
    recipe = json.loads((two / "recipe.yaml").read_text())
    recipe["stages"]["dpo"]["beta"] = 0.5
    whole(two / "recipe.yaml", recipe)
    found = compare.compare([f"{one}:dpo", f"{two}:dpo"])
    assert [g.label for g in found.groups] == ["dpo (one)", "dpo (two)"]
    assert any("start from different models" in note for note in found.notes)


def test_the_same_stage_named_twice_counts_once(run: Callable[..., Path]) -> None:
    folder = run("one")
    found = compare.compare([str(folder), f"{folder}:dpo"])
    assert [(g.label, len(g.members)) for g in found.groups] == [("sft", 1), ("dpo", 1), ("grpo", 1)]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_verdicts_on_other_prompts_are_refused(run: Callable[..., Path]) -> None:
    one, two = run("one", prompts="tea"), run("two", prompts="milk")
    with pytest.raises(UserError, match="dpo of one and grpo of two were judged on different prompts"):
        compare.compare([f"{one}:dpo", f"{two}:grpo"])


@pytest.mark.parametrize(("key", "value"), [("prompts", {"main": 39}), ("seed", 12), ("baseline", "dpo")])
def test_verdicts_given_otherwise_are_refused(run: Callable[..., Path], key: str, value: Any) -> None:
    one, two = run("one"), run("two")
    summary = json.loads((two / "summary.json").read_text())
    summary["evaluation"][key] = value
    whole(two / "summary.json", summary)
    with pytest.raises(UserError, match=f"given with {key} .* and {re.escape(str(value))}; evaluate both alike"):
        compare.compare([str(one), str(two)])


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["compare", *args]) != 0
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def test_what_is_no_run_or_not_finished_is_said(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cut = run("one"), run("cut", verdict=False)
    runs = str(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    assert "no run" in refused(capsys, str(tmp_path / "empty"))
    assert "'two'" in refused(capsys, "two", "--runs", runs)
    assert "no verdict yet" in refused(capsys, str(cut))
    (cut / "grpo" / "DONE").unlink()
    assert "'grpo' is not finished" in refused(capsys, f"{cut}:grpo")
    assert "no model or stage 'dpoo'" in refused(capsys, f"{folder}:dpoo")
    assert "a comparison takes two" in refused(capsys, f"{folder}:dpo")
    assert "nothing stands after the colon" in refused(capsys, f"{folder}:")
    assert "is not a folder" in refused(capsys, str(folder), "--out", str(tmp_path / "nowhere" / "x.html"))


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        (["rankings=1"], "ranking"),
        (["ranking"], "a number from 0 on"),
        (["ranking=-1"], "a number from 0 on"),
        (["ranking=1", "ranking=2"], "given twice"),
        (["ranking=1", "comparison=1"], "paid twice"),
    ],
)
def test_a_price_that_can_t_be_read_is_refused(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str], prices: list[str], said: str
) -> None:
    assert said in refused(capsys, str(run("one")), *(a for p in prices for a in ("--price", p)))


def test_a_stage_without_a_verdict_has_its_curve(run: Callable[..., Path]) -> None:
    cut = run("cut", verdict=False)
    found = compare.compare([f"{cut}:dpo", f"{cut}:grpo"])
    assert any(note.startswith("Not in any verdict") for note in found.notes)
    assert found.groups[1].end("win") is None
    assert headline(found) == "2 methods side by side."


# --- what is shown ----------------------------------------------------------------------------------------------------


class Outside(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(v) for k, v in attrs if k in ("src", "srcset", "href") and not str(v).startswith("#")]


def test_the_page_stands_alone_and_says_who_leads(run: Callable[..., Path], tmp_path: Path) -> None:
    found = compare.compare([str(run("one"))], prices={"ranking": 0.5})
    text = compare.write(found, tmp_path).read_text()
    assert (tmp_path / "compare.html").is_file()
    reader = Outside()
    reader.feed(text)
    assert reader.loads == []
    assert headline(found).startswith("DPO wins most often against SFT")
    assert headline(found).endswith("no other interval meets it.")
    for part in ("Win rate over drift", "What each got", "What each spent", "At equal tokens", "At equal label cost"):
        assert part in text
    assert text == str(page(compare.compare([str(tmp_path / "runs" / "one")], prices={"ranking": 0.5})))


def test_the_headline_says_who_can_t_be_told_apart(run: Callable[..., Path]) -> None:
    folder = run("one")
    summary = json.loads((folder / "summary.json").read_text())
    summary["models"]["grpo"]["win_vs_sft"] = interval(0.65)
    whole(folder / "summary.json", summary)
    assert headline(compare.compare([str(folder)])).endswith("; the interval of GRPO meets it.")


def test_hostile_names_stay_text(run: Callable[..., Path]) -> None:
    bad = "<script>alert(1)</script>"
    folder = run("one")
    summary = json.loads((folder / "summary.json").read_text())
    summary["models"][bad] = summary["models"].pop("grpo")
    whole(folder / "summary.json", summary)
    assert bad not in str(page(compare.compare([str(folder)])))


def test_the_terminal_and_json_tell_the_same(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = str(run("one"))
    main(["compare", folder, "--out", str(tmp_path / "x.html"), "--price", "ranking=0.5"])
    shown = capsys.readouterr().out
    assert "0.70 [0.67, 0.73]" in shown
    assert "labels: 8 rankings, 50 comparisons for dpo, grpo" in shown
    assert "0.70*, KL 1.0" in shown  # GRPO at 400 tokens, by the reward model
    main(["compare", folder, "--json", "--price", "ranking=0.5"])
    told = json.loads(capsys.readouterr().out)
    dpo = next(m for m in told["methods"] if m["method"] == "dpo")
    assert dpo["got"]["win"] == {"mean": 0.7, "lo": pytest.approx(0.67), "hi": pytest.approx(0.73), "n": 40}
    assert dpo["runs"][0]["label_cost"] == 4.0
    assert {m["axis"] for m in told["matched"]} == {"prompts", "tokens", "seconds", "cost"}


# --- a real run -------------------------------------------------------------------------------------------------------


def test_stages_of_a_real_run_are_compared_by_what_they_recorded(
    recipe: Callable[..., Path], tmp_path: Path, world: Path
) -> None:
    shared = {"model": "llama", "data": "rankings.jsonl", "batch": 4, "steps": 3}
    online = {"model": "llama", "reward": "reward", "data": "prompts.jsonl", "heldout": "heldout.jsonl", "max_new": 8}
    stages = {
        "dpo": shared,
        "raft": {**online, "batch": 4, "answers": 3, "steps": 2, "minibatches": 2, "eval_every": 1},
    }
    folder = pipeline.run(str(recipe(stages)), runs_dir=str(tmp_path / "runs")).folder
    found = by_name(compare.compare([f"{folder}:dpo", f"{folder}:raft"]))
    dpo, raft = found["dpo"].spent, found["raft"].spent
    assert (dpo.prompts, dpo.steps, dpo.sampled) == (12.0, 3.0, 0.0)
    assert (raft.prompts, raft.steps, raft.rewards) == (8.0, 4.0, 24.0)
    drawn = [json.loads(line) for line in (folder / "raft" / "samples.jsonl").read_text().splitlines()]
    assert raft.sampled == sum(row["tokens"] for row in drawn)
    trained = [json.loads(line) for line in (folder / "raft" / "metrics.jsonl").read_text().splitlines()]
    assert raft.trained == sum(row["tokens_trained"] for row in trained) > 0
    assert (dpo.trained or 0) > 0
    assert [p.spent.steps for p in found["raft"].curve] == [0.0, 2.0, 4.0]
    assert all(p.spent.seconds is not None for p in found["raft"].curve)
