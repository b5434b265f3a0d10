"""The plan's bytes against what the profiler saw the engine allocate, and against sizes worked out by hand."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from kilter import recipes
from kilter.models import classes, load, quant
from kilter.models.layout import Group, Plan
from kilter.models.roles import load_actors, needs_of
from kilter.models.sample import Sampling, sample
from kilter.plan import memory
from kilter.plan.memory import Sampled, Settings
from kilter.plan.shapes import shape_of
from kilter.plan.stages import Planned, planned
from kilter.runs import Stage
from kilter.train.loop import Loop, load_streams, train
from kilter.train.optim import Optimizers

WITHIN = 0.10
"""How far the plan may be from what is measured, as a share of it."""
SIZES = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": 2048,
    "max_position_embeddings": 512,
}
OTHER_SIZES = {"n_embd": 192, "n_inner": 512, "n_layer": 4, "n_head": 6, "vocab_size": 2048, "n_positions": 512}
SINGLE = ("tom", "ann", "bob", "lives", "in", "bell", "moss", "dell", "likes", "tea", "the", "a", "cat", "dog", "eats")
"""Words of one token each, so that all rows are equally long."""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, model_config: Any, write_rows: Callable[..., Path]
) -> Path:
    """Models large enough that their tensors, and no trifles beside them, decide; rows of one length."""
    here = tmp_path_factory.mktemp("plan")
    for name in ("causal", "reward", "gpt2"):
        config = model_config("gpt2", **OTHER_SIZES) if name == "gpt2" else model_config("llama", **SIZES)
        config.num_labels = 1 if name == "reward" else config.num_labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            classes.KIND["reward" if name == "reward" else "causal"].from_config(config).save_pretrained(here / name)
        tokenizer.save_pretrained(here / name)
    pick = random.Random(0)
    some = lambda n: " ".join(pick.choices(SINGLE, k=n))  # noqa: E731
    write_rows(here / "demos.jsonl", [{"prompt": some(40), "answer": some(80)} for _ in range(32)])
    write_rows(here / "prompts.jsonl", [{"prompt": some(48)} for _ in range(64)])
    write_rows(
        here / "rankings.jsonl",
        [{"prompt": some(40), "answers": [some(50), some(50)], "tiers": [[0], [1]]} for _ in range(32)],
    )
    return here


class Run:
    """One stage as the loop would run it, and its plan."""

    def __init__(self, folder: Path, to: Path, method: str, **given: Any) -> None:
        place = lambda v: str(folder / v) if isinstance(v, str) and v and (folder / v).exists() else v  # noqa: E731
        body = {"batch": 16, "steps": 4, **{k: place(v) for k, v in given.items()}}
        file = to / "one.yaml"
        file.write_text(yaml.safe_dump({"threads": 1, "stages": {method: body}}))
        self.recipe = recipes.load(str(file))
        self.plan: Planned = planned(self.recipe, cuda=False)[0]
        self.module, self.config = self.plan.module, self.plan.config
        stage = Stage(method, to / method, self.config, 1)
        stage.folder.mkdir(parents=True, exist_ok=True)
        self.actors = load_actors(self.module, self.config, 1, method)
        self.streams = load_streams(stage, self.module, self.actors)
        self.optimizers = Optimizers(self.module, self.actors, self.config)
        self.loop = Loop(stage, self.module, self.actors, self.streams, self.optimizers, 4)

    def held(self) -> int:
        """Bytes of weights, masters, gradients and the optimiser's state, each storage once."""
        found: dict[int, int] = {}

        def add(t: Any) -> None:
            if isinstance(t, torch.Tensor):
                found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()

        for role in needs_of(self.module, self.config):
            actor = self.actors[role]
            for model in (actor, getattr(actor, "model", actor)):
                for p in (*model.parameters(), *getattr(model, "buffers", tuple)()):
                    add(p)
                for layer in model.modules() if isinstance(model, torch.nn.Module) else ():
                    if isinstance(layer, quant.Linear4bit):
                        for t in (layer.state.absmax, layer.state.state2.absmax):
                            add(t)
        for optimizer, _ in self.optimizers.parts:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    add(p)
                    add(p.grad)
            for entries in optimizer.state.values():
                for value in entries.values():
                    add(value)
        return sum(found.values())

    def measured(self) -> dict[str, float]:
        """Bytes at the peak of a round's beginning (rollout, scores) and of an update, once a step has been taken."""
        state = self.module.State()
        for state.round in range(2):
            self.actors.begin_round()
            before = self.held() + remembered()
            with watched() as prepared:
                batches = iter(self.module.batches(self.actors, self.streams, state))
                batch = next(batches)
            with watched() as update:
                before_update = self.held() + remembered()
                self.loop._optimise(batch)
            self.loop.step += 1
        return {"prepared": before + prepared.peak, "update": before_update + update.peak}


def remembered() -> int:
    """Bytes that layouts hold for later calls; what is numpy's own, the profiler does not see either."""
    known = [o.__dict__.get("_known", {}) for o in gc.get_objects() if type(o) in (Group, Plan)]
    return sum(t.nbytes for tensors in known for t in tensors.values())


class Watched:
    """What the allocator did."""

    peak = 0


@contextmanager
def watched() -> Iterator[Watched]:
    """The most that was allocated at a time beyond what was there before, by the profiler's own events."""
    found = Watched()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield found
    events = seen.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    level = 0
    for _, change in sorted(changes):
        level += change
        found.peak = max(found.peak, level)


