"""The packed step gives what the layers' own modules give, whoever comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kilter.models import decode, lora, packed
from kilter.models.decode import Decoder
from kilter.models.forward import ways_of
from kilter.models.load import backbone


def run(model: Any, lanes: list[int], pack: bool, steps: int = 12) -> list[torch.Tensor]:
    """Hidden states of a script in which rows of unequal prompts come late and leave early."""
    draw = np.random.default_rng(7)
    prompts = [draw.integers(5, 90, int(n)).tolist() for n in draw.integers(1, 14, len(lanes))]
    shape = ways_of(model).lean
    assert shape is not None
    with torch.no_grad(), lora.playing("policy"):
        decoder = Decoder(backbone(model), shape, max(lanes) * len(lanes), max(lanes), 14, steps + 1, pack=pack)
        assert (decoder.layers[0].packed is not None) == pack
        late = len(lanes) // 2
        states = [decoder.admit(prompts[:late], lanes[:late])]
        for t in range(steps):
            states.append(decoder.step(torch.from_numpy(draw.integers(5, 90, len(decoder)))))
            if t == 3:
                states.append(decoder.admit(prompts[late:], lanes[late:]))
            if t % 4 == 2:
                decoder.keep(np.flatnonzero(draw.random(len(decoder)) < 0.7))
    return states


def unlike(model: Any) -> Any:
    """With norms whose weights differ from one, and adapters that change something."""
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.mul_(torch.rand(p.shape, generator=draws, dtype=p.dtype) + 0.5)
    stacks: dict[str, list[lora.Adapter]] = {}
    for name, layer in lora.linear_layers(model).items():
        if "q_proj" in name or "down_proj" in name:
            adapter = lora.Adapter.fresh(layer, 3, 6.0, ("test", name), next(layer.parameters()).dtype)
            torch.nn.init.normal_(adapter.lora_B, std=0.2, generator=draws)
            stacks[name] = [adapter]
    lora.attach(model, {"policy": stacks, "other": {}})
    return model


@pytest.mark.parametrize("join", [0, 1 << 30])
@pytest.mark.parametrize("lanes", [[1] * 12, [3, 3, 3, 3], [1, 4, 2, 4, 3]])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-5)])
def test_packed_weights_give_what_the_layers_give(
    make_model: Callable[..., Any],
    true_float64: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    lanes: list[int],
    join: int,
    dtype: str,
    bound: float,
) -> None:
    """The plain step reads shared prompts by slot, so this compares both arrangements of the stores, too."""
    monkeypatch.setattr(packed, "BLOCKED", 1000)  # some of its matrices in either layout
    model = unlike(true_float64(make_model(family, dtype=dtype, **({"head_dim": 12} if family == "qwen3" else {}))))
    with lora.playing("policy"):
        assert ways_of(model).lean is not None
    monkeypatch.setattr(decode, "JOIN_BYTES", 0)
    plain = run(model, lanes, False)
    monkeypatch.setattr(decode, "JOIN_BYTES", join)
    found = run(model, lanes, True)
    assert len(plain) == len(found) == 14
    for a, b in zip(plain, found, strict=True):
        assert (a - b).abs().max() < bound * max(1.0, float(a.abs().max()))


def test_products_are_the_same_on_one_thread_and_on_more(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(s, generator=draws, dtype=torch.float64) for s in ((5, 2, 3, 8), (5, 2, 40, 8)))
    outs = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        room = torch.zeros(5, 2, 3, 30, dtype=torch.float64)
        packed.product(a, b[:, :, :20].transpose(-1, -2), room[..., 10:])
        outs.append(room)
    assert (outs[0] - outs[1]).abs().max() < 1e-12
    assert (outs[0][..., :10] == 0).all()


def test_what_cannot_be_packed_goes_by_its_layers(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    shape = ways_of(model).lean
    assert shape is not None
    open_for = lambda rows: Decoder(backbone(model), shape, rows, 1, 4, 4).layers[0].packed  # noqa: E731
    assert open_for(16) is not None
    assert open_for(1) is None
    monkeypatch.setattr(decode, "PACK_BELOW", 10)
    assert open_for(16) is None
    monkeypatch.undo()
    model.base_model.layers[1].mlp.up_proj = torch.nn.Sequential(model.base_model.layers[1].mlp.up_proj)
    assert open_for(16) is None
