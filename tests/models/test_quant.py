"""Four-bit weights: the layer computes with its dequantised weight, and views over it are exact at step 0."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

from kilter import config
from kilter.errors import RecipeError
from kilter.methods import dpo, ppo
from kilter.models import load, logprobs, lora, quant, views
from kilter.models.roles import Actors, load_actors

SEQUENCES = [[9, 8, 7, 6, 5, 44, 45], [30, 40, 50, 60], [7, 7, 7, 200, 201, 202, 1]]
STARTS = [3, 2, 4]


def actors_of(method: Any, **given: Any) -> Actors:
    name = method.__name__.rpartition(".")[2]
    values = {
        "data": "d",
        "lora_rank": 4,
        "quantize": "nf4",
        **{k: str(v) if isinstance(v, Path) else v for k, v in given.items()},
    }
    return load_actors(method, config.build(method.Config, values, name), 1, name)


def logps(model: Any) -> torch.Tensor:
    return torch.cat(logprobs.answer_logps(model, SEQUENCES, STARTS)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_its_dequantised_weight_with_and_without_gradient(dtype: torch.dtype, bias: bool) -> None:
    """bitsandbytes' own layer repacks itself at the first call without a gradient; then the next one's is gone."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(128, 192, bias=bias).to(dtype)
    layer = quant.Linear4bit(plain)
    weight = layer.dequantised()
    assert weight.dtype == dtype
    x = torch.randn(3, 5, 128, dtype=dtype)
    for _ in range(2):
        with torch.no_grad():
            quiet = layer(x)
        given = x.clone().requires_grad_(True)
        loud = layer(given)
        assert torch.equal(quiet, loud)
        assert torch.equal(quiet, F.linear(x, weight, plain.bias))
        loud.float().square().sum().backward()
        reference = x.clone().requires_grad_(True)
        F.linear(reference, weight, plain.bias).float().square().sum().backward()
        assert (given.grad - reference.grad).abs().max() <= 1e-2 * reference.grad.abs().max()
    assert 0.05 < (weight - plain.weight).float().std() / plain.weight.float().std() < 0.15  # four bits of error


def test_the_trunk_is_in_four_bits_and_the_rest_is_not(world: Path) -> None:
    policy = actors_of(dpo, model=world / "qwen2", dtype="bfloat16").policy
    layers = lora.linear_layers(policy.model)
    assert len(layers) == 14
    assert all(isinstance(m, quant.Linear4bit) for m in layers.values())
    assert {p.dtype for n, p in policy.named_parameters() if p.requires_grad} == {torch.float32}
    assert policy.get_input_embeddings().weight.dtype == torch.bfloat16
    assert isinstance(policy.get_output_embeddings(), torch.nn.Linear)
    weights = sum(m.in_features * m.out_features for m in layers.values())
    assert sum(m.weight.numel() for m in layers.values()) == weights / 2


def test_layers_are_packed_one_by_one(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device never holds more than a layer or two in full."""
    alive: list[weakref.ref[torch.nn.Linear]] = []
    most = 0

    class Counted(quant.Linear4bit):
        def __init__(self, layer: torch.nn.Linear) -> None:
            nonlocal most
            super().__init__(layer)
            alive.append(weakref.ref(layer))
            most = max(most, sum(ref() is not None for ref in alive))

    monkeypatch.setattr(quant, "Linear4bit", Counted)
    actors_of(dpo, model=world / "llama")
    assert (len(alive), most) == (14, 1)


def test_a_large_layer_takes_little_more_than_half_a_byte_a_weight() -> None:
    layer = quant.Linear4bit(torch.nn.Linear(1024, 1024, bias=False))
    assert layer.bytes() / 1024**2 == pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256, abs=0.002)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_policy_starts_at_its_reference_to_the_bit(
    world: Path, tmp_path: Path, tokenizer: Any, family: str
) -> None:
    """Also from an adapter, which stays beside the four-bit weights and is never merged into them."""
    start = actors_of(dpo, model=world / family)
    assert torch.equal(logps(start.policy), logps(start.reference))
    with torch.no_grad():
        for name, p in start.policy.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
    views.save_view(start.policy, tokenizer, tmp_path)
    again = actors_of(dpo, model=tmp_path)
    assert torch.equal(logps(again.policy), logps(again.reference))
    assert torch.equal(logps(again.reference), logps(start.policy))
    assert again.reference.base == str(world / family)


def test_gradients_are_the_same_with_and_without_checkpointing(world: Path, tmp_path: Path, tokenizer: Any) -> None:
    found = []
    for on in (False, True):
        actors = actors_of(ppo, model=world / "llama", reward=world / "llama", checkpointing=on)
        with torch.no_grad():
            logps(actors.reference)
        said = logps(actors.policy)
        values = torch.cat(logprobs.token_values(actors.value, SEQUENCES, STARTS))
        with torch.no_grad():
            logps(actors.reference)
        (said.sum() + (values - 1).square().sum()).backward()
        found.append([p.grad for r in ("policy", "value") for p in actors[r].parameters() if p.requires_grad])
    assert any(g.any() for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_merged_folder_holds_what_was_trained(world: Path, tmp_path: Path, tokenizer: Any) -> None:
    policy = actors_of(dpo, model=world / "llama").policy
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
    views.save_merged(policy, tokenizer, tmp_path)
    plain = load.load(str(tmp_path), "causal")
    assert (logps(plain) - logps(policy)).abs().max() < 1e-4
    assert (logps(plain) - logps(load.load(str(world / "llama"), "causal"))).abs().max() > 0.1


def test_what_four_bits_cannot_do_is_refused(world: Path) -> None:
    with pytest.raises(RecipeError, match="set dtype to one of them"):
        actors_of(dpo, model=world / "llama", dtype="float64")
    with pytest.raises(RecipeError, match=r"no nn\.Linear layers to put into four bits"):
        actors_of(dpo, model=world / "gpt2")


def test_sampling_and_scoring_agree(world: Path, make_tokenizer: Callable[..., Any]) -> None:
    from kilter.models.sample import Sampling, sample

    policy = actors_of(dpo, model=world / "llama").policy
    prompts = [[9, 8, 7], [30, 40, 50, 60]]
    drawn = sample(policy, prompts, [("a",), ("b",)], Sampling(max_new=8), 1)
    sequences = [p + a.ids for p, a in zip(prompts, drawn, strict=True)]
    with torch.no_grad():
        found, _ = logprobs.answer_logps(policy, sequences, [len(p) for p in prompts])
    for row, answer in zip(found, drawn, strict=True):
        assert (row - torch.tensor(answer.logps)).abs().max() < 1e-4
