"""The methods that learn from their own answers: each against its formula, in loops over the model's own numbers."""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kilter import config, pipeline
from kilter.errors import DataError, RecipeError, RunError
from kilter.methods import grpo, rollout
from kilter.methods.rollout import roll_out
from kilter.models.roles import load_actors, needs_of, params_of
from kilter.runs import Stage
from kilter.train.loop import Loop, accumulate, load_streams

BASE: dict[str, Any] = {"model": "llama", "reward": "reward", "data": "prompts.jsonl", "max_new": 10}
TEA = "def tea(prompts, answers):\n    return [sum(c in 'tea' for c in a) / 10 for a in answers]\n"
"""A toy reward: letters of one word."""


@pytest.fixture
def begin(world: Path, tmp_path: Path) -> Callable[..., tuple[Any, Any, Any]]:
    """(method, actors, streams) of a stage about to begin."""

    def make(name: str, **given: Any) -> tuple[Any, Any, Any]:
        method = importlib.import_module(f"kilter.methods.{name}")
        values = {
            k: str(world / v) if isinstance(v, str) and (world / v).exists() else v
            for k, v in {**BASE, **given}.items()
        }
        c = config.build(method.Config, values, name)
        actors = load_actors(method, c, 1, name)
        return method, actors, load_streams(Stage(name, tmp_path, c, 1), method, actors)

    return make


def drifted(actors: Any, size: float = 0.05, seed: int = 1) -> None:
    """Move the policy off its reference."""
    with torch.no_grad():
        for p in actors.policy.parameters():
            p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=p.dtype))


def token_logps(model: Any, sequence: list[int], start: int) -> list[float]:
    """log p of each answer token by the model's own forward, one row at a time."""
    with torch.no_grad():
        logps = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
    return [float(logps[t - 1, sequence[t]]) for t in range(start, len(sequence))]


def score_of(actors: Any, sequence: list[int]) -> float:
    c = actors.config
    with torch.no_grad():
        score = float(actors.reward(torch.tensor([sequence])).logits[0, 0])
    score = min(max(score, -c.reward_clip), c.reward_clip) if c.reward_clip else score
    return score - (0.0 if sequence[-1] == actors.tokenizer.eos_token_id else c.eos_penalty)


# --- group policy gradients -------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"beta": 0.3},
    "dr-grpo": {},
    "dapo": {},
    "rloo": {"beta": 0.2},
    "reinforce++": {"beta": 0.2},
}


def by_hand(variant: str, actors: Any, batch: Any, beta: float) -> float:
    """The loss of one on-policy step from the papers' formulas, answer by answer and token by token."""
    c = actors.config
    rows = []
    for sequence, start, where in zip(batch.sequences, batch.starts, batch.wheres, strict=True):
        ours = token_logps(actors.policy, sequence, start)
        ref = token_logps(actors.reference, sequence, start) if actors.reference is not None else ours
        reward = score_of(actors, sequence)
        if variant == "dapo":  # soft overlong punishment over the last fifth of max_new
            length = len(ours) - (sequence[-1] == actors.tokenizer.eos_token_id)
            reward -= min(max((length - 0.8 * c.max_new) / (0.2 * c.max_new), 0.0), 1.0)
        if variant == "rloo":
            reward -= beta * sum(o - r for o, r in zip(ours, ref, strict=True))
        rows.append((where, tuple(sequence[:start]), reward, ours, ref))
    losses, tokens = [], sum(len(row[3]) for row in rows)
    advantages = []
    for where, prompt, reward, ours, ref in rows:
        group = [r for w, p, r, *_ in rows if (w, p) == (where, prompt)]
        assert len(group) == c.answers
        if variant == "rloo":
            a = reward - (sum(group) - reward) / (len(group) - 1)
        elif variant == "reinforce++":
            a = reward
        else:
            a = reward - statistics.fmean(group)
        if variant in ("grpo", "dapo"):
            a /= statistics.stdev(group) + 1e-4
        drift = [o - r for o, r in zip(ours, ref, strict=True)]
        advantages.append([a - (beta * sum(drift[t:]) if variant == "reinforce++" else 0.0) for t in range(len(ours))])
    if variant == "reinforce++":
        flat = [a for row in advantages for a in row]
        mean, std = statistics.fmean(flat), statistics.pstdev(flat)
        advantages = [[(a - mean) / std for a in row] for row in advantages]
    for (_, _, _, ours, ref), a in zip(rows, advantages, strict=True):
        d = [r - o for o, r in zip(ours, ref, strict=True)]
        k3 = [float(torch.tensor(x, dtype=torch.float64).exp()) - 1 - x for x in d]
        per_token = [-x + (beta * k if variant == "grpo" else 0.0) for x, k in zip(a, k3, strict=True)]
        divide = {"grpo": len(ours), "dr-grpo": c.max_new}.get(variant, 1)
        losses.append(sum(per_token) / divide)
    return sum(losses) / (tokens if variant in ("dapo", "reinforce++") else len(rows))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_by_its_formula(begin: Callable[..., Any], variant: str) -> None:
    given = {"batch": 4, "answers": 3, "dtype": "float64", **VARIANTS[variant]}
    method, actors, streams = begin("grpo", variant=variant, **given)
    drifted(actors)
    state = method.State(round=3)
    batch = next(method.batches(actors, streams, state))
    metrics = accumulate(method, actors, batch.split(60))
    assert metrics["loss"] == pytest.approx(by_hand(variant, actors, batch, given.get("beta", 0.0)), abs=1e-5)
    assert metrics["ratio_gap"] == 0.0
    assert metrics["sampler_gap"] < 1e-5
    assert state.drawn == 4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("given", [{}, {"minibatches": 2, "passes": 2}, {"lora_rank": 2, "micro_tokens": 60}])
