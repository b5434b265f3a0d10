"""What a peer does with bad data and cut-off runs, row by row, and what happens here instead.

A trainer of wide use was given bad rows, bad models and torn checkpoints, and what it did was written down: rows
dropped without a count, errors that name a column the user never mentioned, runs that end with loss 0 and NaN weights.
Each entry of those two tables has a test of its name below. Two families live beside the code that they are about:
margins and ratings that are NaN in tests/data and tests/methods (the readers of rows and the reward model), reward
functions that return NaN, infinity, a constant, the wrong number or text, or take no keywords, in tests/methods (the
online methods).
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kilter import cli, pipeline, runs
from kilter.errors import DataError, KilterError, RecipeError, RunError
from kilter.methods import ppo
from kilter.models import load
from kilter.train import loop

Recipe = Callable[..., Path]
Writer = Callable[..., Path]
ANSWERED = {"prompt": "the cat", "answer": "likes tea"}
RANKED = {"prompt": "the cat", "chosen": "likes tea", "rejected": "eats the dog and the fish"}
LONG = "tom " * 200
"""More than the context of the tests' models, 128 tokens."""


@pytest.fixture
def train(recipe: Recipe, tmp_path: Path, write_rows: Writer) -> Callable[..., Path]:
    """Train one stage on rows and return its folder: `train("sft", rows, steps=1)`."""

    def run(method: str, rows: list[Any] | None = None, where: str = "runs", doctor: bool = True, **given: Any) -> Path:
        stage: dict[str, Any] = {"model": "llama", "steps": 1, "batch": 4, **given}
        if rows is not None:
            stage["data"] = str(write_rows(tmp_path / "mine.jsonl", rows))
        if method == "sft":
            stage.setdefault("row_tokens", 48)
        path = recipe({method: stage}, **({} if doctor else {"doctor": False}))
        return pipeline.run(str(path), runs_dir=tmp_path / where).folder / method

    return run


def doctor_says(stage: Path, name: str) -> dict[str, str]:
    """One of the findings that the doctor wrote into a stage's folder."""
    findings = json.loads((stage / "doctor.json").read_text())["findings"]
    found: dict[str, str] = next(f for f in findings if f["name"] == name)
    return found


def rejected(stage: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (stage / "rejects.jsonl").read_text().splitlines()]


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_sft_missing_column(train: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"mine\.jsonl:2: no prompt; give one of the fields prompt, .*row has \['answer'"
    ):
        train("sft", [ANSWERED, {"answer": "x"}])


