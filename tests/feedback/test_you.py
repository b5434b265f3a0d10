"""`kilter demo --you`: choices are kept at once, a restart goes on, and what moved is measured on unseen choices."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from kilter import cli, pipeline
from kilter.data.records import Candidate, Judgment, read_jsonl
from kilter.errors import RunError
from kilter.feedback import taste, you

TINY = {
    "seed": 1,
    "threads": 1,
    "stages": {
        "world": {
            "method": "sandbox", "documents": 300, "demonstrations": 200, "rank_prompts": 40, "heldout_rank_prompts": 4,
            "rl_prompts": 4, "eval_prompts": 4, "eval_special": 2, "heldout_documents": 4, "width": 32, "layers": 1,
            "hidden": 64,
        },
        "pretrain": {"model": "world/blank", "scratch": True, "data": "world/corpus.jsonl", "steps": 10},
        "sft": {"model": "pretrain", "data": "world/demos.jsonl", "steps": 40},
        "collect": {"model": "sft", "data": "world/prompts-rank.jsonl", "heldout": "world/prompts-rank-heldout.jsonl",
                    "max_new": 24},
        "dpo": {"model": "sft", "data": "collect/rankings.jsonl", "lr": 2e-3, "beta": 0.1},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small sandbox run up to `collect`."""
    import yaml

    folder = tmp_path_factory.mktemp("you")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return pipeline.run(str(folder / "tiny.yaml"), runs_dir=folder / "runs", until="collect").folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may write into."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "tiny"))


