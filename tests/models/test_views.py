"""One backbone, four roles: each view is the model it stands for, and no role ever touches another's gradient."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kilter import config
from kilter.errors import RecipeError
from kilter.methods import dpo, ppo, pretrain, reward, sft
from kilter.models import checkpointing, forward, load, logprobs, lora, views
from kilter.models.layout import lay_out
from kilter.models.roles import Actors, load_actors
from kilter.runs import write_json

SEQUENCES = [[9, 8, 7, 6, 5, 44, 45], [30, 40, 50, 60], [7, 7, 7, 200, 201, 202, 1]]
STARTS = [3, 2, 4]
ROLES = ("policy", "reference", "reward", "value")


def hidden(model: Any, ids_BT: torch.Tensor) -> torch.Tensor:
    """Final hidden states of rows of one length."""
    layout = lay_out(ids_BT.tolist())
    return forward.hidden_at(model, layout, np.arange(ids_BT.numel())).view(*ids_BT.shape, -1)


def move(actors: Actors, roles: tuple[str, ...], seed: int = 3) -> Actors:
    """What learns, off its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for role in roles:
            for name, p in actors[role].named_parameters():
                if p.requires_grad and "lora_A" not in name:
                    p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    return actors


def actors_of(method: Any, **given: Any) -> Actors:
    name = method.__name__.rpartition(".")[2]
    given = {
        "data": "d",
        "lora_rank": 4,
        "dtype": "float64",
        **{k: str(v) if isinstance(v, Path) else v for k, v in given.items()},
    }
    return load_actors(method, config.build(method.Config, given, name), 1, name)


@pytest.fixture(scope="module")
def starts(world: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], dict[str, Path]]:
    """Adapter folders as stages leave them: SFT over a family's model, and a reward model over the same."""
    place = tmp_path_factory.mktemp("starts")

    def make(family: str = "llama") -> dict[str, Path]:
        folders = {"model": place / family / "sft", "reward": place / family / "reward"}
        if not folders["reward"].exists():
            policy = move(actors_of(sft, model=world / family), ("policy",)).policy
            views.save_view(policy, tokenizer, folders["model"])
            judge = move(actors_of(reward, model=world / family), ("reward",), seed=4).reward
            views.save_view(judge, tokenizer, folders["reward"])
            base = load.identity(str(world / family))
            write_json(folders["model"] / "kilter.json", {"base": base})
            write_json(folders["reward"] / "kilter.json", {"base": base, "reward_mean": 0.5, "reward_std": 2.0})
        return folders

    return make


def outputs(actors: Any, roles: tuple[str, ...] = ROLES) -> dict[str, torch.Tensor]:
    """What each role's model says."""
    read: dict[str, Callable[[Any], torch.Tensor]] = {
        "policy": lambda m: torch.cat(logprobs.answer_logps(m, SEQUENCES, STARTS)[0]),
        "reference": lambda m: torch.cat(logprobs.answer_logps(m, SEQUENCES, STARTS)[0]),
        "reward": lambda m: logprobs.scores(m, SEQUENCES),
        "value": lambda m: torch.cat(logprobs.token_values(m, SEQUENCES, STARTS)),
    }
    return {role: read[role](actors[role]) for role in roles}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_four_views_equal_four_merged_models(
    starts: Callable[..., Any], family: str, tmp_path: Path, tokenizer: Any
) -> None:
    actors = move(actors_of(ppo, **starts(family)), ("policy", "value"))
    kinds = {"policy": "causal", "reference": "causal", "reward": "reward", "value": "value"}
    merged = {}
    for role, kind in kinds.items():
        views.save_merged(actors[role], tokenizer, tmp_path / role)
        merged[role] = load.load(str(tmp_path / role), kind, "float64")
    found, wanted = outputs(actors), outputs(merged)
    for role in ROLES:
        assert (found[role] - wanted[role]).abs().max() < 1e-10
    assert (found["policy"] - found["reference"]).abs().max() > 0.01
    reference = load.load(str(starts(family)["model"]), "causal", "float64")  # the frozen SFT adapter, merged
    assert (found["reference"] - outputs({"policy": reference}, ("policy",))["policy"]).abs().max() < 1e-10
    judge = load.load(str(starts(family)["reward"]), "reward", "float64")
    assert (found["reward"] - outputs({"reward": judge}, ("reward",))["reward"]).abs().max() < 1e-10
    assert actors.notes["reward_std"] == 2.0


