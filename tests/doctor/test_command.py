"""`kilter doctor` on recipes, checkpoints and rows: what it prints, its JSON, its exit codes, its errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from kilter import cli, pipeline, runs
from kilter.doctor import show, stage, targets
from kilter.doctor.finding import Finding, Section
from kilter.errors import RunError
from kilter.models import load

Recipe = Callable[..., Path]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["doctor", *argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, runs folder) of SFT done, with a reward model and PPO still to come."""
    import yaml

    folder = tmp_path_factory.mktemp("finished")
    common = {"steps": 2, "row_tokens": 48}
    stages = {
        "sft": {"model": str(world / "llama"), "data": str(world / "demos.jsonl"), "lora_rank": 2, **common},
        "reward": {"model": "sft", "data": str(world / "rankings.jsonl"), "steps": 2},
        "ppo": {"model": "sft", "reward": "reward", "data": str(world / "prompts.jsonl"), "max_new": 8, "steps": 1},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({"seed": 1, "threads": 1, "stages": stages}, sort_keys=False))
    pipeline.run(str(path), runs_dir=folder / "runs", until="sft")
    return path, folder / "runs"


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_a_recipe_is_examined_as_far_as_it_has_come(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """SFT and the reward stage whole; PPO by its rows alone, since its reward model does not exist yet."""
    path, runs_dir = finished
    before = sorted(p for p in runs_dir.rglob("*"))
    code, out, err = said(capsys, str(path), "--runs", str(runs_dir), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["kind"], found["worst"]) == ("recipe", "ok")
    sft, judge, ppo = found["sections"]
    assert [s["not_yet_checkable"] for s in (sft, judge)] == [None, None]
    assert "needs 'reward', which is not finished" in ppo["not_yet_checkable"]
    names = {s["name"]: {f["name"] for f in s["findings"]} for s in found["sections"]}
    wanted = {"data: eos trained", "data: prompt is a prefix", "policy: packed = unpacked", "any micro-batch"}
    assert wanted <= names["sft"]
    assert {"data: longer is chosen", "reward: scores: batch"} <= names["reward"]
    assert "data: context" in names["ppo"]
    assert not any(n.startswith("policy") for n in names["ppo"])
    trained = [s["text"] for s in sft["rows"][0]["spans"] if s["trained"]]
    assert len(trained) == 1
    assert trained[0].endswith("<|end|>")
    assert sorted(p for p in runs_dir.rglob("*")) == before, "nothing is written"
    assert said(capsys, str(runs_dir / "small"), "--json")[1] == out.replace(str(path), str(runs_dir / "small"))


def test_a_recipe_that_would_fail_has_exit_code_1(
    recipe: Recipe, small: dict[str, Any], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe({"ppo": {**small["ppo"], "model": "llama", "reward": "llama"}})
    code, out, err = said(capsys, str(path), "--runs", str(tmp_path / "runs"))
    assert (code, err) == (1, "")
    assert "fail  reward: head: the reward's head `score` is all zero" in out
    path = recipe({"sft": {**small["sft"], "model": "llama", "data": "prompts.jsonl"}})
    code, out, _ = said(capsys, str(path), "--runs", str(tmp_path / "runs"))
    assert code == 1
    assert "60 of 60 rows can't be used" in out


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("causal", {"sampler = trainer", "packed = unpacked", "generation config"}),
        ("reward", {"scores: as in transformers", "reward: over-long answers", "reward: length", "head"}),
        ("value", {"values: batch", "head"}),
    ],
)
def test_a_checkpoint_is_examined_by_its_kind(
    make_model: Callable[..., Any],
    tokenizer: Any,
    tmp_path: Path,
    kind: str,
    wanted: set[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    load.save(make_model("llama", kind), tokenizer, tmp_path / "model")
    code, out, err = said(capsys, str(tmp_path), "--json")  # a stage's folder stands for its model
    assert (code, err) == (0, "")
    (section,) = json.loads(out)["sections"]
    assert section["about"] == f"{kind} model"
    found = {f["name"]: f["level"] for f in section["findings"]}
    assert wanted | {"pad and eos", "finite weights", "vocabulary", "eos trained"} <= set(found)
    assert {v for k, v in found.items() if not k.startswith("reward:")} == {"ok"}


def test_an_adapter_is_examined_merged_into_its_base(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, str(finished[1] / "small" / "sft" / "model"))
    assert code == 0
    assert "causal model (adapter, merged into its base)" in out


@pytest.mark.parametrize("fault", ["nan", "pad", "head"])
def test_a_faulty_checkpoint_has_exit_code_1(
    make_model: Callable[..., Any],
    make_tokenizer: Callable[..., Any],
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_model("llama", "reward" if fault == "head" else "causal")
    with torch.no_grad():
        if fault == "nan":
            model.model.norm.weight[0] = torch.nan
        elif fault == "head":
            model.score.weight.zero_()
    load.save(model, make_tokenizer(pad="<|end|>" if fault == "pad" else "<|pad|>"), tmp_path)
    code, out, _ = said(capsys, str(tmp_path))
    assert code == 1
    assert {"nan": "NaN or infinity", "pad": "pad and eos are the same", "head": "all zero"}[fault] in out


def test_a_model_that_generate_would_not_stop_is_told(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    load.save(make_model("llama"), tokenizer, tmp_path)
    given = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**given, "eos_token_id": 7}))
    found = {f.name: f for f in targets.examine(str(tmp_path)).findings}
    assert found["generation config"].level == "warn"
    assert found["generation config"].saw == "generation_config stops at 7, the tokenizer's eos is 1"


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["corpus", "demos", "prompts", "rankings"])
def test_rows_are_examined_by_the_kind_that_is_seen(world: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, str(world / f"{kind}.jsonl"), "--model", str(world / "llama"), "--json")
    assert (code, err) == (0, "")
    (section,) = json.loads(out)["sections"]
    assert section["about"] == {"corpus": "text", "demos": "demonstrations"}.get(kind, kind)
    assert section["not_yet_checkable"] is None
    assert len(section["rows"]) == 3
    assert {f["level"] for f in section["findings"]} <= {"ok", "note"}


