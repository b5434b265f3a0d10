"""The verdict's own arithmetic, without a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kilter.evaluate.verdict import Config, _proxy

PATHS = {"prompts": "p", "unsafe": "u", "lookalike": "l", "corpus": "c"}


def test_bars_name_models_of_the_verdict() -> None:
    Config(models={"sft": "s", "dpo": "d"}, bars=("dpo",), **PATHS)
    with pytest.raises(ValueError, match="bars names 'dpoo', which is not among the models"):
        Config(models={"sft": "s", "dpo": "d"}, bars=("dpoo",), **PATHS)


def test_the_reward_model_s_own_score_is_centred_and_scaled_as_in_training(
    tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    (tmp_path / "kilter.json").write_text(json.dumps({"reward_mean": 0.5, "reward_std": 2.0}))
    config = Config(models={"sft": "s"}, reward=str(tmp_path), **PATHS)
    reward = make_model("llama", "reward", seed=1)
    ids = [([5, 6, 7], [8, 9]), ([5, 6], [10])]
    with torch.no_grad():
        raw = [float(reward(torch.tensor([p + a])).logits[0, 0]) for p, a in ids]
    found = _proxy(config, "sft", reward, SimpleNamespace(ids=ids))["proxy"]
    assert found["mean"] == pytest.approx((sum(raw) / 2 - 0.5) / 2.0, abs=1e-5)
    assert found["n"] == 2
    assert _proxy(config, "base", reward, SimpleNamespace(ids=ids)) == {}  # it was asked in another form
    assert _proxy(config, "sft", None, SimpleNamespace(ids=ids)) == {}
