"""Sixteen bits: steps are taken on float32 masters, float16 scales its loss, and a resumed run has the same bits."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kilter import config
from kilter.errors import RecipeError, RunError
from kilter.methods import Round, dpo, ppo, sft
from kilter.models import load
from kilter.models.roles import Actors, load_actors
from kilter.runs import Stage
from kilter.train import checkpoint, loop
from kilter.train.loop import Loop
from kilter.train.optim import LossScale, Optimizers

METHODS = {"sft": sft, "dpo": dpo, "ppo": ppo}
needs_bnb = pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")


@pytest.fixture
def begin(world: Path, tmp_path: Path) -> Callable[..., Loop]:
    """A loop about to run, its stage's folder within the test's own."""

    def make(name: str, folder: str = "one", **given: Any) -> Loop:
        base = {
            "sft": {"data": "demos.jsonl", "batch": 4, "row_tokens": 48, "lr": 1e-3},
            "dpo": {"data": "rankings.jsonl", "batch": 4, "lr": 1e-3},
            "ppo": {
                "data": "prompts.jsonl",
                "reward": "reward",
                "batch": 6,
                "max_new": 8,
                "kl_target": 0.5,
                "lr": 1e-3,
            },
        }[name]
        values = {
            "model": "llama",
            "steps": 4,
            "checkpoint_every": 2,
            "schedule": "constant",
            "warmup": 0,
            **base,
            **given,
        }
        values |= {k: str(world / v) for k, v in values.items() if isinstance(v, str) and v and (world / v).exists()}
        method = METHODS[name]
        c = config.build(method.Config, values, name)
        (tmp_path / folder).mkdir(exist_ok=True)
        stage = Stage(name, tmp_path / folder, c, 1)
        actors = load_actors(method, c, 1, name)
        streams = loop.load_streams(stage, method, actors)
        return Loop(stage, method, actors, streams, Optimizers(method, actors, c), method.rounds(c, streams))

    return make


def learned(a: Loop) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in a.optimizers.weights().items()}


def rows(a: Loop, name: str) -> list[dict[str, Any]]:
    """A stage's rows, without what no run can repeat."""
    path = a.stage.path(name)
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def run(a: Loop, stop_at: int | None = None) -> Loop:
    """All rounds, or to the checkpoint before round `stop_at`."""
    interrupts = loop.Interrupts()
    interrupts.asked = False
    if stop_at is not None:
        inner = a.method.batches

        class Stopping:
            def __getattr__(self, name: str) -> Any:
                return getattr(METHODS[a.stage.name], name)

            def batches(self, actors: Actors, streams: Any, state: Any) -> Any:
                yield from inner(actors, streams, state)
                interrupts.asked = state.round + 1 == stop_at

        a.method = Stopping()
        with pytest.raises(KeyboardInterrupt):
            a.run(interrupts)
    else:
        a.run(interrupts)
    return a


SETTINGS = [
    {"name": "sft", "dtype": "bfloat16"},
    {"name": "sft", "dtype": "float16"},
    {"name": "dpo", "lora_rank": 4, "dtype": "bfloat16", "checkpointing": True},
    {"name": "dpo", "train_layers": 1},
    {"name": "ppo", "lora_rank": 4, "reward": "llama-rm"},
    {"name": "ppo", "lora_rank": 4, "train_layers": 1},
    {"name": "ppo", "lora_rank": 4, "dtype": "float16", "reward": "llama-rm"},
    pytest.param({"name": "sft", "optimizer": "adamw8bit"}, marks=needs_bnb),
    pytest.param({"name": "dpo", "lora_rank": 4, "quantize": "nf4"}, marks=needs_bnb),
    pytest.param(
        {"name": "ppo", "lora_rank": 4, "quantize": "nf4", "dtype": "bfloat16", "reward": "llama-rm"}, marks=needs_bnb
    ),
]