def test_sft_no_completion(train: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl:2: no answer; give one of the fields answer, completion"):
        train("sft", [ANSWERED, {"prompt": "x"}])


@pytest.mark.parametrize("row", [{"prompt": "x", "completion": None}, {"prompt": 3, "completion": "x"}], ids=str)
def test_sft_a_field_of_another_type(train: Callable[..., Path], row: Any) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl:2: field '\w+' must be a text.*got (None|3) \((NoneType|int)\)"):
        train("sft", [ANSWERED, row])


def test_sft_chat_prompt_and_plain_completion_is_one_of_the_forms(train: Callable[..., Path]) -> None:
    mixed = {"prompt": [{"role": "user", "content": "the cat"}], "completion": "likes tea"}
    assert (train("sft", [mixed] * 4) / "DONE").is_file()


def test_sft_empty_completion(train: Callable[..., Path]) -> None:
    rows = [ANSWERED] * 199 + [{"prompt": "x", "completion": ""}]
    stage = train("sft", rows)
    assert [r["where"].endswith("mine.jsonl:200") for r in rejected(stage)] == [True]
    assert "field 'completion' must be a text that is not empty" in rejected(stage)[0]["reason"]
    assert json.loads((stage / "DONE").read_text())["rejected"] == 1
    assert doctor_says(stage, "data: rows")["level"] == "warn"
    with pytest.raises(DataError, match="4 of 4 rows can't be used"):
        train("sft", [{"prompt": "x", "completion": ""}] * 4)


def test_sft_prompt_beyond_the_context(train: Callable[..., Path]) -> None:
    """Counted, kept with its reason, and beyond a stated share the run stops."""
    rows = [ANSWERED] * 4 + [{**ANSWERED, "prompt": LONG}] * 12
    with pytest.raises(
        DataError, match=r"12 of 16 rows can't be used \(limit 1.0%, .*\d+ tokens, but the context is 128"
    ):
        train("sft", rows)
    stage = train("sft", rows, max_rejects=0.8)
    assert len(rejected(stage)) == 12
    assert doctor_says(stage, "data: rows")["saw"].startswith("12 of 16 rows of mine.jsonl can't be used")


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_all_rows_dropped(train: Callable[..., Path], method: str) -> None:
    with pytest.raises(DataError, match="3 of 3 rows can't be used"):
        train(method, [{**ANSWERED, **RANKED, "prompt": LONG}] * 3, max_rejects=1.0)


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_empty_dataset(train: Callable[..., Path], method: str) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl has no rows"):
        train(method, [])


@pytest.mark.parametrize(("method", "row"), [("sft", ANSWERED), ("dpo", RANKED), ("reward", RANKED)])
def test_duplicate_rows_are_counted(train: Callable[..., Path], method: str, row: Any) -> None:
    found = doctor_says(train(method, [{"id": "a", **row}] * 8), "data: duplicates")
    assert found["level"] == "warn"
    assert found["saw"] == "7 of 8 rows repeat an earlier one"


# --- tokenizers and models --------------------------------------------------------------------------------------------


@pytest.fixture
def base(make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """A model's folder with a tokenizer of its own: `base(pad=None)`."""

    def make(kind: str = "causal", rows: int | None = None, **given: Any) -> str:
        model = make_model("llama", kind, **({"vocab_size": rows} if rows else {}))
        model.save_pretrained(tmp_path / "base")
        make_tokenizer(**given).save_pretrained(tmp_path / "base")
        return str(tmp_path / "base")

    return make


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_no_pad_token(train: Callable[..., Path], base: Callable[..., str], method: str) -> None:
    with pytest.raises(DataError, match="has no pad token; set `pad_token`"):
        train(method, [{**ANSWERED, **RANKED}] * 4, model=base(pad=None))


def test_chat_data_without_a_template(train: Callable[..., Path], base: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"has no chat template; set `tokenizer\.chat_template`"):
        train("sft", [ANSWERED] * 4, model=base(template=None))


def test_tokenizer_larger_than_the_vocabulary(train: Callable[..., Path], base: Callable[..., str]) -> None:
    with pytest.raises(RecipeError, match=r"the tokenizer has 327 tokens but .* has embeddings for 300"):
        train("sft", [ANSWERED] * 4, model=base(rows=300))


@pytest.mark.parametrize("lr", [1e12, 1e39], ids=str)
@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_a_diverged_run_stops_and_saves_no_nan(
    train: Callable[..., Path], tmp_path: Path, method: str, lr: float
) -> None:
    """A named error and nothing broken on disk, even when it is the last step that breaks the weights (lr 1e39)."""
    data, given = "demos.jsonl" if method == "sft" else "rankings.jsonl", {"warmup": 0, "lr": lr}
    with pytest.raises(RunError, match=rf"stage {method}.* (is|are) (nan|inf|NaN).*[Ll]ower lr"):
        train(method, data=data, steps=12, checkpoint_every=1, keep=20, **given)
    if lr == 1e39:
        with pytest.raises(RunError, match=r"the step before step 1 left weights of .*nothing of it is written"):
            train(method, data=data, steps=1, where="last", **given)
    for file in tmp_path.rglob("*.safetensors"):
        assert all(bool(torch.isfinite(t).all()) for t in load_file(file).values()), file
    assert not list(tmp_path.rglob("DONE"))


def test_nan_weights(train: Callable[..., Path], base: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(base())
    model = load.load(str(folder), "causal")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(RunError, match=r"1 of 20 tensors of the policy hold NaN .*layers\.0\.mlp\.up_proj\.weight"):
        train("sft", [ANSWERED] * 4, model=str(folder))
    with pytest.raises(RunError, match=r"step 0: loss is nan.*stopped before the step"):
        train("sft", [ANSWERED] * 4, model=str(folder), doctor=False)
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_reward_num_labels_2(train: Callable[..., Path], base: Callable[..., str]) -> None:
    folder = Path(base())
    model = load.load(str(folder), "causal")
    from transformers import AutoModelForSequenceClassification

    model.config.num_labels = 2
    AutoModelForSequenceClassification.from_config(model.config).save_pretrained(folder)
    with pytest.raises(RecipeError, match=r"base can't be loaded as a reward model: .*(size|shape|score)"):
        train("reward", [RANKED] * 4, model=str(folder))


# --- preferences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_chosen_is_rejected(train: Callable[..., Path], method: str) -> None:
    """A pair of one text with itself teaches nothing: it is kept with its reason; too many of them stop the run."""
    same = {**RANKED, "rejected": RANKED["chosen"]}
    folder = train(method, [RANKED, same, RANKED, RANKED], max_rejects=0.5)
    (kept,) = [json.loads(line) for line in next(folder.rglob("rejects.jsonl")).read_text().splitlines()]
    assert kept["where"].endswith("mine.jsonl:2")
    assert "the answers are all the same text" in kept["reason"]
    with pytest.raises(DataError, match=r"4 of 4 rows can't be used.*the answers are all the same text"):
        train(method, [same] * 4, where="none")


def test_dpo_empty_chosen_and_no_prompt(train: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl:2: field 'chosen' must be a text that is not empty"):
        train("dpo", [RANKED, {**RANKED, "chosen": ""}])
    with pytest.raises(DataError, match=r"mine\.jsonl:2: no prompt"):
        train("dpo", [RANKED, {k: v for k, v in RANKED.items() if k != "prompt"}])


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_over_long_rows_of_preferences(train: Callable[..., Path], method: str) -> None:
    with pytest.raises(DataError, match=r"12 of 16 rows can't be used .*mine\.jsonl:5: \d+ tokens, but the context"):
        train(method, [RANKED] * 4 + [{**RANKED, "prompt": LONG}] * 12)


def test_dpo_the_same_object_as_reference(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that learns with the policy keeps every log-ratio at zero: it is noticed before the first step."""
    plain = loop.load_actors

    def shared(*given: Any) -> Any:
        actors = plain(*given)
        actors.reference = actors.policy
        return actors

    monkeypatch.setattr(loop, "load_actors", shared)
    with pytest.raises(RunError, match="reference stands still: the reference model moves when what learns is moved"):
        train("dpo", [RANKED] * 4)


# --- online -----------------------------------------------------------------------------------------------------------


def ppo_of(**given: Any) -> dict[str, Any]:
    return {"reward": "reward", "max_new": 8, "batch": 4, **given}


def test_online_missing_prompt_and_empty_prompt(train: Callable[..., Path]) -> None:
    for row, message in (({"question": "x"}, "no prompt"), ({"prompt": " "}, "field 'prompt' is empty")):
        with pytest.raises(DataError, match=rf"mine\.jsonl:2: {message}"):
            train("ppo", [{"prompt": "tom"}, row], **ppo_of())


def test_online_prompt_beyond_the_context(train: Callable[..., Path]) -> None:
    """The context counts prompt and answer together."""
    with pytest.raises(DataError, match=r"mine\.jsonl:2: \d+ tokens, but the context is 120"):
        train("ppo", [{"prompt": "tom"}, {"prompt": "tom " * 119}], **ppo_of())


def test_online_batch_not_divisible(train: Callable[..., Path]) -> None:
    stage = train("ppo", data="prompts.jsonl", **ppo_of(batch=7, minibatches=3, ppo_epochs=1))
    assert len(runs.read_metrics(stage)) == 3


@pytest.mark.parametrize("word", ["max_lenght", "max_seq_length", "tokenizer", "contxt"])
def test_config_typo_or_old_name(recipe: Recipe, tmp_path: Path, word: str) -> None:
    with pytest.raises(RecipeError, match=rf"unknown field '{word}'; (did you mean|allowed)"):
        pipeline.run(str(recipe({"sft": {"model": "llama", "data": "demos.jsonl", word: 3}})), runs_dir=tmp_path / "r")


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "ppo"])
def test_dataset_smaller_than_the_batch_ends(train: Callable[..., Path], method: str) -> None:
    """No endless generator: rows come again, and that is said."""
    rows = [{"prompt": f"the {w}", "answer": "tea", "chosen": "tea", "rejected": "the fish"} for w in ("cat", "dog")]
    given = ppo_of() if method == "ppo" else {}
    stage = train(method, rows, **{**given, "batch": 16, "steps": 2})
    assert {r["round"] for r in runs.read_metrics(stage)} == {0, 1}
    found = doctor_says(stage, "batch")
    assert found["level"] == "warn"
    assert "16 in one round: rows come twice in a step" in found["saw"]


def test_value_model_that_is_the_reward_model(train: Callable[..., Path], world: Path, digest: Any) -> None:
    """The value model starts from the reward model and learns; the reward model keeps every bit."""
    before = digest(world / "reward")
    stage = train("ppo", data="prompts.jsonl", **ppo_of(value="reward", value_lr=1e-2, steps=2))
    assert digest(world / "reward") == before
    assert doctor_says(stage, "reward stands still")["level"] == "ok"
    value, reward = (load_file(f / "model.safetensors") for f in (stage / "value", world / "reward"))
    assert any(not torch.equal(value[n], reward[n]) for n in reward)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_of_the_tokenizer(
    train: Callable[..., Path], world: Path, tmp_path: Path, tokenizer: Any, side: str
) -> None:
    shutil.copytree(world / "llama", tmp_path / "base")
    given = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({**given, "padding_side": side}))
    first = runs.read_metrics(train("ppo", data="prompts.jsonl", model=str(tmp_path / "base"), **ppo_of()))[0]
    assert first["kl"] == 0.0
    assert first["kl_max"] == 0.0
    assert first["sampler_gap"] < 1e-5


def test_nan_reward_model(train: Callable[..., Path], world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "reward", tmp_path / "judge")
    tensors = load_file(tmp_path / "judge" / "model.safetensors")
    tensors["score.weight"].fill_(torch.nan)
    save_file(tensors, tmp_path / "judge" / "model.safetensors", metadata={"format": "pt"})
    given = ppo_of(reward=str(tmp_path / "judge"))
    with pytest.raises(RunError, match=r"tensors of the reward hold NaN or infinity, e\.g\. score\.weight"):
        train("ppo", data="prompts.jsonl", **given)
    with pytest.raises(RunError, match=r"the reward model scored an answer to .*prompts\.jsonl:\d+ .* as nan"):
        train("ppo", data="prompts.jsonl", doctor=False, **given)


def test_the_command_line_says_each_in_one_line(
    world: Path, tmp_path: Path, write_rows: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "mine.jsonl", [{"text": "no chosen here"}])
    argv = ["train", "reward", "--model", str(world / "llama"), "--data", str(data), "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "mine.jsonl:1: no prompt" in err


# --- cut off and resumed ----------------------------------------------------------------------------------------------


@pytest.fixture
def cut_off(
    recipe: Recipe, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """(recipe, checkpoints' folder) of a stage that died at a step: `cut_off("ppo", at=9)`."""

    def run(method: str, at: int, **given: Any) -> tuple[Path, Path]:
        stage = {**small[method], "model": "llama", "checkpoint_every": 2, "keep": 2, **given}
        path = recipe({method: stage})
        plain, calls = loop.Loop._optimise, [0]

        def deadly(self: Any, batch: Any) -> dict[str, float]:
            if calls[0] == at:
                raise RuntimeError("the machine dies here")
            calls[0] += 1
            return plain(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(loop.Loop, "_optimise", deadly)
            with pytest.raises(RuntimeError, match="dies here"):
                pipeline.run(str(path), runs_dir=tmp_path / "runs")
        return path, tmp_path / "runs" / "small" / method / "checkpoints"

    return run


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in runs.read_metrics(folder)]


RESUMED = {"sft": (7, {}), "dpo": (5, {"lora_rank": 2}), "reward": (7, {}), "ppo": (13, {"reward": "reward"})}
"""Method -> the step at which it dies (PPO in the middle of a round's mini-batches) and its fields."""


@pytest.mark.parametrize("method", RESUMED)
def test_resume_is_bit_exact_inside_a_round_too(
    cut_off: Callable[..., Any], method: str, tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    at, given = RESUMED[method]
    path, _ = cut_off(method, at, **given)
    resumed = pipeline.run(str(path), runs_dir=tmp_path / "runs").folder
    whole = pipeline.run(str(path), runs_dir=tmp_path / "whole").folder
    assert digest(resumed) == digest(whole)
    assert rows_of(resumed / method) == rows_of(whole / method)


def test_a_ppo_checkpoint_holds_the_value_model_and_its_optimiser(cut_off: Callable[..., Any]) -> None:
    _, folder = cut_off("ppo", 13, reward="reward")
    names = set(load_file(sorted(folder.glob("round-*"))[-1] / "tensors.safetensors"))
    assert "weight|value.score.weight" in names
    assert {n for n in names if n.startswith("weight|policy.")}
    assert "optim|value.score.weight|exp_avg" in names
    assert {"kl_coef", "round"} == set(vars(ppo.State()))


def test_ppo_of_the_same_seed_is_the_same_twice(
    train: Callable[..., Path], digest: Callable[[Path], dict[str, str]]
) -> None:
    given = ppo_of(batch=8, minibatches=4, steps=2)
    one, two = (train("ppo", data="prompts.jsonl", where=w, **given) for w in ("one", "two"))
    assert rows_of(one) == rows_of(two)
    assert digest(one) == digest(two)


def without(folder: Path, part: str) -> None:
    """Take some tensors out of every checkpoint."""
    for file in folder.rglob("tensors.safetensors"):
        save_file({n: t.clone() for n, t in load_file(file).items() if part not in n}, file)


def test_optimiser_state_missing_is_refused(cut_off: Callable[..., Any], tmp_path: Path) -> None:
    path, folder = cut_off("sft", 7)
    without(folder, "optim|")
    with pytest.raises(RunError, match="optimiser"):
        pipeline.run(str(path), runs_dir=tmp_path / "runs")


def test_weights_missing_are_refused(cut_off: Callable[..., Any], tmp_path: Path) -> None:
    path, folder = cut_off("sft", 7)
    without(folder, "norm")
    with pytest.raises(RunError, match="holds other weights than this stage trains"):
        pipeline.run(str(path), runs_dir=tmp_path / "runs")


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_truncated_file_falls_back_to_the_checkpoint_before(
    cut_off: Callable[..., Any], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str],
    digest: Callable[[Path], dict[str, str]],
) -> None:  # fmt: skip
    path, folder = cut_off("sft", 7)
    newest = sorted(folder.glob("round-*"))[-1]
    (newest / name).write_bytes((newest / name).read_bytes()[:-20])
    resumed = pipeline.run(str(path), runs_dir=tmp_path / "runs").folder
    assert f"checkpoint {newest} can't be read" in capsys.readouterr().err
    assert digest(resumed) == digest(pipeline.run(str(path), runs_dir=tmp_path / "whole").folder)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(
    cut_off: Callable[..., Any], tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    """Refused, or fallen back from: never trained on in silence."""
    path, folder = cut_off("sft", 7)
    file = sorted(folder.glob("round-*"))[-1] / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1000] ^= 0x40
    file.write_bytes(bytes(data))
    try:
        resumed = pipeline.run(str(path), runs_dir=tmp_path / "runs").folder
    except KilterError:
        return
    assert digest(resumed) == digest(pipeline.run(str(path), runs_dir=tmp_path / "whole").folder)


def test_there_is_no_pickle_and_no_hidden_generator_to_lose(cut_off: Callable[..., Any]) -> None:
    """Torn rng and trainer states can't happen: draws are keyed, and a checkpoint is these two files."""
    _, folder = cut_off("ppo", 13, reward="reward")
    for one in folder.glob("round-*"):
        assert sorted(p.name for p in one.iterdir()) == ["state.json", "tensors.safetensors"]
        assert set(json.loads((one / "state.json").read_text())["state"]) == {"round", "kl_coef"}


# --- public formats ---------------------------------------------------------------------------------------------------


def test_the_one_command_trains_on_transcripts_and_on_a_folder(world: Path, tmp_path: Path) -> None:
    rows = [
        {"chosen": f"\n\nHuman: tom\n\nAssistant: {w}", "rejected": "\n\nHuman: tom\n\nAssistant: no"} for w in "ab"
    ]
    file = tmp_path / "set" / "harmless-base" / "train.jsonl.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in rows * 4)))
    for number, data in enumerate((file, tmp_path / "set")):
        argv = (
            f"train dpo --model {world}/llama --data {data} --out {tmp_path}/o{number} --steps 1 --batch 4 --threads 1"
        )
        assert cli.main(argv.split()) == 0
        assert (tmp_path / f"o{number}" / "dpo" / "model" / "config.json").is_file()
