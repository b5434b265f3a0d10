"""The run directory: whole or not at all, one run at a time, nothing that is done is done again, nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilter import pipeline, runs
from kilter.errors import RunError, UserError

Recipe = Callable[..., Path]
QUICK: dict[str, dict[str, Any]] = {
    "pretrain": {
        "model": "blank",
        "scratch": True,
        "data": "corpus.jsonl",
        "row_tokens": 48,
        "steps": 4,
        "checkpoint_every": 2,
        "warmup": 1,
    },
    "sft": {"model": "pretrain", "data": "demos.jsonl", "row_tokens": 48, "steps": 2, "warmup": 1},
    "reward": {"model": "sft", "data": "rankings.jsonl", "batch": 6, "steps": 2, "warmup": 1},
}


def go(path: Path, where: Path, **given: Any) -> pipeline.Run:
    return pipeline.run(str(path), runs_dir=where, **given)


def stamps(folder: Path) -> dict[str, float]:
    """When each stage was finished."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("*/DONE")}


def test_a_finished_run_is_skipped_and_says_so(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(QUICK)
    folder = go(path, tmp_path / "runs").folder
    before = stamps(folder)
    monkeypatch.delenv("KILTER_QUIET", raising=False)
    go(path, tmp_path / "runs")
    assert stamps(folder) == before
    said = capsys.readouterr().err
    assert all(f"{stage}: done before, inputs unchanged, skipped" in said for stage in QUICK)


def test_one_changed_setting_redoes_that_stage_and_what_depends_on_it(
    recipe: Recipe, tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    stages = {**QUICK, "dpo": {"model": "sft", "data": "rankings.jsonl", "batch": 4, "steps": 2}}
    folder = go(recipe(stages), tmp_path / "runs").folder
    before, old = stamps(folder), digest(folder / "reward")
    changed = {**stages, "reward": {**stages["reward"], "lr": 1e-3}}
    go(recipe(changed), tmp_path / "runs")
    after = stamps(folder)
    assert {s for s in after if after[s] != before[s]} == {"reward"}
    assert digest(folder / ".superseded" / "reward-1") == old  # kept, not overwritten
    assert digest(folder / "reward") != old
    changed = {**changed, "sft": {**stages["sft"], "steps": 3}}
    go(recipe(changed), tmp_path / "runs")
    last = stamps(folder)
    assert {s for s in last if last[s] != after[s]} == {"sft", "reward", "dpo"}
    assert sorted(p.name for p in (folder / ".superseded").iterdir()) == ["dpo-1", "reward-1", "reward-2", "sft-1"]


@pytest.mark.parametrize("change", [{"seed": 2}, {"threads": 2}])
def test_another_seed_or_thread_count_redoes_everything(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # the other tests go on with theirs
    path = recipe({"pretrain": QUICK["pretrain"]})
    folder = go(path, tmp_path / "runs", name="one").folder
    before = stamps(folder)
    go(path, tmp_path / "runs", name="one", set=change)
    assert stamps(folder) != before
    assert (folder / ".superseded" / "pretrain-1" / "DONE").is_file()


def test_changed_rows_redo_their_stage(recipe: Recipe, tmp_path: Path, world: Path) -> None:
    shutil.copy(world / "demos.jsonl", tmp_path / "mine.jsonl")
    stages = {"pretrain": QUICK["pretrain"], "sft": {**QUICK["sft"], "data": str(tmp_path / "mine.jsonl")}}
    folder = go(recipe(stages), tmp_path / "runs").folder
    before = stamps(folder)
    with open(tmp_path / "mine.jsonl", "a") as out:
        out.write('{"prompt": "new", "answer": "row"}\n')
    go(recipe(stages), tmp_path / "runs")
    assert {s for s, t in stamps(folder).items() if t != before[s]} == {"sft"}


def test_a_variant_reuses_what_it_shares_with_its_sibling(
    recipe: Recipe, tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    path = recipe(QUICK)
    first = go(path, tmp_path / "runs").folder
    second = go(path, tmp_path / "runs", set={"reward.steps": 3}).folder
    assert second.name == "small-reward.steps=3"
    for stage in ("pretrain", "sft"):
        assert (second / stage / "model" / "model.safetensors").samefile(first / stage / "model" / "model.safetensors")
    assert digest(second / "reward") != digest(first / "reward")
    shutil.rmtree(first)  # hard links: the sibling stands alone
    before = stamps(second)
    go(path, tmp_path / "runs", set={"reward.steps": 3})
    assert stamps(second) == before


def test_from_redoes_and_until_stops(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(QUICK)
    folder = go(path, tmp_path / "runs", until="sft").folder
    before = stamps(folder)
    assert set(before) == {"pretrain", "sft"}
    go(path, tmp_path / "runs", from_stage="sft", until="sft")
    assert {s for s, t in stamps(folder).items() if t != before[s]} == {"sft"}
    with pytest.raises(UserError, match=r"no stage 'stf'; did you mean 'sft'\?"):
        go(path, tmp_path / "runs", until="stf")


def test_a_recipe_finds_its_data_beside_itself_from_any_folder(
    recipe: Recipe, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(world / "corpus.jsonl", tmp_path / "mine.jsonl")
    path = recipe({"pretrain": {**QUICK["pretrain"], "data": "mine.jsonl"}})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert stamps(go(path, tmp_path / "runs").folder).keys() == {"pretrain"}


def test_a_second_run_in_one_directory_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kilter import runs\n"
        "with runs.Lock(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    source = str(Path(runs.__file__).parent.parent)
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(RunError, match=rf"in use by another kilter run \(process {holder.pid}\); wait for it, stop it"),
        runs.Lock(tmp_path),
    ):
        pass
    holder.kill()  # the kernel lets go, however the process died
    holder.wait()
    with runs.Lock(tmp_path):
        pass


def test_a_place_that_can_not_be_written_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write to .*choose another place with --runs"):
        go(recipe(QUICK), tmp_path / "file")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("mounting needs root")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"can't mount: {done.stderr.strip()}")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_disk_is_refused(recipe: Recipe, mounted: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"can't write to .* \(Read-only file system\)"):
        go(recipe(QUICK), mounted("size=1m,ro") / "runs")


def test_a_full_disk_stops_clearly_and_the_run_goes_on_when_there_is_space(
    recipe: Recipe, mounted: Callable[[str], Path], tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    disk, path = mounted("size=3m"), recipe({"pretrain": QUICK["pretrain"]})
    filler = disk / "filler"
    filler.write_bytes(b"x" * 2_000_000)  # no room for a checkpoint: noticed before one is begun
    with pytest.raises(
        RunError, match=r"a checkpoint needs .* MB are free; free some space and run the same command again"
    ):
        go(path, disk / "runs")
    roomy = {"pretrain": {**QUICK["pretrain"], "checkpoint_every": 100}}  # now none is due before the final folder
    filler.write_bytes(b"x" * 3_050_000)
    with pytest.raises(RunError, match=r"disk is full .* stage pretrain .* run the same command again"):
        go(recipe(roomy), disk / "runs")
    filler.unlink()
    assert digest(go(path, disk / "runs").folder) == digest(go(path, tmp_path / "roomy").folder)


@pytest.mark.parametrize("kib", [150, *(pytest.param(k, marks=pytest.mark.slow) for k in (8, 60))])
def test_a_write_that_fails_in_the_middle_is_said_clearly_and_nothing_is_lost(
    recipe: Recipe, tmp_path: Path, kib: int, digest: Callable[[Path], dict[str, str]]
) -> None:
    """A limit on file size makes the kernel refuse a write halfway, as a quota does, wherever it then strikes."""
    path, where = recipe({"pretrain": QUICK["pretrain"]}), tmp_path / "runs"
    code = (
        "import resource, signal, sys; from kilter import pipeline; from kilter.errors import KilterError\n"
        "import kilter.train.loop\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kib * 1024}, {kib * 1024}))\n"
        "try:\n    pipeline.run(sys.argv[1], runs_dir=sys.argv[2])\n"
        "except KilterError as error:\n    print(error); sys.exit(error.exit_code)"
    )
    source = str(Path(runs.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(where)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "disk is full" in done.stdout
    assert "run the same command again" in done.stdout
    assert not list((where / "small" / "pretrain").rglob(".round-*.partial"))
    assert digest(go(path, where).folder) == digest(go(path, tmp_path / "whole").folder)


def test_errors_of_a_full_disk_are_known_in_every_library_s_words() -> None:
    from safetensors import SafetensorError

    assert runs.disk_full(OSError(errno.ENOSPC, "x"))
    assert runs.disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not runs.disk_full(OSError(errno.EACCES, "x"))
    assert not runs.disk_full(ValueError("os error 2)"))


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.5], "z": "茶"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": None, "y": [None, 1.5], "z": "茶"}
    with pytest.raises(ZeroDivisionError), runs.whole_folder(tmp_path / "out") as folder:
        (folder / "half").write_text(str(1 / 0))
    assert not (tmp_path / "out").exists()
    with runs.whole_folder(tmp_path / "out") as folder:
        assert not (folder / "half").exists()
        (folder / "whole").write_text("x")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole"]


def test_a_torn_last_line_is_forgotten(tmp_path: Path) -> None:
    stage = runs.Stage("s", tmp_path, None, 1)
    stage.append("metrics", [{"step": i, "note": "茶"} for i in range(4)])
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    for cut in range(1, 20):  # also in the middle of a character
        (tmp_path / "metrics.jsonl").write_bytes(whole[:-cut])
        assert [r["step"] for r in runs.read_metrics(tmp_path)][:3] == [0, 1, 2]
        stage.trim("metrics", 2)
        assert [r["step"] for r in runs.read_metrics(tmp_path)] == [0, 1]


def test_an_edited_source_is_a_new_key(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("from kilter.methods import objectives\n")
    first = runs.source_hash(mine)
    assert runs.source_hash(mine) == first
    mine.write_text("from kilter.methods import objectives\n\nx = 1\n")
    os.utime(mine, ns=(1, 1))
    assert runs.source_hash(mine) != first


def test_source_hashes_reach_everything_that_computes_a_stage() -> None:
    seen: set[Path] = set()
    queue = [Path(runs.PACKAGE / "train" / "loop.py"), Path(runs.PACKAGE / "methods" / "ppo.py")]
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue += runs._imports(path, path.stat().st_mtime_ns)
    names = {str(p.relative_to(runs.PACKAGE)) for p in seen}
    assert {
        "methods/objectives.py",
        "models/sample.py",
        "models/logprobs.py",
        "train/optim.py",
        "data/render.py",
        "models/lora.py",
        "methods/rollout.py",
        "data/judgments.py",
        "data/batches.py",
    } <= names
    assert not {"__init__.py", "cli.py", "report.py", "pipeline.py"} & names  # an edited page retrains nothing