def test_rankings_without_a_tokenizer_are_compared_by_characters(
    tmp_path: Path, write_rows: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = [{"prompt": f"q{n}", "chosen": "a long answer", "rejected": "short"} for n in range(40)]
    data = write_rows(tmp_path / "r.jsonl", [*rows, {"prompt": "q", "chosen": "x", "rejected": "x"}, b'{"prompt": 3}'])
    code, out, _ = said(capsys, str(data), "--rows", "1")
    assert code == 0
    assert "warn  longer is chosen: the longer answer is the better one in 40 of 40 pairs" in out
    assert f"warn  rows: 2 of 42 rows of r.jsonl can't be used; the first: {data}:41: " in out
    assert "give --model FOLDER" in out
    assert "user: q0⏎assistant: ⟦a long answer⏎⟧⟦short⏎⟧" in out


def test_rows_of_which_none_can_be_used_are_counted(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(
        capsys, str(world / "prompts.jsonl"), "--kind", "demonstrations", "--model", str(world / "llama")
    )
    assert code == 1
    assert "fail  rows: 60 of 60 rows of prompts.jsonl can't be used; the first:" in out


# --- the terminal -----------------------------------------------------------------------------------------------------

HOSTILE = Section(
    "a\x1b[31mb",
    "rows\x07",
    [Finding("x", "fail", "saw \x1b]0;title\x07this", "do \u202ethat"), Finding("[bold]y", "ok", "[red]fine")],
    [("d:1", [("the\x1b[2J prompt\n", False), ("[blue]answer\x9b1m", True)])],
)


def printed(terminal: bool) -> str:
    import io

    out = Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False, markup=False)
    show.show(targets.Examination("t", "data", [HOSTILE]), out)
    return out.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_hostile_text_is_harmless_and_markup_stays_text() -> None:
    plain = printed(terminal=False)
    assert "\x1b" not in plain
    assert "\x9b" not in plain
    assert "  fail  x: saw this; do that\n  ok    [bold]y: [red]fine" in plain
    assert "the prompt⏎⟦[blue]answer⟧" in plain
    coloured = printed(terminal=True)
    assert "\x1b[1;32m[blue]answer" in coloured
    assert not any(bad in coloured for bad in ("\x1b[2J", "\x1b]0;", "\x1b[31mb", "\x9b", "\u202e", "\x07"))


def test_there_is_no_colour_in_a_pipe(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, str(world / "demos.jsonl"), "--model", str(world / "llama"))
    assert "\x1b" not in out
    assert "what is trained in ⟦ ⟧" in out
    assert "<|assistant|>⟦" in out


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("nowhere", "nowhere is not there"),
        ("sandbx", "did you mean 'sandbox'?"),
        (".", ". holds none of these"),
        ("nowhere.jsonl", "nowhere.jsonl is not there; give a JSONL file"),
        ("nowhere.yaml", "no recipe 'nowhere.yaml'"),
        ("empty.jsonl", "empty.jsonl has no rows"),
        ("odd.jsonl", "odd.jsonl:1: a row with the fields ['x'] is of no kind that is known; say with --kind"),
        ("torn.jsonl", "torn.jsonl:1: not valid JSON"),
        ("odd.jsonl --kind rnkings", "did you mean 'rankings'?"),
        ("odd.jsonl --jsn", "did you mean '--json'?"),
        ("odd.jsonl --rows -1", "must not be below 0"),
        ("odd.jsonl --kind text --model ./nothing", "no model folder at ./nothing"),
        ("broken", "config.json"),
        ("sandbox --set sft.lrr=1", "did you mean 'lr'?"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    argv: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    (place / "broken").mkdir(parents=True)
    (place / "broken" / "config.json").write_text("{")
    (tmp_path / "elsewhere").mkdir()
    for name, text in (("empty", ""), ("odd", '{"x": 1}\n'), ("torn", '{"text": \n')):
        (place / f"{name}.jsonl").write_text(text)
    monkeypatch.chdir(place)
    if argv == ".":
        monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = said(capsys, *argv.split())
    assert (code, out) == (2, "")
    assert err.startswith("kilter: ")
    assert wanted in err
    assert len(err.strip().splitlines()) == 1


# --- before training --------------------------------------------------------------------------------------------------


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that the doctor looks at, as it does."""
    from kilter.doctor import stage

    seen: list[str] = []
    plain = stage.before
    monkeypatch.setattr(stage, "before", lambda at, *given: (seen.append(at.name), plain(at, *given))[1])
    return seen


def test_every_training_stage_is_examined_once_and_its_numbers_stay_the_same(
    recipe: Recipe, small: dict[str, Any], tmp_path: Path, examined: list[str], digest: Callable[[Path], dict[str, str]]
) -> None:
    stages = {n: {**small[n], "steps": 2, "checkpoint_every": 1} for n in ("sft", "reward", "dpo", "ppo")}
    stages["sft"]["model"] = "llama"
    stages["ppo"]["batch"] = 4
    path = recipe(stages)
    done = pipeline.run(str(path), runs_dir=tmp_path / "runs")
    assert examined == list(stages)
    for name in stages:
        found = json.loads((done.folder / name / "doctor.json").read_text())
        assert found["worst"] in ("ok", "note", "warn")
        assert len(found["findings"]) > 10
        assert "doctor.json" not in (runs.read_done(done.folder / name) or {})["outputs"]
    pipeline.run(str(path), runs_dir=tmp_path / "runs")
    assert examined == list(stages), "a finished stage is not examined again"
    bare = pipeline.run(str(path), runs_dir=tmp_path / "bare", doctor=False)
    assert examined == list(stages)
    assert not list(bare.folder.glob("*/doctor.json"))
    assert digest(bare.folder) == digest(done.folder)
    for name in stages:
        mine, theirs = (
            [{k: v for k, v in r.items() if k != "seconds"} for r in runs.read_metrics(f / name)]
            for f in (done.folder, bare.folder)
        )
        assert mine == theirs


def test_a_stage_that_was_cut_off_is_not_examined_again(
    recipe: Recipe, tmp_path: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kilter.train import loop

    sft = {"model": "llama", "data": "demos.jsonl", "row_tokens": 48, "steps": 3, "checkpoint_every": 1}
    path, save = recipe({"sft": sft}), loop.save_final
    monkeypatch.setattr(loop, "save_final", lambda *_: (_ for _ in ()).throw(RuntimeError("cut off")))
    with pytest.raises(RuntimeError, match="cut off"):
        pipeline.run(str(path), runs_dir=tmp_path / "runs")
    monkeypatch.setattr(loop, "save_final", save)
    shutil.rmtree(tmp_path / "runs" / "small" / "sft" / "checkpoints")  # even before its first checkpoint
    pipeline.run(str(path), runs_dir=tmp_path / "runs")
    assert examined == ["sft"]


def test_a_failure_stops_the_run_unless_told_not_to_look(
    recipe: Recipe,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted = Finding("planted", "fail", "a fault that training would not notice", "mend it")
    monkeypatch.setattr(stage, "model_findings", lambda *_: [planted])
    dpo = {"model": "llama", "data": "rankings.jsonl", "steps": 1}
    path, where = recipe({"dpo": dpo}), ["--runs", str(tmp_path / "runs")]
    with pytest.raises(RunError, match=r"stage dpo is stopped before its first step: .*planted: a fault that"):
        pipeline.run(str(path), runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs" / "small" / "dpo" / "metrics.jsonl").exists()
    assert cli.main(["run", str(path), *where]) == 1, "it is examined again until it passes"
    assert "--no-doctor" in capsys.readouterr().err
    assert cli.main(["run", str(path), *where, "--no-doctor"]) == 0
    silent = pipeline.run(str(recipe({"dpo": dpo}, doctor=False)), runs_dir=tmp_path / "silent").folder
    assert not (silent / "dpo" / "doctor.json").exists()
    data = world / "rankings.jsonl"
    argv = f"train dpo --model {world}/llama --data {data} --out {tmp_path}/one --steps 1 --threads 1"
    assert cli.main(argv.split()) == 1
    assert cli.main([*argv.split(), "--no-doctor"]) == 0


def test_warnings_are_told_and_the_run_goes_on(
    recipe: Recipe,
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KILTER_QUIET", "0")
    path = recipe({"dpo": {**small["dpo"], "model": "llama", "batch": 50, "steps": 1}})
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs")]) == 0
    err = capsys.readouterr().err
    assert "[1/1] dpo: doctor: 21 checks: 20 ok, 1 warn" in err
    assert "batch: 48 rows, 50 in one round: rows come twice in a step; lower batch, or give more rows" in err


@pytest.mark.parametrize("tokenized", [False, True])
def test_rows_of_labels_are_counted_as_good_and_bad(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], write_rows: Callable[..., Path], tokenized: bool
) -> None:
    """They hold no pairs, and that is no fault of theirs."""
    rows = [{"prompt": "the cat", "completion": f"eats {w}", "label": w != "tea"} for w in ("fish", "tea", "corn")]
    path = write_rows(tmp_path / "labels.jsonl", rows)
    more = ["--model", str(world / "llama")] if tokenized else []
    code, out, _ = said(capsys, str(path), "--json", *more)
    found = {f["name"]: f for s in json.loads(out)["sections"] for f in s["findings"]}
    assert code == 0
    assert (found["labels"]["level"], found["labels"]["saw"]) == ("ok", "2 answers are good and 1 bad")
    assert "pairs" not in found
    _, out, _ = said(capsys, str(write_rows(path, rows[:1])), "--json", *more)
    found = {f["name"]: f for s in json.loads(out)["sections"] for f in s["findings"]}
    assert found["labels"]["level"] == "fail"


def test_kto_trains_on_labels_alone(tmp_path: Path, world: Path, write_rows: Callable[..., Path]) -> None:
    import kilter

    rows = [
        {"prompt": f"the {w}", "answer": f"{w} sings", "label": n % 2 == 0} for n, w in enumerate(["cat", "dog"] * 4)
    ]
    data = write_rows(tmp_path / "labels.jsonl", rows)
    run = kilter.train("kto", model=world / "llama", data=data, out=tmp_path / "out", steps=2, batch=4, threads=1)
    assert runs.read_done(run.folder / "kto") is not None


def test_a_first_batch_without_a_gradient_is_noted_and_trained(tmp_path: Path, world: Path) -> None:
    """Every answer scored alike: what is left of a gradient is rounding, and its parts can't be compared."""
    import kilter

    (tmp_path / "score.py").write_text("def same(prompts, answers):\n    return [1.0] * len(answers)\n")
    run = kilter.train(
        "grpo",
        model=world / "llama",
        data=world / "prompts.jsonl",
        reward=f"{tmp_path / 'score.py'}:same",
        out=tmp_path / "out",
        steps=1,
        batch=2,
        answers=2,
        max_new=4,
        eos_penalty=0.0,
        threads=1,
    )
    found = json.loads((run.folder / "grpo" / "doctor.json").read_text())
    assert "has no gradient" in json.dumps(found)
