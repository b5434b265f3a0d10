"""A cut trunk: its two parts are the whole one, forward and backward, and the lower part is computed once a round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kilter import config
from kilter.errors import RecipeError
from kilter.methods import dpo, ppo, sft
from kilter.models import load, logprobs, trunk
from kilter.models.checkpointing import blocks
from kilter.models.roles import Actors, load_actors
from kilter.runs import Stage
from kilter.train.loop import accumulate, load_streams

SEQUENCES = [[9, 8, 7, 6, 5, 44, 45], [30, 40, 50, 60], [7, 7, 7, 200, 0, 0]]
STARTS = [3, 2, 4]
IDS = torch.tensor([[9, 8, 7, 6, 5, 44, 45, 3], [30, 40, 50, 60, 70, 80, 1, 2]])


@pytest.fixture
def actors_of(world: Path) -> Callable[..., Actors]:
    def make(method: Any, **given: Any) -> Actors:
        name = method.__name__.rpartition(".")[2]
        data = {"sft": "demos", "dpo": "rankings", "ppo": "prompts"}[name]
        values = {"model": "llama", "data": f"{data}.jsonl", "train_layers": 1, "dtype": "float64", **given}
        values |= {k: str(world / v) for k, v in values.items() if isinstance(v, str) and v and (world / v).exists()}
        return load_actors(method, config.build(method.Config, values, name), 1, name)

    return make


def packed() -> tuple[torch.Tensor, torch.Tensor]:
    """An additive mask of two documents a row, and their positions."""
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 1]])
    seen = (segments[:, :, None] == segments[:, None]) & torch.ones(8, 8, dtype=torch.bool).tril()
    return torch.zeros(2, 1, 8, 8, dtype=torch.float64).masked_fill_(~seen[:, None], -1e300), positions


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("masked", [False, True])
def test_lower_and_upper_are_the_whole_forward_and_backward(
    make_model: Callable[..., Any], family: str, masked: bool
) -> None:
    depth = {"gpt2": {"n_layer": 4}}.get(family, {"num_hidden_layers": 4})
    for top in (1, 3, 4):
        whole = make_model(family, dtype="float64", **depth)
        halves = make_model(family, dtype="float64", **depth)
        mask, positions = packed() if masked else (None, torch.arange(8)[None].expand(2, 8))
        first = trunk.cut(halves.base_model, top)
        for model in (whole, halves):
            trunk.learn_top(model, model.base_model, first)
        split = trunk.Split(halves.base_model, first, trunk.Memory())
        wanted = whole.base_model(
            input_ids=IDS, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        found = split.upper(split.lower(IDS, mask, positions), IDS, mask, positions).last_hidden_state
        assert (found - wanted).abs().max() < 1e-10
        again = halves.base_model(input_ids=IDS, attention_mask=mask, position_ids=positions, use_cache=False)
        assert torch.equal(again.last_hidden_state, found)  # called as ever, a cut trunk is whole
        weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
        (wanted * weight).sum().backward()
        (found * weight).sum().backward()
        pairs = list(zip(whole.named_parameters(), halves.named_parameters(), strict=True))
        learning = [n for (n, p), _ in pairs if p.grad is not None]
        assert learning
        assert all(p.grad is None or (p.grad - q.grad).abs().max() < 1e-10 for (_, p), (_, q) in pairs)
        assert not any(p.requires_grad for p in halves.get_input_embeddings().parameters())


def test_only_the_top_its_norm_and_an_untied_head_learn(actors_of: Callable[..., Actors]) -> None:
    learning = {n for n, p in actors_of(sft, model="qwen2").policy.named_parameters() if p.requires_grad}
    assert {n.split(".")[2] for n in learning if ".layers." in n} == {"1"}
    assert {"model.norm.weight", "lm_head.weight"} <= learning
    tied = {n for n, p in actors_of(sft, model="llama").policy.named_parameters() if p.requires_grad}
    assert not [n for n in tied if "embed" in n or "lm_head" in n]  # the head is the embedding, which lies below


def test_with_lora_only_the_top_has_new_adapters(actors_of: Callable[..., Actors]) -> None:
    policy = actors_of(dpo, lora_rank=4).policy
    learning = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert len(learning) == 14
    assert all(n.startswith("model.layers.1.") for n in learning)


def read(actors: Any, roles: tuple[str, ...] = ("policy", "reference", "value")) -> list[torch.Tensor]:
    found = [torch.cat(logprobs.answer_logps(actors[r], SEQUENCES, STARTS)[0]) for r in roles if r != "value"]
    return found + [torch.cat(logprobs.token_values(actors[r], SEQUENCES, STARTS)) for r in roles if r == "value"]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_roles_read_the_same_numbers_as_whole_models(actors_of: Callable[..., Actors], lora_rank: int) -> None:
    given = {"reward": "reward", "value": "llama", "lora_rank": lora_rank}
    cut, whole = actors_of(ppo, **given), actors_of(ppo, **given, train_layers=0)
    for actors in (cut, whole):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for role in ("policy", "value"):
                for name, p in sorted(actors[role].named_parameters()):
                    if "layers.1." in name and "lora_A" not in name and (p.requires_grad or not lora_rank):
                        p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    for found, wanted in zip(read(cut), read(whole), strict=True):
        assert (found - wanted).abs().max() < 1e-10
    assert (read(cut)[0] - read(cut)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_lower_part_is_computed_once_for_all_roles_and_epochs(
    actors_of: Callable[..., Actors], tmp_path: Path, lora_rank: int
) -> None:
    actors = actors_of(ppo, reward="reward", value="llama", batch=8, max_new=12, lora_rank=lora_rank)
    streams = load_streams(Stage("ppo", tmp_path, actors.config, 1), ppo, actors)
    shared = trunk.split_of(actors.policy).memory
    assert trunk.split_of(actors.reference).memory is shared
    assert trunk.split_of(actors.value).memory is shared
    assert trunk.split_of(actors.reward).memory is not shared
    actors.begin_round()
    batches = list(ppo.batches(actors, streams, ppo.State()))
    assert batches[0].metrics["kl_max"] == 0.0
    assert shared.computed == 8
    assert len(batches) == 4
    for batch in batches:
        assert accumulate(ppo, actors, batch.split(actors.config.micro_tokens))["ratio_gap"] == 0.0
    assert shared.computed == 8
    actors.begin_round()
    assert not shared.rows


def test_frozen_lower_blocks_are_held_once(actors_of: Callable[..., Actors]) -> None:
    actors = actors_of(dpo)
    mine, theirs = (blocks(a.base_model) for a in (actors.policy, actors.reference))
    assert mine[0] is theirs[0]
    assert mine[1] is not theirs[1]
    assert actors.policy.get_input_embeddings() is actors.reference.get_input_embeddings()
    held = {id(p): p.numel() for a in (actors.policy, actors.reference) for p in a.base_model.parameters()}
    one = sum(p.numel() for p in actors.policy.base_model.parameters())
    assert sum(held.values()) < 2 * one - sum(p.numel() for p in mine[0].parameters())


def test_gradients_with_the_memory_are_those_of_the_whole(actors_of: Callable[..., Actors]) -> None:
    grads = []
    for top in (1, 0):
        for checkpointing in (False, True):
            actors = actors_of(dpo, train_layers=top, checkpointing=checkpointing)
            read(actors, ("reference", "policy"))
            (torch.cat(logprobs.answer_logps(actors.policy, SEQUENCES, STARTS)[0]) ** 2).sum().backward()
            grads.append(
                {n: p.grad for n, p in actors.policy.named_parameters() if "layers.1." in n or "model.norm" in n}
            )
    for other in grads[1:]:
        assert all((grads[0][n] - other[n]).abs().max() < 1e-10 for n in grads[0])


def test_a_row_is_known_with_less_padding_but_never_with_more() -> None:
    memory, calls = trunk.Memory(), []

    def ask(rows: list[list[int]], **given: Any) -> torch.Tensor:
        ids = torch.tensor(rows)

        def compute() -> torch.Tensor:
            calls.append(rows)
            return ids[..., None].double() + 0.5

        return memory.get(ids, given.get("mask"), given.get("positions"), compute)

    assert torch.equal(ask([[5, 6, 0, 0]])[0, :, 0], torch.tensor([5.5, 6.5, 0.5, 0.5], dtype=torch.float64))
    assert ask([[5, 6, 0]]).shape == (1, 3, 1)  # token 0 may be padding or a word: both are there
    assert ask([[5, 6]])[0, :, 0].tolist() == [5.5, 6.5]
    assert len(calls) == 1
    ask([[5, 6, 0, 0, 0]])
    ask([[5, 7]])
    ask([[5, 6]], positions=torch.tensor([[3, 4]]))
    ask([[5, 6]], mask=torch.tensor([[0, 1]]))
    assert len(calls) == 5
    assert memory.bytes == sum(h.numel() * 8 for h in memory.rows.values())
    memory.limit = 40
    ask([[1, 2, 3]])
    assert memory.bytes <= 40


def test_more_layers_than_there_are_is_refused(actors_of: Callable[..., Actors]) -> None:
    with pytest.raises(RecipeError, match="train_layers is 3, but the model has 2 layers"):
        actors_of(dpo, train_layers=3)


def test_a_reward_model_of_the_top_layers_learns_its_head(world: Path, actors_of: Callable[..., Actors]) -> None:
    value = actors_of(ppo, reward="reward").value
    assert {n for n, p in value.named_parameters() if p.requires_grad} >= {"score.weight", "score.bias"}
    assert load.scalar_head(value) == "score"