@pytest.fixture(scope="module")
def judge(world: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A reward adapter over the policy's base, so that PPO holds one backbone."""
    from kilter.methods import reward
    from kilter.models import views

    c = config.build(reward.Config, {"model": str(world / "llama"), "data": "d", "lora_rank": 2}, "reward")
    view = load_actors(reward, c, 1, "reward").reward
    with torch.no_grad():
        view.score.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("judge")
    views.save_view(view, tokenizer, folder)
    return folder


@pytest.mark.parametrize("given", SETTINGS, ids=lambda g: "-".join(str(v) for v in g.values()))
def test_a_resumed_run_has_the_same_bits(begin: Callable[..., Loop], given: dict[str, Any], judge: Path) -> None:
    """Checkpointed after two rounds of four, loaded into fresh actors, gone on: weights, metrics and samples."""
    if given.get("reward") == "llama-rm":
        given = {**given, "reward": str(judge)}
    whole = run(begin(folder="whole", **given))
    run(begin(folder="parts", **given), stop_at=2)
    resumed = run(begin(folder="parts", **given))
    found, wanted = learned(resumed), learned(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    if given["name"] == "ppo":
        first = rows(whole, "metrics.jsonl")[0]
        assert (first["kl_max"], first["ratio_gap"]) == (0.0, 0.0)
    start = learned(begin(folder="start", **given))
    assert any(not torch.equal(start[n], wanted[n]) for n in wanted)
    assert resumed.optimizers.scale == whole.optimizers.scale
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert rows(resumed, name) == rows(whole, name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_steps_too_small_for_sixteen_bits_add_up_in_the_master(begin: Callable[..., Loop], dtype: str) -> None:
    a = begin("sft", dtype=dtype, lr=1e-6)
    before = {p: p.detach().clone() for p, _ in a.optimizers.masters}
    assert len(before) == len(list(a.actors.policy.parameters()))
    ours = torch.optim.AdamW(
        [torch.nn.Parameter(m.detach().clone()) for _, m in a.optimizers.masters], betas=(0.9, 0.95)
    )
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for (_, master), other in zip(a.optimizers.masters, ours.param_groups[0]["params"], strict=True):
            master.grad = torch.randn(master.shape, generator=generator)
            other.grad = master.grad.clone()
        ours.param_groups[0].update(lr=1e-6, weight_decay=0.0)
        ours.step()
        a.optimizers.step(1.0)
        a.optimizers.zero_grad()
    for (low, master), other in zip(a.optimizers.masters, ours.param_groups[0]["params"], strict=True):
        assert (master - other).abs().max() < 1e-9
        assert torch.equal(low, master.to(low.dtype))
        assert not torch.equal(master, before[low].float())
    stuck = [torch.equal(low, before[low]) for low, _ in a.optimizers.masters]
    assert any(stuck)  # three such steps alone would have changed nothing there


def test_gradients_of_micro_batches_add_up_in_float32(begin: Callable[..., Loop]) -> None:
    a = begin("sft", dtype="bfloat16")
    low, master = a.optimizers.masters[3]
    parts = [torch.tensor(1.0), torch.tensor(2.0**-10), torch.tensor(2.0**-10)]
    for part in parts:
        (low.sum() * part.to(low.dtype)).backward()
    assert low.grad is None
    assert torch.equal(master.grad, torch.full_like(master, 1.0 + 2.0**-9))  # bfloat16 would have said 1.0


def test_a_lora_run_in_sixteen_bits_has_float32_adapters_and_heads(begin: Callable[..., Loop], judge: Path) -> None:
    a = begin("ppo", lora_rank=4, dtype="bfloat16", reward=str(judge))
    assert not a.optimizers.masters
    for role in ("policy", "value"):
        for p in a.actors[role].parameters():
            assert p.dtype == (torch.float32 if p.requires_grad else torch.bfloat16)
    assert a.actors.reward.score.weight.dtype == torch.float32


def test_the_loss_scale_by_hand() -> None:
    scale = LossScale(8.0)
    for _ in range(LossScale.GROWTH):
        scale.stepped()
    assert (scale.value, scale.good) == (16.0, 0)
    scale.stepped()
    scale.skipped()
    assert (scale.value, scale.good) == (8.0, 0)
    for _ in range(3):
        scale.skipped()
    with pytest.raises(RunError, match="overflow even with an unscaled loss"):
        scale.skipped()


def test_an_overflow_skips_the_step_and_halves_the_scale(begin: Callable[..., Loop]) -> None:
    a = begin("sft", dtype="float16")
    before = learned(a)
    a.optimizers.scale.value = 2.0**60
    row = a._optimise(next(sft.batches(a.actors, a.streams, Round())))
    assert (row["skipped"], row["loss_scale"], a.optimizers.scale.value) == (1.0, 2.0**60, 2.0**59)
    assert "grad_norm" not in row
    assert all(torch.equal(p, before[n]) for n, p in learned(a).items())
    assert all(p.grad is None for p in a.optimizers.names)
    a.optimizers.scale.value = 2.0**10
    row = a._optimise(next(sft.batches(a.actors, a.streams, Round())))
    assert (row["skipped"], a.optimizers.scale.good) == (0.0, 1)
    assert any(not torch.equal(p, before[n]) for n, p in learned(a).items())


def test_the_scale_is_taken_out_again(begin: Callable[..., Loop]) -> None:
    """The gradient's norm does not know the scale, and is that of float32 to float16's precision."""
    norms = []
    for dtype, value in (("float16", 2.0**6), ("float16", 2.0**12), ("float32", 1.0)):
        a = begin("sft", dtype=dtype)
        a.optimizers.scale.value = value
        norms.append(a._optimise(next(sft.batches(a.actors, a.streams, Round())))["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert norms[0] == pytest.approx(norms[2], rel=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_elsewhere_a_gradient_that_is_not_finite_stops_the_run(begin: Callable[..., Loop], dtype: str) -> None:
    a = begin("sft", dtype=dtype)
    a.actors.policy.get_input_embeddings().weight.register_hook(lambda g: g * torch.inf)
    with pytest.raises(RunError, match=r"the gradient of policy is (nan|inf)"):
        a._optimise(next(sft.batches(a.actors, a.streams, Round())))


def test_the_scale_is_part_of_a_checkpoint(begin: Callable[..., Loop], tmp_path: Path) -> None:
    a, b = begin("sft", dtype="float16"), begin("sft", folder="two", dtype="float16")
    a.optimizers.scale = LossScale(32.0, 7)
    checkpoint.save(tmp_path / "kept", a.optimizers, Round(1), {}, keep=1)
    checkpoint.load_newest(tmp_path / "kept", b.optimizers, Round)
    assert b.optimizers.scale == LossScale(32.0, 7)


@pytest.mark.parametrize(
    ("given", "what"),
    [({"optimizer": "adamw8bit"}, "optimizer: adamw8bit"), ({"quantize": "nf4", "lora_rank": 4}, "quantize: nf4")],
)
def test_without_bitsandbytes_the_extra_is_named(
    begin: Callable[..., Loop], given: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RecipeError, match=rf"{what} needs bitsandbytes, .* pip install 'kilter\[qlora\]'"):
        begin("dpo", **given)


@needs_bnb
def test_eight_bit_state_is_a_quarter(begin: Callable[..., Loop], world: Path) -> None:
    """State of a matrix that is large enough for it, in bytes per weight."""
    a = begin("sft", optimizer="adamw8bit")
    a._optimise(next(sft.batches(a.actors, a.streams, Round())))
    embedding = load.backbone(a.actors.policy).get_input_embeddings().weight
    state = next(o for o, _ in a.optimizers.parts).state[embedding]
    assert {state[k].dtype for k in ("state1", "state2")} == {torch.uint8}
    assert (
        sum(t.numel() * t.element_size() for k, t in state.items() if "state" in k or "absmax" in k)
        < 2.1 * embedding.numel()
    )


@pytest.mark.parametrize("given", [{}, {"train_layers": 1}])
def test_masters_start_from_the_weights_of_the_file_and_not_from_their_rounding(
    begin: Callable[..., Loop], world: Path, given: dict[str, Any]
) -> None:
    from safetensors.torch import load_file

    a = begin("sft", dtype="bfloat16", **given)
    file = load_file(world / "llama" / "model.safetensors")
    held = dict(a.actors.policy.named_parameters())
    masters = {n: m for n, p in held.items() for low, m in a.optimizers.masters if low is p}
    assert masters
    assert set(masters) == {n for n, p in held.items() if p.requires_grad}
    for name, master in masters.items():
        assert torch.equal(master, file[name])
        assert torch.equal(held[name], file[name].to(torch.bfloat16))
    rounding = sum(float((m.detach() - m.detach().bfloat16().float()).abs().max()) for m in masters.values())
    assert rounding > 0  # else the file itself would hold rounded weights, and nothing above could fail
    assert not any(load.EXACT in p.__dict__ for p in held.values())
