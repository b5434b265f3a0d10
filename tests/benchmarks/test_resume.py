"""A benchmark that was cut off goes on: what is finished is never measured twice, what has changed always is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bench
import matrix
import pytest
from bench import Bench, Store
from matrix import Case

CASE = Case("ppo", "ppo", "tiny", "prompts", 16, 5, ("tuned",), repeats=2)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """A bench over one store whose runners are replaced by a list of what they were asked."""

    def build(failing: str = "") -> tuple[Bench, list[str]]:
        made = Bench(Store(tmp_path / "measurements.jsonl"), {n: Path(n) for n in ("kilter", "trl116", "trl112")}, 0)
        asked: list[str] = []

        def process(module: str, spec: dict[str, Any], python: Path) -> dict[str, Any]:
            asked.append(f"{module} on {python}")
            return {"failed": "out of luck"} if module == failing else {"first": {}, "seen": sorted(spec)}

        made.process = process  # type: ignore[method-assign]
        return made, asked

    return build


def test_sides_take_turns_and_a_replay_follows_its_rollouts(make: Any) -> None:
    made, asked = make()
    made.run(CASE, quick=False)
    ours, rival = "ours.train on kilter", "rival.ppo on trl112"
    assert asked == [ours, rival, "ours.replay on kilter", ours, rival]


def test_what_is_finished_is_not_measured_again(make: Any) -> None:
    make()[0].run(CASE, quick=False)
    again, asked = make()
    again.run(CASE, quick=False)
    assert asked == []
    assert {k: len(v) for k, v in again.found(CASE).items()} == {
        ("ours", ""): 2,
        ("rival", "tuned"): 2,
        ("ours", "replay tuned"): 1,
    }


def test_a_torn_last_line_is_measured_again_and_spoils_nothing(make: Any, tmp_path: Path) -> None:
    make()[0].run(CASE, quick=False)
    file = tmp_path / "measurements.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again, asked = make()
    again.run(CASE, quick=False)
    assert asked == ["rival.ppo on trl112"]
    assert make()[0].found(CASE)[("rival", "tuned")][1]["first"] == {}


def test_a_failure_is_told_not_kept_and_tried_again(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made, asked = make(failing="rival.ppo")
    made.run(CASE, quick=False)
    assert "out of luck" in capsys.readouterr().out
    assert "ours.replay on kilter" not in asked
    again, asked = make()
    again.run(CASE, quick=False)
    assert asked == ["rival.ppo on trl112", "ours.replay on kilter", "rival.ppo on trl112"]


def test_an_edited_source_is_measured_anew_on_its_side_alone(make: Any) -> None:
    make()[0].run(CASE, quick=False)
    again, asked = make()
    again.sources["ours"] = "edited"
    again.run(CASE, quick=False)
    assert asked == ["ours.train on kilter", "ours.replay on kilter", "ours.train on kilter"]


def test_a_key_changes_with_all_that_matters() -> None:
    def key(case: Case = CASE, setting: str = "tuned", repeat: int = 0, torch: str = "2", source: str = "s") -> str:
        return matrix.key(case, "rival", setting, repeat, {"torch": torch}, source)

    longer = Case("ppo", "ppo", "tiny", "prompts", 16, 6, ("tuned",), repeats=2)
    others = [key(longer), key(setting="shipped"), key(repeat=1), key(torch="3"), key(source="t")]
    assert len({key(), *others}) == 6
    assert key() == key()


def test_quick_is_one_repeat_of_the_quick_settings(make: Any) -> None:
    made, asked = make()
    made.run(Case("sft", "sft", "tiny", "demonstrations", 8, 5, ("tuned", "shipped"), quick=("tuned",)), quick=True)
    assert asked == ["ours.train on kilter", "rival.train on trl116"]


def test_measurements_see_no_network_and_no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = bench.environment("here")
    assert (found["HF_HUB_OFFLINE"], found["HF_HOME"], found["OMP_NUM_THREADS"]) == ("1", "here", "1")
    assert "PYTHONPATH" not in found
    assert "HF_TOKEN" not in found


def test_a_method_this_checkout_lacks_leaves_its_rival_unmeasured(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made, asked = make()
    made.process = lambda module, *_: asked.append(module) or {"skipped": "this checkout of kilter has no method ppo"}
    made.run(CASE, quick=False)
    assert asked == ["ours.train"]
    assert "has no method ppo" in capsys.readouterr().out