def test_the_first_ratio_is_exactly_one_and_the_first_drift_zero(
    begin: Callable[..., Any], variant: str, given: dict[str, Any]
) -> None:
    method, actors, streams = begin("grpo", variant=variant, batch=4, answers=4, **{"beta": 0.1, **given})
    batches = list(method.batches(actors, streams, method.State()))
    assert len(batches) == (4 if "passes" in given else 1)
    for batch in batches:
        metrics = accumulate(method, actors, batch.split(actors.config.micro_tokens))
        assert metrics["ratio_gap"] == 0.0
        assert metrics["kl"] == 0.0


def test_a_round_of_one_step_takes_no_old_log_probs_and_still_has_the_gradient(begin: Callable[..., Any]) -> None:
    """One step a round: ρ against the detached log-probs has ratio one and, at the old weights, the same gradient."""
    one, two = {}, {}
    for found, given in ((one, {}), (two, {"passes": 2})):
        method, actors, streams = begin("grpo", batch=4, answers=3, beta=0.0, dtype="float64", **given)
        assert actors.reference is None
        batch = next(method.batches(actors, streams, method.State(round=2)))
        assert ("old" in batch.columns) == bool(given)
        accumulate(method, actors, [batch])
        found |= {n: p.grad for n, p in actors.policy.named_parameters()}
    assert max(float(g.abs().max()) for g in one.values()) > 1e-4
    assert all(torch.allclose(one[n], two[n], atol=1e-12) for n in one)


def test_a_tampered_reference_is_refused(begin: Callable[..., Any]) -> None:
    for name, given in (("grpo", {}), ("online_dpo", {}), ("rloo", {})):
        method, actors, streams = begin(name, batch=4, **given)
        with torch.no_grad():
            next(actors.reference.parameters()).mul_(1.0001)
        with pytest.raises(RunError, match="before the first step the policy differs"):
            next(method.batches(actors, streams, method.State()))


def test_groups_of_equal_rewards_are_counted_and_teach_nothing(begin: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "even.py").write_text(
        "def even(prompts, answers):\n"
        "    loud = [len(p[-1]['content']) % 2 for p in prompts]\n"
        "    return [a.count('a') if l else 1.0 for a, l in zip(answers, loud)]\n"
    )
    common = {"reward": f"{tmp_path / 'even.py'}:even", "eos_penalty": 0.0, "batch": 8, "answers": 4, "beta": 0.0}
    method, actors, streams = begin("grpo", **common)
    batch = next(method.batches(actors, streams, method.State()))
    columns = batch.columns
    quiet = [i for i in range(len(batch.sequences)) if not columns["advantages"][i].any()]
    assert batch.metrics["silent_groups"] * 4 == len(quiet)
    assert 0 < len(quiet) < 32

    method, actors, streams = begin("grpo", dynamic=True, refills=5, **common)
    state = method.State()
    batch = next(method.batches(actors, streams, state))
    heard = dict.fromkeys(batch.wheres, False)
    for where, advantages in zip(batch.wheres, batch.columns["advantages"], strict=True):
        heard[where] |= bool(advantages.any())
    assert len(heard) == 8
    assert all(heard.values())
    assert len(batch.sequences) == 32
    assert state.drawn == 8 + batch.metrics["silent_groups"] > 8