def test_there_is_one_backbone(starts: Callable[..., Any], world: Path) -> None:
    """Counted in bytes: four roles weigh one model, their adapters and two heads."""
    actors = actors_of(ppo, **starts())
    held = {id(p): p.numel() * p.element_size() for role in ROLES for p in actors[role].parameters()}
    plain = sum(p.numel() * p.element_size() for p in load.load(str(world / "llama"), "causal", "float64").parameters())
    per_adapter = sum(
        8 * 4 * (m.in_features + m.out_features) for m in lora.linear_layers(actors.policy.model).values()
    )
    heads = 8 * (32 + 33)  # a reward head has no bias, a value head has one
    # the frozen start of policy and reference, that of reward and value, and what policy and value learn
    assert sum(held.values()) == plain + 4 * per_adapter + heads
    shared = {id(p) for _, p in views.backbone_parameters(actors.policy.model)}
    for role in ROLES:
        assert shared <= {id(p) for p in actors[role].parameters()}
        assert not any(p.requires_grad for p in views.backbone_parameters(actors[role].model) for p in p[1:])
    assert [actors.origins[r]["backbone"] for r in ROLES] == [0, 0, 0, 0]
    assert not any("apart" in origin for origin in actors.origins.values())


def test_the_reference_is_named_by_its_hash(starts: Callable[..., Any], world: Path) -> None:
    folders = starts()
    actors = actors_of(dpo, model=folders["model"])
    wanted = f"{load.identity(str(world / 'llama'))}+{load.identity(str(folders['model']))}"
    assert actors.origins["reference"] == {"model": str(folders["model"]), "backbone": 0, "hash": wanted}
    assert actors_of(dpo, model=world / "llama", lora_rank=0).origins["reference"]["hash"] == wanted.split("+")[0]


def test_without_adapters_a_view_is_its_base_to_the_bit(world: Path) -> None:
    for family in ("llama", "qwen2"):
        actors = actors_of(dpo, model=world / family)
        plain = load.load(str(world / family), "causal", "float64")
        wanted = outputs({"policy": plain}, ("policy",))["policy"]
        move(actors, ("policy",))
        assert torch.equal(outputs(actors, ("reference",))["reference"], wanted)
        assert not torch.equal(outputs(actors, ("policy",))["policy"], wanted)


def test_the_value_model_starts_where_it_is_told(starts: Callable[..., Any]) -> None:
    folders = starts()
    with torch.no_grad():
        from_reward = actors_of(ppo, **folders)
        ends = [[*s, 0] for s in SEQUENCES]
        last = [v[-1] for v in logprobs.token_values(from_reward.value, ends, STARTS)]
        assert (torch.stack(last) - logprobs.scores(from_reward.reward, SEQUENCES)).abs().max() < 1e-10
        from_policy = actors_of(ppo, **folders, value=folders["model"])
        assert not torch.cat(logprobs.token_values(from_policy.value, SEQUENCES, STARTS)).any()  # a head of zeros
        ours = hidden(from_policy.value, torch.tensor(SEQUENCES[:1]))
        assert torch.equal(ours, hidden(from_policy.policy, torch.tensor(SEQUENCES[:1])))


def test_models_over_other_weights_stay_apart_and_say_why(starts: Callable[..., Any], world: Path) -> None:
    actors = actors_of(ppo, model=starts()["model"], reward=world / "reward")
    assert [actors.origins[r]["backbone"] for r in ROLES] == [0, 0, 1, 1]
    assert "its base holds other weights" in actors.origins["reward"]["apart"]
    assert "apart" not in actors.origins["policy"]
    wanted = logprobs.scores(load.load(str(world / "reward"), "reward", "float64"), SEQUENCES)
    assert (logprobs.scores(actors.reward, SEQUENCES) - wanted).abs().max() < 1e-10


def test_a_classifier_keeps_its_own_head_where_the_policy_starts_from_it_too(world: Path) -> None:
    """A backbone with a language head has no place for the folder's one-label head, so it is not silently lost."""
    actors = actors_of(ppo, model=world / "reward", reward=world / "reward")
    assert [actors.origins[r]["backbone"] for r in ROLES] == [0, 0, 1, 1]
    assert "its base is a classifier of its own" in actors.origins["value"]["apart"]
    wanted = logprobs.scores(load.load(str(world / "reward"), "reward", "float64"), SEQUENCES)
    assert (logprobs.scores(actors.reward, SEQUENCES) - wanted).abs().max() < 1e-10


def test_a_copied_base_is_known_by_its_content(
    starts: Callable[..., Any], world: Path, tmp_path: Path, tokenizer: Any
) -> None:
    import shutil

    shutil.copytree(world / "llama", tmp_path / "copy")
    views.save_view(move(actors_of(reward, model=tmp_path / "copy"), ("reward",)).reward, tokenizer, tmp_path / "rm")
    actors = actors_of(ppo, model=starts()["model"], reward=tmp_path / "rm")
    assert {o["backbone"] for o in actors.origins.values()} == {0}


