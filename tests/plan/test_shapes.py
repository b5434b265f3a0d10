"""Sizes and bytes worked out by hand, for models that are too large to be run here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kilter.models import classes, decode, draw, fused, head, layout, lora, sample
from kilter.models.logprobs import FORWARD_TOKENS
from kilter.plan import memory, stages
from kilter.plan.memory import GIB, Pass, Role, Sampled, Settings
from kilter.plan.shapes import Shape, shape_of

LLAMA2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
QLORA = Settings(dtype="bfloat16", lora_rank=16, quantize="nf4", checkpointing=True, cuda=True)


@pytest.fixture(scope="module")
def llama() -> Shape:
    from transformers import LlamaConfig

    return shape_of(LlamaConfig(**LLAMA2_7B))


def four(shape: Shape, base: tuple[str, str, str, str] = ("base",) * 4) -> list[Role]:
    """PPO's roles, each over the base that is named."""
    kinds = (("policy", "causal"), ("reference", "causal"), ("reward", "reward"), ("value", "value"))
    return [
        Role(name, kind, shape, at, name in ("policy", "value")) for (name, kind), at in zip(kinds, base, strict=True)
    ]


def test_the_parameters_of_a_llama_of_7b(llama: Shape) -> None:
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert llama.parameters == 2 * 32000 * 4096 + 32 * block + 4096 == 6_738_415_616
    assert llama.adapter(16) == 16 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) == 39_976_960


def test_its_weights_in_sixteen_and_in_four_bits(llama: Shape) -> None:
    policy = [Role("policy", "causal", llama)]
    assert memory.weights(policy, Settings(dtype="bfloat16")) == 2 * 6_738_415_616
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    rest = 6_738_415_616 - linear
    four_bits = linear * (4 + 8 / 64 + 32 / (64 * 256)) / 8  # codes, a byte of scale per 64, four bytes per 256 scales
    assert memory.weights(policy, QLORA) == pytest.approx(four_bits + 2 * rest)
    assert 3.5 < memory.weights(policy, QLORA) / GIB < 3.9


def test_full_training_takes_sixteen_bytes_a_parameter(llama: Shape) -> None:
    learning = [Role("policy", "causal", llama, learns=True)]
    s = Settings(dtype="bfloat16")
    at_rest = memory.held(learning, s)
    assert at_rest.weights == 2 * llama.parameters
    assert at_rest.optimizer == (4 + 8) * llama.parameters  # float32 masters, two moments
    assert memory.gradients(learning[0], s) == 4 * llama.parameters  # beside masters, so in float32
    # two bytes of weight, four of gradient, four of master, eight of AdamW: where gradients stay in 16 bits it is 16


def test_a_token_of_keys_and_values_takes_half_a_mebibyte(llama: Shape) -> None:
    one = memory.stores(llama, Settings(dtype="bfloat16"), Sampled(rows=1, prompt=1, answer=0))
    assert one == 2 * 32 * 4096 * 2 == 512 * 1024


def test_answers_to_one_prompt_keep_its_keys_once(llama: Shape) -> None:
    s, alone, group = Settings(), Sampled(8, 100, 10, 1), Sampled(8, 100, 10, 8)
    token = 2 * 32 * 4096 * 4
    assert memory.stores(llama, s, alone) == 8 * (100 + 10) * token
    assert memory.stores(llama, s, group) == (100 + 8 * 10) * token


def test_four_roles_on_one_backbone_and_four_of_their_own(llama: Shape) -> None:
    together, apart = four(llama), four(llama, ("a", "b", "c", "d"))
    assert [b.roles for b in memory.backbones(together, QLORA)] == [("policy", "reference", "reward", "value")]
    assert len(memory.backbones(apart, QLORA)) == 4
    trunk = memory.weights([Role("reward", "reward", llama)], QLORA)
    head_bytes = 2 * 32000 * 4096
    assert memory.weights(apart, QLORA) == pytest.approx(2 * (trunk + head_bytes) + 2 * trunk)
    assert memory.weights(together, QLORA) == pytest.approx(trunk + head_bytes)


def test_ppo_of_7b_in_four_bits_stays_inside_14_gib(llama: Shape) -> None:
    """8 sequences of 512 tokens in a micro-batch, 16 answers of 512 after prompts of 512: as the published formulas."""
    roles, p = four(llama), Pass(4096, 2048)
    update = memory.update(roles, QLORA, {"policy": p, "value": p})
    rollout = memory.rollout(roles, QLORA, Sampled(16, 512, 512, 1, 16))
    assert update.weights + update.adapters + update.optimizer + update.gradients == pytest.approx(
        3.600 * GIB + 2 * 16 * 39_976_960, rel=0.001
    )
    assert rollout.cache == 8 * GIB
    assert 7 * GIB < update.total < 8.5 * GIB
    assert 12.5 * GIB < rollout.total < 14.5 * GIB


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_counts_what_the_model_has(
    make_model: Callable[..., Any], model_config: Callable[..., Any], family: str, tied: bool
) -> None:
    model = make_model(family, tie_word_embeddings=tied)
    shape = shape_of(model.config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.trunk == sum(p.numel() for p in model.base_model.parameters())
    linear = lora.linear_layers(model)
    assert shape.layers * shape.block_linear == sum(int(m.weight.numel()) for m in linear.values())
    for targets in ((), (shape.names[0],), (shape.names[0], shape.names[-1])):
        adapters = lora.fresh_adapters(model, 4, 8.0, ("key",), torch.float32, targets=targets)
        parameters = sum(p.numel() for a in adapters.values() for p in a.parameters())
        assert shape.adapter(4, targets=targets) == parameters


def test_a_qwen3_with_heads_of_their_own_width_is_counted() -> None:
    from transformers import Qwen3Config

    config = Qwen3Config(
        vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    model = classes.KIND["causal"].from_config(config)
    assert shape_of(config).parameters == sum(p.numel() for p in model.parameters())


def test_what_the_plan_repeats_is_what_the_engine_does() -> None:
    assert (memory.TILE_BYTES, memory.KEEP_BYTES) == (head.TILE_BYTES, head.KEEP_BYTES)
    assert (memory.PACK_BELOW, memory.PACK_ROWS) == (decode.PACK_BELOW, decode.PACK_ROWS)
    assert (memory.JOIN_BYTES, memory.PREFILL_TOKENS) == (decode.JOIN_BYTES, decode.PREFILL_TOKENS)
    assert (memory.PACK_BELOW, memory.LARGE, memory.DRAWN_TILE) == (draw.PACK_BELOW, draw.LARGE, draw.TILE * draw.BLOCK)
    assert (memory.ATTENTION_AREA, memory.QUERY_BLOCK) == (layout.ATTENTION_AREA, layout.BLOCK)
    assert memory.REMEMBERED == layout.REMEMBERED
    assert (memory.ATTENTION_TILE, memory.KEPT_KEYS) == (fused.TILE, fused.KEPT_KEYS)
    assert stages.FORWARD_TOKENS == FORWARD_TOKENS
    assert {"cpu": sample.ROWS["cpu"], "cuda": sample.ROWS["other"]} == stages.ROWS