def keys(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input hold these keys, one a line."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(text) + "\n"))


def ask(run_folder: Path, wanted: int) -> list[Judgment]:
    folder = run_folder / "you"
    folder.mkdir(exist_ok=True)
    you.ask(you.load_pairs(run_folder, folder, wanted), folder, wanted)
    return you.load_judgments(folder)


def test_pairs_are_unranked_distinct_and_the_same_again(run_folder: Path) -> None:
    folder = run_folder / "you"
    folder.mkdir()
    pairs = you.load_pairs(run_folder, folder, 5)
    ranked = {row["prompt"]["id"] for _, row in read_jsonl(run_folder / "collect" / "rankings.jsonl")}
    assert len(pairs) == 10
    assert len({p.id for p, _ in pairs}) == 10
    for prompt, (first, second) in pairs:
        assert prompt.id not in ranked
        assert first.answer.strip() != second.answer.strip()
        assert first.generator["temperature"] == 1.0
    (folder / "pairs.jsonl").unlink()
    assert you.load_pairs(run_folder, folder, 7)[:10] == pairs, "a longer list begins alike"


def test_choices_are_judgments_and_a_restart_goes_on(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys(monkeypatch, "12x0s")  # x is no key; standard input ends after the skipped one
    first = ask(run_folder, 6)
    assert [j.tiers for j in first] == [((0,), (1,)), ((1,), (0,)), ((0, 1),)]
    assert all(j.rater == {"id": "you", "type": "person"} and j.kind == "pair" for j in first)
    assert len(you.rows_of(run_folder / "you" / "skipped.jsonl")) == 1
    capsys.readouterr()
    keys(monkeypatch, "111222")
    second = ask(run_folder, 6)
    assert "3 of 6 pairs are judged already" in capsys.readouterr().out
    assert second[:3] == first
    assert [j.raw for j in second] == list("120111")
    assert len({tuple(c.id for c in j.candidates) for j in second}) == 6, "no pair twice, and not the skipped one"


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "judgments.jsonl"
    you.append(path, {"a": 1})
    with open(path, "ab") as out:
        out.write(b'{"a": 2')
    assert you.rows_of(path) == [{"a": 1}]
    you.append(path, {"a": 3})
    assert you.rows_of(path) == [{"a": 1}, {"a": 3}]


def test_hostile_answers_are_harmless_on_the_terminal(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder / "you"
    folder.mkdir()
    prompt, (first, second) = you.load_pairs(run_folder, folder, 1)[0]
    object.__setattr__(first, "answer", "\x1b[2Jgone [bold]markup[/bold]")
    you.show_pair(prompt, (first, second), "1 of 1")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "gone [bold]markup[/bold]" in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_one_key_without_return(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        reader = you.Keys.of_stdin()
        assert reader.live
        for typed, read in ((b"2", "2"), (b"S", "s"), (b"0", "0")):
            os.write(master, typed)
            assert reader.read() == read
    os.close(master)


def test_too_few_choices_train_nothing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys(monkeypatch, "100q")
    assert you.play(run_folder, 20, pytest.fail) is None
    assert "1 decided choices so far" in capsys.readouterr().out


def test_demo_you_from_the_command_line(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Piped keys, the training, what it did, and the report that tells it."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(pipeline, "run", lambda *_, **given: asked.update(given) or pipeline.Run(run_folder))
    keys(monkeypatch, "1212012")
    assert cli.main(["demo", "--you", "--pairs", "6"]) == 0
    out = capsys.readouterr().out
    assert asked["until"] == "collect"
    assert "6 judged, 5 of them decided" in out
    assert "nats a pair" in out
    assert "nats a pair" in (run_folder / "report.html").read_text(encoding="utf-8")
    assert cli.main(["demo", "--you", "--pairs", "6"]) == 0, "nothing is asked or trained twice"


def test_a_run_without_rankings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="until collect"):
        you.play(tmp_path, 3, pytest.fail)


def sailor(run_folder: Path, count: int) -> None:
    """A person who likes answers that begin with Ahoy, and says so of `count` pairs."""
    folder = you.make_folder(run_folder / "you")
    for number, (prompt, (plain, _)) in enumerate(you.load_pairs(run_folder, folder, count)[:count]):
        liked = Candidate(prompt_id=prompt.id, answer=f"Ahoy! {plain.answer}")
        tiers = ((0,), (1,)) if number % 2 else ((1,), (0,))
        pair = (liked, plain) if number % 2 else (plain, liked)
        choice = Judgment(prompt=prompt, candidates=pair, tiers=tiers, kind="pair", rater=you.RATER)
        you.append(folder / "judgments.jsonl", choice.to_json())


def test_the_model_moves_towards_a_plain_taste(run_folder: Path) -> None:
    """Every choice is measured by a model that has not seen it, and a taste that is easy to learn is found."""
    sailor(run_folder, 12)
    summary = you.play(run_folder, 12, pipeline.train_one)
    assert summary is not None
    assert summary == {**json.loads((run_folder / "you" / "summary.json").read_text()), "seconds": summary["seconds"]}
    assert summary["n"] == summary["judged"] == 12
    assert summary["moved"]["lo"] > 0, summary["moved"]
    assert summary["agree_after"] >= summary["agree_before"]
    unseen = {fold: _prompts(run_folder / "you" / f"fold-{fold}" / "rows.jsonl") for fold in range(taste.FOLDS)}
    choices = [row["prompt"]["id"] for _, row in read_jsonl(run_folder / "you" / "choices.jsonl")]
    for number, prompt in enumerate(choices):
        assert [f for f in unseen if prompt not in unseen[f]] == [number % taste.FOLDS]
    assert not set(choices) & _prompts(run_folder / "you" / "without" / "rows.jsonl")

    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(run_folder / "you" / "model") is not None


def _prompts(path: Path) -> set[str]:
    return {row["prompt"]["id"] for _, row in read_jsonl(path)}


def test_the_interval_is_widened_about_its_mean() -> None:
    wide = taste.widened({"mean": 1.0, "lo": 0.0, "hi": 3.0, "n": 4})
    assert wide == pytest.approx({"mean": 1.0, "lo": 1 - 2**0.5, "hi": 1 + 2 * 2**0.5, "n": 4})


def test_what_is_said_of_an_interval_with_zero() -> None:
    base: dict[str, Any] = {"n": 5, "judged": 6, "repeats": 2.0, "rankings": 10, "agree_sft": 0.4, "agree_before": 0.4,
                            "agree_after": 0.6}  # fmt: skip
    unsure = " ".join(taste.lines({**base, "moved": {"mean": 0.3, "lo": -0.2, "hi": 0.8}}))
    sure = " ".join(taste.lines({**base, "moved": {"mean": 0.3, "lo": 0.1, "hi": 0.8}}))
    away = " ".join(taste.lines({**base, "moved": {"mean": -0.3, "lo": -0.5, "hi": -0.1}}))
    assert "contains zero" in unsure
    assert "contains zero" not in sure
    assert "away from your taste" in away
    assert "3 of 5 unseen pairs" in sure
