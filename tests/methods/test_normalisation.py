"""Global normalisation: however a batch is split into micro-batches, the gradient is the same (float64, to 1e-12)."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter import config
from kilter.models.roles import load_actors, needs_of, params_of
from kilter.runs import Stage
from kilter.train.loop import accumulate, load_streams

ONLINE: dict[str, Any] = {"reward": "reward", "data": "prompts.jsonl", "max_new": 20}
GROUPED: dict[str, Any] = {"method": "grpo", **ONLINE, "batch": 3, "answers": 4}
METHODS: dict[str, dict[str, Any]] = {  # a method, and what is special about it
    "pretrain": {"model": "llama", "data": "corpus.jsonl", "row_tokens": 48, "batch": 6},
    "sft": {
        "model": "llama",
        "data": "demos.jsonl",
        "corpus": "corpus.jsonl",
        "row_tokens": 48,
        "batch": 5,
        "corpus_rows": 3,
        "corpus_coef": 0.3,
    },
    "reward": {"model": "llama", "data": "rankings.jsonl", "batch": 9, "center_coef": 0.1},
    "reward margin": {"data": "rated.jsonl", "batch": 9, "loss": "margin", "margin_scale": 0.5},
    "reward plackett-luce": {"data": "rankings.jsonl", "batch": 9, "loss": "plackett-luce"},
    "reward davidson": {"data": "rankings.jsonl", "batch": 9, "loss": "davidson", "tie": 0.7},
    "reward top1": {"data": "rankings.jsonl", "batch": 9, "loss": "top1"},
    "reward pointwise": {"data": "rated.jsonl", "batch": 9, "loss": "pointwise"},
    "reward pointwise-logistic": {"data": "rated.jsonl", "batch": 9, "loss": "pointwise-logistic"},
    "reward pool": {"data": "repeated.jsonl", "batch": 9, "pool": True},
    "reward ensemble": {"data": "rankings.jsonl", "batch": 9, "ensemble": 3, "center_coef": 0.1},
    "dpo": {"model": "llama", "data": "rankings.jsonl", "batch": 9, "label_smoothing": 0.1},
    "dpo ipo": {"data": "rankings.jsonl", "batch": 9, "loss": "ipo"},
    "dpo hinge": {"data": "rankings.jsonl", "batch": 9, "loss": "hinge", "nll_coef": 0.2},
    "dpo robust": {"data": "rankings.jsonl", "batch": 9, "loss": "robust", "label_smoothing": 0.2},
    "dpo simpo": {"data": "rankings.jsonl", "batch": 9, "loss": "simpo", "beta": 2.0},
    "dpo orpo": {"data": "rankings.jsonl", "batch": 9, "loss": "orpo"},
    "dpo ld": {"data": "rankings.jsonl", "batch": 9, "ld_alpha": 0.3},
    "dpo plackett-luce": {"data": "rankings.jsonl", "batch": 9, "loss": "plackett-luce"},
    "dpo pool": {"data": "repeated.jsonl", "batch": 9, "pool": True},
    "kto": {"data": "labels.jsonl", "batch": 9, "undesirable": 1.3},
    "cpl": {"data": "rankings.jsonl", "batch": 9, "gamma": 0.9},
    "preferred_ft": {"data": "rankings.jsonl", "batch": 9},
    "unlikelihood": {"data": "rankings.jsonl", "batch": 9},
    "ppo": {
        "model": "llama",
        "reward": "reward",
        "data": "prompts.jsonl",
        "corpus": "corpus.jsonl",
        "row_tokens": 48,
        "batch": 12,
        "corpus_rows": 3,
        "max_new": 20,
    },
    "a2c": {"method": "ppo", **ONLINE, "batch": 12, "ppo_epochs": 1, "clip_ratio": 0, "value_clip": 0},
    "reinforce": {
        "method": "ppo",
        **ONLINE,
        "batch": 12,
        "critic": "none",
        "clip_ratio": 0,
        "whiten_advantages": False,
        "kl_estimator": "k3",
    },
    "grpo": {**GROUPED, "beta": 0.3},
    "grpo-steps": {**GROUPED, "minibatches": 2, "passes": 2, "importance_cap": 2.0},
    "dr-grpo": {**GROUPED, "variant": "dr-grpo"},
    "dapo": {**GROUPED, "variant": "dapo"},
    "rloo": {**GROUPED, "method": "rloo"},
    "reinforce++": {**GROUPED, "variant": "reinforce++"},
    "online-dpo": {"method": "online_dpo", **ONLINE, "batch": 6, "answers": 3, "pairs": "all"},
    "raft": {**ONLINE, "batch": 8, "answers": 3, "minibatches": 1},
    "raft-held": {"method": "raft", **ONLINE, "batch": 8, "answers": 3, "minibatches": 1, "beta": 0.3},
}


@pytest.fixture(scope="module")
def prepared(
    world: Path, tmp_path_factory: pytest.TempPathFactory, true_float64: Callable[[Any], Any]
) -> Callable[[str], tuple[Any, Any, Any]]:
    """(method, actors, one batch) of each method in float64, moved off its start so that no term is trivial."""
    found: dict[str, tuple[Any, Any, Any]] = {}

    def prepare(name: str) -> tuple[Any, Any, Any]:
        if name not in found:
            chosen = {"model": "llama", **METHODS[name]}
            method = importlib.import_module(f"kilter.methods.{chosen.pop('method', name.split()[0])}")
            given = {k: str(world / v) if isinstance(v, str) and (world / v).exists() else v for k, v in chosen.items()}
            c = config.build(method.Config, {**given, "dtype": "float64"}, name)
            actors = load_actors(method, c, 1, name)
            for role in needs_of(method, c):
                true_float64(actors[role])
            streams = load_streams(Stage(name, tmp_path_factory.mktemp("stage"), c, 1), method, actors)
            batch = list(method.batches(actors, streams, method.State()))[-1]
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                for role in params_of(method, actors.config):
                    for p in actors[role].parameters():
                        p.add_(0.02 * torch.randn_like(p))
            found[name] = (method, actors, batch)
        return found[name]

    return prepare


def gradient(method: Any, actors: Any, micros: list[Any]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    metrics = accumulate(method, actors, micros)
    grads = {}
    for role in params_of(method, actors.config):
        for name, p in actors[role].named_parameters():
            if p.grad is not None:
                grads[f"{role}.{name}"] = p.grad
                p.grad = None
    return grads, metrics


def assert_same(method: Any, actors: Any, batch: Any, micros: list[Any]) -> None:
    whole, metrics = gradient(method, actors, [batch])
    split, again = gradient(method, actors, micros)
    assert set(whole) == set(split)
    largest = max(float(g.abs().max()) for g in whole.values())
    assert largest > 1e-4
    worst = max(float((whole[n] - split[n]).abs().max()) for n in whole)
    assert worst <= 1e-12 * max(largest, 1.0)
    for name, value in metrics.items():
        if name != "tokens":
            assert again[name] == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.integers(1, 1500))
def test_any_split_gives_the_same_gradient(
    prepared: Callable[[str], tuple[Any, Any, Any]], name: str, tokens: int
) -> None:
    method, actors, batch = prepared(name)
    assert_same(method, actors, batch, batch.split(tokens))


@pytest.mark.parametrize("name", METHODS)
def test_single_rows_and_any_order_of_micro_batches_give_the_same_gradient(
    prepared: Callable[[str], tuple[Any, Any, Any]], name: str
) -> None:
    method, actors, batch = prepared(name)
    micros = batch.split(1)
    assert len(micros) > 3
    assert_same(method, actors, batch, list(reversed(micros)))


@pytest.mark.parametrize("name", METHODS)
def test_each_term_is_its_sum_over_the_whole_batch_by_its_own_weight(
    prepared: Callable[[str], tuple[Any, Any, Any]], name: str
) -> None:
    """The loss by the formula, from the method's parts, not from the loop's."""
    method, actors, batch = prepared(name)
    _, metrics = gradient(method, actors, batch.split(100))
    terms, weights = method.loss(actors, batch).terms, method.weights(batch)
    for term, value in terms.items():
        assert metrics[term] == pytest.approx(float(value.detach()) / weights[term], abs=1e-10)
    assert metrics["loss"] == pytest.approx(sum(metrics[t] for t in terms), abs=1e-12)


def test_prompts_without_a_decided_pair_weigh_nothing(prepared: Callable[[str], tuple[Any, Any, Any]]) -> None:
    method, actors, batch = prepared("dpo")
    tied = copy.copy(batch)
    object.__setattr__(tied, "pairs", [[] for _ in batch.pairs])
    assert method.weights(tied) == {"preference": 0}
    grads, metrics = gradient(method, actors, [tied])
    assert grads == {}
    assert metrics["loss"] == 0.0
    mixed = copy.copy(batch)
    object.__setattr__(mixed, "pairs", [p if i % 2 else [] for i, p in enumerate(batch.pairs)])
    assert_same(method, actors, mixed, mixed.split(1))