def losses(actors: Actors) -> tuple[torch.Tensor, torch.Tensor]:
    said = outputs(actors, ("policy", "value"))
    return (said["policy"] * torch.arange(1, len(said["policy"]) + 1)).sum(), (said["value"] ** 2).sum()


def gradients(actors: Actors) -> dict[str, torch.Tensor]:
    found = {
        f"{role}.{n}": p.grad.clone()
        for role in ("policy", "value")
        for n, p in actors[role].named_parameters()
        if p.requires_grad and p.grad is not None
    }
    for role in ("policy", "value"):
        for p in actors[role].parameters():
            p.grad = None
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gradients_are_the_same_with_and_without_checkpointing(starts: Callable[..., Any], family: str) -> None:
    """Two roles in one backward, one at a time, and with other roles in between: always the same bits."""
    plain = move(actors_of(ppo, **starts(family)), ("policy", "value"))
    first, second = losses(plain)
    first.backward()
    second.backward()
    wanted = gradients(plain)
    assert len(wanted) == 2 * 28 + 2
    assert all(bool(g.any()) for n, g in wanted.items() if "lora_B" in n)

    again = move(actors_of(ppo, **starts(family), checkpointing=True), ("policy", "value"))
    assert checkpointing.enabled(load.backbone(again.policy))
    first, second = losses(again)
    (first + second).backward()
    found = gradients(again)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)

    first, second = losses(again)
    with torch.no_grad():
        outputs(again)  # every role runs between a forward and its backward
    second.backward()
    with lora.playing("reference"):
        first.backward()
    found = gradients(again)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_a_forward_of_ones_own_carries_its_role_into_the_recomputation(starts: Callable[..., Any]) -> None:
    """As a faster forward would call the layers itself; the backward runs on a thread that knows of no role."""
    actors = move(actors_of(ppo, **starts(), checkpointing=True), ("policy", "value"))
    trunk = load.backbone(actors.policy)
    assert trunk is load.backbone(actors.policy)
    assert checkpointing.enabled(trunk)
    assert not checkpointing.enabled(load.backbone(load.load(actors.policy.base, "causal")))

    def forward(view: Any, checkpointed: bool) -> torch.Tensor:
        with lora.acting(view):
            h = trunk.embed_tokens(torch.tensor(SEQUENCES[:1]))
            for block in trunk.layers:
                step = lambda x, block=block: x + block.mlp(block.self_attn.q_proj(x))  # noqa: E731
                h = checkpointing.run(step, h) if checkpointed else step(h)
        return h.square().sum()

    (forward(actors.policy, False) + 2 * forward(actors.value, False)).backward()
    wanted = gradients(actors)
    loss = forward(actors.policy, True) + 2 * forward(actors.value, True)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    found = gradients(actors)
    assert wanted
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_checkpointing_recomputes_and_keeps_less(world: Path) -> None:
    """Tensors that autograd keeps between forward and backward, counted."""
    sizes = []
    for on in (False, True):
        policy = move(actors_of(sft, model=world / "llama", checkpointing=on), ("policy",)).policy
        kept = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            h = hidden(policy, torch.tensor([SEQUENCES[0] * 10]))
        h.sum().backward()
        sizes.append(kept)
    assert sizes[1] < 0.2 * sizes[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_plain_models_are_checkpointed_too(world: Path, family: str) -> None:
    grads = []
    for on in (False, True):
        policy = actors_of(sft, model=world / family, lora_rank=0, checkpointing=on).policy
        torch.cat(logprobs.answer_logps(policy, SEQUENCES, STARTS)[0]).sum().backward()
        grads.append([p.grad for p in policy.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_sampling_is_untouched_by_checkpointing(world: Path) -> None:
    from kilter.models.sample import Sampling, sample

    drawn = [
        sample(
            actors_of(sft, model=world / "llama", checkpointing=on).policy,
            [[9, 8], [7]],
            [("a",), ("b",)],
            Sampling(max_new=9),
            1,
        )
        for on in (False, True)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantize": "nf4", "lora_rank": 0}, r"4-bit weights can't learn; set lora_rank"),
        ({"train_layers": 3}, r"train_layers is 3, but the model has 2 layers"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(world: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        actors_of(dpo, model=world / "llama", **given)


def test_adapters_over_random_weights_are_refused(world: Path) -> None:
    with pytest.raises(RecipeError, match=r"scratch draws every weight anew, and all must learn; set lora_rank to 0"):
        actors_of(pretrain, model=world / "blank", scratch=True)