def test_dynamic_sampling_gives_up_after_its_refills(begin: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def one(prompts, answers):\n    return [1.0 for _ in answers]\n")
    given = {"reward": f"{tmp_path / 'one.py'}:one", "eos_penalty": 0.0, "overlong": 0.0, "batch": 3, "answers": 2}
    method, actors, streams = begin("grpo", variant="dapo", refills=2, **given)
    state = method.State(round=1)
    batch = next(method.batches(actors, streams, state))
    assert (state.drawn, batch.metrics["silent_groups"], len(batch.sequences)) == (9, 9.0, 6)
    assert not batch.columns["advantages"].any()


def test_importance_weights_reach_the_loss(begin: Callable[..., Any]) -> None:
    method, actors, streams = begin("grpo", batch=3, answers=2, beta=0.0, importance_cap=1.5, dtype="float64")
    batch = next(method.batches(actors, streams, method.State(round=1)))
    plain = accumulate(method, actors, [batch])
    assert plain["importance"] == pytest.approx(1.0, abs=1e-5)
    batch.columns["sampled"] -= 10.0 * batch.columns["mask"]  # a sampler that thought every token unlikely
    capped = accumulate(method, actors, [batch])
    assert capped["importance"] == pytest.approx(1.5)
    assert capped["policy"] == pytest.approx(1.5 * plain["policy"], abs=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"answers": 1}, "a group needs at least 2"),
        ({"kl_estimator": "k1"}, "k1 in the loss has no gradient"),
        ({"kl_in": "token-reward"}, "would mix their units"),
        ({"overlong": 1.0}, "must be a share"),
        ({"clip_low": -0.1}, "clip_low is -0.1"),
        ({"answers": 0}, "answers is 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    begin: Callable[..., Any], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        begin("grpo", **given)


def test_one_answer_is_enough_without_a_group_baseline(begin: Callable[..., Any]) -> None:
    method, actors, streams = begin("grpo", variant="reinforce++", answers=1, batch=4)
    assert len(next(method.batches(actors, streams, method.State())).sequences) == 4


def test_only_the_models_that_are_needed_are_loaded(begin: Callable[..., Any]) -> None:
    assert begin("grpo", beta=0.0)[1].reference is None
    assert begin("grpo")[1].reference is not None
    assert begin("grpo", beta=0.0, heldout="heldout.jsonl")[1].reference is not None
    assert begin("raft")[1].reference is None
    assert begin("raft", beta=0.1)[1].reference is not None
    method, actors, _ = begin("ppo", critic="none")
    assert actors.value is None
    assert list(params_of(method, actors.config)) == ["policy"]
    assert "value" not in needs_of(method, actors.config)
    assert grpo.chosen(begin("rloo")[1].config).baseline == "leave-one-out"


# --- PPO and its relatives --------------------------------------------------------------------------------------------


def test_reinforce_by_hand(begin: Callable[..., Any]) -> None:
    """Rewards still to come, discounted, less the round's mean of them (or nothing)."""
    common = {
        "batch": 6,
        "critic": "none",
        "whiten_advantages": False,
        "clip_ratio": 0,
        "gamma": 0.9,
        "dtype": "float64",
    }
    for baseline in ("mean", "none"):
        method, actors, streams = begin("ppo", baseline=baseline, ppo_epochs=1, minibatches=1, kl_coef=0.4, **common)
        drifted(actors)
        (batch,) = method.batches(actors, streams, method.State(round=2))
        rows = batch.answers
        wanted = []
        for sequence, start in zip(rows.sequences, rows.starts, strict=True):
            ours, ref = (token_logps(m, sequence, start) for m in (actors.policy, actors.reference))
            rewards = [-0.4 * (o - r) for o, r in zip(ours, ref, strict=True)]
            rewards[-1] += score_of(actors, sequence)
            wanted.append(
                [sum(0.9 ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]
            )
        mean = statistics.fmean(a for row in wanted for a in row) if baseline == "mean" else 0.0
        for i, row in enumerate(wanted):
            assert rows.advantages_BR[i, : len(row)].tolist() == pytest.approx([a - mean for a in row], abs=1e-5)
        metrics = accumulate(method, actors, batch.split(50))
        tokens = sum(map(len, wanted))
        assert metrics["policy"] == pytest.approx(-sum(a - mean for row in wanted for a in row) / tokens, abs=1e-5)
        assert "value" not in metrics


def test_a2c_takes_the_plain_policy_gradient(begin: Callable[..., Any]) -> None:
    """One unclipped step a round: the gradient is that of -Σ A log π / tokens, written out."""
    method, actors, streams = begin(
        "ppo", batch=5, ppo_epochs=1, minibatches=1, clip_ratio=0, value_clip=0, dtype="float64"
    )
    (batch,) = method.batches(actors, streams, method.State())
    metrics = accumulate(method, actors, [batch])
    found = {n: p.grad.clone() for n, p in actors.policy.named_parameters()}
    actors.policy.zero_grad()
    rows, total = batch.answers, 0.0
    for i, (sequence, start) in enumerate(zip(rows.sequences, rows.starts, strict=True)):
        logps = actors.policy(torch.tensor([sequence])).logits[0].log_softmax(-1)
        for t in range(start, len(sequence)):
            total = total - rows.advantages_BR[i, t - start] * logps[t - 1, sequence[t]]
    (total / rows.answer_tokens).backward()
    worst = max(float((found[n] - p.grad).abs().max()) for n, p in actors.policy.named_parameters())
    assert worst < 1e-9
    assert max(float(g.abs().max()) for g in found.values()) > 1e-3
    errors = []
    for i, (sequence, start) in enumerate(zip(rows.sequences, rows.starts, strict=True)):
        values = actors.value(torch.tensor([sequence])).logits[0, start - 1 : -1, 0].tolist()
        errors += [0.5 * (v - float(rows.returns_BR[i, t])) ** 2 for t, v in enumerate(values)]
    assert metrics["value"] == pytest.approx(sum(errors) / len(errors), abs=1e-9)


def test_an_update_stops_early_once_the_policy_has_moved(begin: Callable[..., Any]) -> None:
    given = {"batch": 8, "ppo_epochs": 3, "minibatches": 2, "kl_stop": 0.01}
    method, actors, streams = begin("ppo", **given)
    assert len(list(method.batches(actors, streams, method.State()))) == 6  # nothing moves, the KL stays exactly 0
    round_ = method.batches(actors, streams, method.State())
    next(round_)
    assert next(round_).metrics == {"approx_kl": 0.0}
    before = {n: p.detach().clone() for n, p in actors.policy.named_parameters()}
    drifted(actors, 0.002)
    third = next(round_)
    assert 0 < third.metrics["approx_kl"] < 0.01
    new = [token_logps(actors.policy, s, b) for s, b in zip(third.answers.sequences, third.answers.starts, strict=True)]
    with torch.no_grad():
        for n, p in actors.policy.named_parameters():
            p.copy_(before[n])
    old = [token_logps(actors.policy, s, b) for s, b in zip(third.answers.sequences, third.answers.starts, strict=True)]
    gaps = [n - o for rows in zip(new, old, strict=True) for n, o in zip(*rows, strict=True)]
    k3 = statistics.fmean(float(torch.tensor(g).exp()) - 1 - g for g in gaps)
    assert third.metrics["approx_kl"] == pytest.approx(k3, rel=1e-3)
    drifted(actors, 0.3)
    with pytest.raises(StopIteration):
        next(round_)


def test_the_value_model_can_start_from_the_policy(begin: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    (tmp_path / "tea.py").write_text(TEA)
    for given in ({"value": "policy"}, {"reward": f"{tmp_path / 'tea.py'}:tea"}):
        _, actors, _ = begin("ppo", **given)
        assert torch.equal(actors.value.get_input_embeddings().weight, actors.policy.get_input_embeddings().weight)
        assert not actors.value.score.weight.any()
    assert begin("ppo", reward=f"{tmp_path / 'tea.py'}:tea")[1].reward is None


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_penalty_takes_the_estimator_that_was_asked_for(begin: Callable[..., Any], kind: str) -> None:
    given = {"batch": 4, "kl_estimator": kind, "kl_coef": 0.7, "minibatches": 1, "lam": 1.0, "whiten_advantages": False}
    method, actors, streams = begin("ppo", dtype="float64", **given)
    drifted(actors)
    batch = next(method.batches(actors, streams, method.State(round=1)))
    rows = batch.answers
    for i, (sequence, start) in enumerate(zip(rows.sequences, rows.starts, strict=True)):
        ours, ref = (torch.tensor(token_logps(m, sequence, start)) for m in (actors.policy, actors.reference))
        d = ours - ref
        paid = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[kind]
        wanted = score_of(actors, sequence) - 0.7 * float(paid.sum())
        assert float(rows.returns_BR[i, 0]) == pytest.approx(wanted, abs=1e-4)
    drift = rows.old_logps_BR - rows.ref_logps_BR
    assert batch.metrics["kl_k2"] == pytest.approx(float((drift**2 / 2).sum()) / 4, abs=1e-9)
    assert batch.metrics["kl_k3"] == pytest.approx(float(((-drift).exp() - 1 + drift).sum()) / 4, abs=1e-9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"critic": "none", "baseline": "none"}, "whitening subtracts the mean"),
        ({"critic": "none", "value": "policy"}, "critic is none"),
        ({"kl_stop": -1.0}, "kl_stop is -1.0"),
        ({"eval_every": 0}, "eval_every is 0"),
    ],
)
def test_settings_of_ppo_that_do_not_go_together_are_refused(
    begin: Callable[..., Any], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        begin("ppo", **given)


def test_equal_rewards_of_a_function_are_said_and_change_nothing(
    begin: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.py").write_text("def one(prompts, answers):\n    return [2.0 for _ in answers]\n")
    given = {"reward": f"{tmp_path / 'one.py'}:one", "eos_penalty": 0.0, "batch": 4, "critic": "none"}
    method, actors, streams = begin("ppo", **given)
    batch = next(method.batches(actors, streams, method.State()))
    assert "every answer of the first round got the same score (2 before clipping)" in capsys.readouterr().err
    assert not batch.answers.advantages_BR.any()


# --- online DPO and RAFT ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["extremes", "all"])
def test_online_dpo_orders_its_answers_by_reward(begin: Callable[..., Any], which: str) -> None:
    method, actors, streams = begin("online_dpo", batch=5, answers=4, pairs=which, dtype="float64", beta=0.2)
    drifted(actors)
    batch = next(method.batches(actors, streams, method.State(round=1)))
    scores = [score_of(actors, s) for s in batch.sequences]
    gains = []
    for sequence, start in zip(batch.sequences, batch.starts, strict=True):
        ours, ref = (sum(token_logps(m, sequence, start)) for m in (actors.policy, actors.reference))
        gains.append(ours - ref)
    total = 0.0
    for pairs in batch.pairs:
        assert len(pairs) == (6 if which == "all" else 1)
        for p in pairs:
            assert scores[p.better] > scores[p.worse]
            margin = torch.tensor(0.2 * (gains[p.better] - gains[p.worse]), dtype=torch.float64)
            total -= p.weight * float(torch.nn.functional.logsigmoid(margin))
    assert accumulate(method, actors, batch.split(60))["loss"] == pytest.approx(total / 5, abs=1e-5)
    drawn = [s["reward"] for s in batch.samples]
    assert len(drawn) == 20
    if which == "extremes":
        assert max(scores) == pytest.approx(max(score_of(actors, s) for s in batch.sequences))


def test_online_dpo_starts_at_its_reference(begin: Callable[..., Any]) -> None:
    method, actors, streams = begin("online_dpo", batch=4, answers=3, minibatches=2, micro_tokens=60)
    for batch in method.batches(actors, streams, method.State()):
        metrics = accumulate(method, actors, batch.split(60))
        assert metrics["gain_better"] == metrics["gain_worse"] == 0.0


def test_raft_imitates_the_best_answer_of_each_prompt(begin: Callable[..., Any]) -> None:
    method, actors, streams = begin("raft", batch=4, answers=3, minibatches=1, dtype="float64")
    batch = next(method.batches(actors, streams, method.State()))
    assert len(batch.sequences) == 4
    kept = {tuple(s[:b]): score_of(actors, s) for s, b in zip(batch.sequences, batch.starts, strict=True)}
    raw: dict[str, list[float]] = {}
    for sample in batch.samples:
        cut_off = 0.0 if sample["finished"] else 1.0
        raw.setdefault(sample["prompt"]["messages"][-1]["content"], []).append(sample["reward"] - cut_off)
    assert sorted(kept.values()) == pytest.approx(sorted(max(r) for r in raw.values()), abs=1e-5)
    logps = [token_logps(actors.policy, s, b) for s, b in zip(batch.sequences, batch.starts, strict=True)]
    wanted = -sum(map(sum, logps)) / sum(map(len, logps))
    assert accumulate(method, actors, batch.split(40))["nll"] == pytest.approx(wanted, abs=1e-9)
    assert batch.metrics["reward_kept"] > batch.metrics["reward"]


def test_raft_counts_drift_against_an_answer(begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def kept(*args: Any, **given: Any) -> Any:
        drawn.append(roll_out(*args, **given))
        return drawn[-1]

    monkeypatch.setattr(rollout, "roll_out", kept)
    method, actors, streams = begin("raft", batch=6, answers=4, minibatches=1, dtype="float64", beta=2.0)
    assert next(method.batches(actors, streams, method.State())).metrics["kl_max"] == 0.0
    drifted(actors)
    batch = next(method.batches(actors, streams, method.State(round=1)))
    groups = [[drawn[1].sequences[i] for i in rows] for rows in drawn[1].group(4).tolist()]
    starts = {tuple(s): start for s, start in zip(drawn[1].sequences, drawn[1].starts, strict=True)}

    def drift(sequence: list[int]) -> float:
        ours, ref = (token_logps(m, sequence, starts[tuple(sequence)]) for m in (actors.policy, actors.reference))
        return sum(ours) - sum(ref)

    best = [max(group, key=lambda s: score_of(actors, s) - 2.0 * drift(s)) for group in groups]
    assert sorted(batch.sequences) == sorted(best)
    assert sorted(best) != sorted(max(group, key=lambda s: score_of(actors, s)) for group in groups)
    assert batch.metrics["kl"] == pytest.approx(statistics.fmean(map(drift, drawn[1].sequences)), abs=1e-9)


# --- learning, keeping the best, going on -----------------------------------------------------------------------------

TOY: dict[str, dict[str, Any]] = {
    "reinforce": {
        "method": "ppo",
        "critic": "none",
        "whiten_advantages": False,
        "clip_ratio": 0,
        "ppo_epochs": 1,
        "minibatches": 1,
        "batch": 48,
        "kl_coef": 0.01,
        "lr": 2e-2,
    },
    "a2c": {
        "method": "ppo",
        "clip_ratio": 0,
        "value_clip": 0,
        "ppo_epochs": 1,
        "minibatches": 1,
        "batch": 48,
        "kl_coef": 0.01,
        "lr": 2e-2,
        "value_lr": 1e-2,
    },
    "ppo": {"batch": 48, "kl_coef": 0.01, "lr": 2e-2, "value_lr": 1e-2, "kl_stop": 0.1},
    "grpo": {"batch": 8, "answers": 6, "lr": 2e-2, "beta": 0.01},
    "dapo": {"method": "grpo", "variant": "dapo", "batch": 8, "answers": 6, "lr": 2e-2},
    "rloo": {"batch": 8, "answers": 6, "lr": 2e-2, "beta": 0.01},
    "reinforce++": {"method": "grpo", "variant": "reinforce++", "batch": 8, "answers": 6, "lr": 2e-2},
    "online-dpo": {"batch": 12, "answers": 4, "lr": 2e-2},
    "raft": {"batch": 12, "answers": 4, "lr": 2e-2},
}


@pytest.fixture
def toy(recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A recipe of one toy stage."""
    (tmp_path / "tea.py").write_text(TEA)

    def write(name: str, **given: Any) -> Path:
        stage = {**BASE, "method": name, **TOY[name], "reward": "tea.py:tea", "eos_penalty": 0.0, **given}
        return recipe({"toy": stage}, file=f"{name}.yaml")

    return write


@pytest.mark.parametrize("name", TOY)
def test_every_method_raises_a_toy_reward_in_a_few_rounds(toy: Callable[..., Path], tmp_path: Path, name: str) -> None:
    run = pipeline.run(str(toy(name, steps=16)), runs_dir=str(tmp_path / "runs")).folder / "toy"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "reward" in row]
    first, last = statistics.fmean(rewards[:2]), statistics.fmean(rewards[-2:])
    assert last > first + 1.0


def evals(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]


def test_held_out_prompts_are_answered_at_intervals_and_the_best_is_kept(
    toy: Callable[..., Path], tmp_path: Path, digest: Any
) -> None:
    from kilter.models.load import load

    path = toy("grpo", steps=7, heldout="heldout.jsonl", eval_every=2, beta=0.05)
    folder = pipeline.run(str(path), runs_dir=str(tmp_path / "runs")).folder / "toy"
    rows = evals(folder)
    assert [(r["step"], r["round"]) for r in rows] == [(0, 0), (2, 2), (4, 4), (6, 6), (7, 7)]
    assert (rows[0]["kl"], rows[0]["win_rate"], rows[0]["reward"]) == (0.0, 0.5, rows[0]["reward_start"])
    assert all(r["merit"] == pytest.approx(r["reward"] - 0.05 * r["kl"]) for r in rows)
    assert rows[-1]["win_rate"] > 0.5
    best = max(rows, key=lambda r: r["merit"])
    done = json.loads((folder / "DONE").read_text())
    assert done["best"] == {"round": best["round"], "merit": best["merit"]}
    assert {"best", "model", "eval.jsonl"} <= set(done["outputs"])
    unwatched = pipeline.run(str(toy("grpo", steps=7, beta=0.05)), runs_dir=str(tmp_path / "plain")).folder / "toy"
    assert digest(unwatched) == {n: d for n, d in digest(folder).items() if n.startswith("model/")}
    found, last = load(str(folder / "best"), "causal"), load(str(folder / "model"), "causal")
    same = all(torch.equal(a, b) for a, b in zip(found.parameters(), last.parameters(), strict=True))
    assert same == (best["round"] == 7)


def test_held_out_prompts_that_are_trained_on_are_refused(toy: Callable[..., Path], tmp_path: Path) -> None:
    said = r"60 of 60 held-out prompts are also in data, the first at .*prompts\.jsonl:1;"
    with pytest.raises(DataError, match=said):
        pipeline.run(str(toy("raft", steps=2, heldout="prompts.jsonl")), runs_dir=str(tmp_path / "runs"))


def test_a_run_that_gets_worse_keeps_what_it_began_with(toy: Callable[..., Path], tmp_path: Path, world: Path) -> None:
    from kilter.models.load import load

    (tmp_path / "tea.py").write_text(TEA.replace("return [", "return [-"))
    path = toy("grpo", steps=3, heldout="heldout.jsonl", eval_every=1, beta=1000.0, kl_in="loss")
    folder = pipeline.run(str(path), runs_dir=str(tmp_path / "runs")).folder / "toy"
    assert json.loads((folder / "DONE").read_text())["best"]["round"] == 0
    start, best = load(str(world / "llama"), "causal"), load(str(folder / "best"), "causal")
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), best.parameters(), strict=True))


@pytest.mark.parametrize("name", TOY)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(
    toy: Callable[..., Path], tmp_path: Path, name: str, digest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted twice in the middle of a round; weights, metrics, samples and evaluations are as of a whole run."""
    small = {"batch": 6} | ({"answers": 3} if "answers" in TOY[name] else {})
    path = toy(name, steps=6, checkpoint_every=2, heldout="heldout.jsonl", eval_every=2, **small)
    whole = pipeline.run(str(path), runs_dir=str(tmp_path / "whole")).folder / "toy"
    step = Loop._optimise
    cuts = {round(0.4 * (evals(whole)[-1]["step"])), round(0.8 * evals(whole)[-1]["step"])}

    def cut(self: Loop, batch: Any) -> Any:
        if self.step in cuts:
            cuts.discard(self.step)
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Loop, "_optimise", cut)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(str(path), runs_dir=str(tmp_path / "cut"))
    again = pipeline.run(str(path), runs_dir=str(tmp_path / "cut")).folder / "toy"
    assert digest(again) == digest(whole)
    assert {"best/model.safetensors", "model/model.safetensors"} <= set(digest(whole))
    for file in ("metrics.jsonl", "samples.jsonl", "eval.jsonl"):
        rows = [[json.loads(line) for line in (f / file).read_text().splitlines()] for f in (whole, again)]
        for row in (*rows[0], *rows[1]):
            row.pop("seconds", None)
        assert rows[0] == rows[1], file