def phases(plan: Planned) -> dict[str, float]:
    """The plan's bytes, a round's beginning in one."""
    found = {name: parts.total for name, parts in plan.phases().items()}
    beginning = [x for name, x in found.items() if name != "update"]
    return {"update": found["update"], **({"prepared": max(beginning)} if beginning else {})}


SFT = {"model": "causal", "data": "demos.jsonl", "row_tokens": 123, "micro_tokens": 1000}
RANKED = {"model": "causal", "data": "rankings.jsonl", "micro_tokens": 1024}
ONLINE = {"model": "causal", "reward": "reward", "data": "prompts.jsonl", "max_new": 48, "micro_tokens": 1024}
SHARED = {**ONLINE, "reward": "adapter/model", "lora_rank": 8}
FOUR_BIT = {"lora_rank": 8, "quantize": "nf4"}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sft", SFT),
    ("sft", {**SFT, "micro_tokens": 4096}),
    ("sft", {**SFT, "checkpointing": True}),
    ("sft", {**SFT, "dtype": "bfloat16"}),
    ("sft", {**SFT, "train_layers": 2}),
    ("sft", {**SFT, "optimizer": "muon", "micro_tokens": 123}),
    ("sft", {**SFT, "lora_rank": 8}),
    ("sft", {**SFT, "lora_rank": 8, "dtype": "bfloat16"}),
    ("sft", {**SFT, "lora_rank": 8, "lora_targets": "q_proj v_proj"}),
    ("sft", {**SFT, "lora_rank": 8, "lora_targets": "down_proj"}),
    ("sft", {**SFT, "lora_rank": 8, "checkpointing": True}),
    ("sft", {**SFT, "model": "gpt2"}),
    ("sft", {**SFT, "model": "gpt2", "lora_rank": 8}),
    ("dpo", RANKED),
    ("dpo", {**RANKED, "lora_rank": 8}),
    ("dpo", {**RANKED, "lora_rank": 8, "checkpointing": True}),
    ("kto", RANKED),
    ("reward", RANKED),
    ("reward", {**RANKED, "lora_rank": 8}),
    ("ppo", ONLINE),
    ("ppo", {**ONLINE, "checkpointing": True}),
    ("ppo", SHARED),
    ("grpo", {**ONLINE, "answers": 4, "batch": 8, "passes": 2, "micro_tokens": 4096}),
]
WITH_BITSANDBYTES: list[tuple[str, dict[str, Any]]] = [
    ("sft", {**SFT, **FOUR_BIT}),
    ("sft", {**SFT, **FOUR_BIT, "dtype": "bfloat16", "checkpointing": True}),
    ("sft", {**SFT, "optimizer": "adamw8bit"}),
    ("ppo", {**SHARED, **FOUR_BIT, "dtype": "bfloat16", "checkpointing": True}),
]


def called(case: Any) -> str | None:
    """A case's name: its method and what it changes."""
    if isinstance(case, str):
        return case
    usual = {"model", "data", "row_tokens", "reward", "max_new", "batch", "answers", "passes"}
    return ",".join(f"{k}={v}" for k, v in case.items() if k not in usual)


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    """A reward model as an adapter over the same base."""
    run = Run(folder, folder, "reward", model="causal", data="rankings.jsonl", lora_rank=8, steps=1)
    (folder / "adapter").mkdir()
    train(Stage("reward", folder / "adapter", run.config, 1), run.module)
    return folder / "adapter" / "model"


def check(folder: Path, to: Path, method: str, given: dict[str, Any]) -> None:
    run = Run(folder, to, method, **given)
    seen, told = run.measured(), phases(run.plan)
    held = memory.held(run.plan.roles, run.plan.settings).total
    assert held == pytest.approx(run.held(), rel=0.005)
    for phase, size in told.items():
        assert size == pytest.approx(seen[phase], rel=WITHIN), phase


@pytest.mark.parametrize(("method", "given"), CASES, ids=called)
def test_the_plan_is_what_the_profiler_measures(
    method: str, given: dict[str, Any], folder: Path, adapter: Path, tmp_path: Path
) -> None:
    check(folder, tmp_path, method, given)


@pytest.mark.parametrize(("method", "given"), WITH_BITSANDBYTES, ids=called)
def test_four_and_eight_bits_are_what_the_profiler_measures(
    method: str, given: dict[str, Any], folder: Path, adapter: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    check(folder, tmp_path, method, given)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_rollout_with_its_keys_and_values_is_what_the_profiler_measures(folder: Path, lanes: int) -> None:
    model = load.load(str(folder / "causal"), "causal")
    ids = random.Random(0)
    prompts = [[ids.randrange(10, 300) for _ in range(32)] for _ in range(48 // lanes)]
    asked = [p for p in prompts for _ in range(lanes)]
    settings = Sampling(max_new=224)
    run = lambda: sample(model, asked, [(n,) for n in range(len(asked))], settings, eos=-1)  # noqa: E731
    run()
    with watched() as seen:
        run()
    shape = shape_of(model.config)
    role, s, r = memory.Role("policy", "causal", shape), Settings(), Sampled(48, 32, 224, lanes, 48)
    drawn = memory.rollout([role], s, r).total - memory.held([role], s).total
    assert drawn == pytest.approx(seen.peak, rel=WITHIN)
    assert memory.stores(shape, s, r) > 0.5 * drawn  # so that this is a test of the stores
