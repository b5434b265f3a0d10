"""LoRA: an adapter changes nothing before its first step, and its folder gives PEFT and kilter the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kilter.errors import RecipeError
from kilter.models import load, logprobs, lora

IDS = torch.tensor([[9, 8, 7, 6, 5, 44, 45], [30, 40, 50, 60, 70, 80, 1]])


def adapted(folder: Path, kind: str = "causal", rank: int = 4, alpha: float = 16.0, dtype: str = "float32") -> Any:
    """A model with adapters moved off zero."""
    model = load.load(str(folder), kind, dtype)
    model.requires_grad_(False)
    lora.attach(model, rank, alpha, (1, "here", kind))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in lora.adapters(model).values():
            layer.lora_B.copy_(0.3 * torch.randn(layer.lora_B.shape, generator=generator))
        if kind != "causal":
            head = getattr(model, load.scalar_head(model))
            for p in head.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_adapter_changes_nothing_before_its_first_step(world: Path, family: str) -> None:
    plain, model = (load.load(str(world / family), "causal") for _ in range(2))
    lora.attach(model, 4, 16.0, ("key",))
    assert torch.equal(model(IDS).logits, plain(IDS).logits)
    assert len(lora.adapters(model)) == 14  # q, k, v, o, gate, up, down in two layers


def test_only_adapters_and_a_scalar_head_learn(world: Path) -> None:
    for kind in ("causal", "reward"):
        model = adapted(world / "llama", kind)
        learning = {n for n, p in model.named_parameters() if p.requires_grad}
        assert all("lora_" in n or n.startswith("score") for n in learning)
        assert len(learning) == 28 + (kind == "reward")


def test_the_adapter_computes_its_formula(world: Path) -> None:
    layer = next(iter(lora.adapters(adapted(world / "llama", rank=4, alpha=6.0)).values()))
    x = torch.randn(3, layer.base.in_features)
    with torch.no_grad():
        wanted = x @ layer.base.weight.T + (6.0 / 4) * (x @ layer.lora_A.T @ layer.lora_B.T)
        assert (layer(x) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_adapter_folder_loads_in_peft_and_gives_the_same_logits(world: Path, tmp_path: Path, family: str) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = adapted(world / family, alpha=10.0)
    lora.save_adapter(model, str(world / family), 4, 10.0, tmp_path)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / family), tmp_path).eval()
    plain = load.load(str(world / family), "causal")
    with torch.no_grad():
        assert (theirs(IDS).logits - model(IDS).logits).abs().max() < 1e-5
        assert (plain(IDS).logits - model(IDS).logits).abs().max() > 0.1
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()  # finds its base by itself
    with torch.no_grad():
        assert (again(IDS).logits - model(IDS).logits).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["reward", "value"])
def test_a_trained_head_survives_the_round_trip_in_peft_and_here(world: Path, tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft")
    model = adapted(world / "reward", kind)
    lora.save_adapter(model, str(world / "reward"), 4, 16.0, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == {"reward": "SEQ_CLS", "value": "TOKEN_CLS"}[kind]
    base = load.KIND[kind].from_pretrained(world / "reward", num_labels=1)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    ours = load.load(str(tmp_path), kind)
    with torch.no_grad():
        wanted = model(IDS).logits
        assert (theirs(IDS).logits - wanted).abs().max() < 1e-5
        assert (ours(IDS).logits - wanted).abs().max() < 1e-5
        assert (load.load(str(world / "reward"), kind)(IDS).logits - wanted).abs().max() > 0.1


def test_an_adapter_made_by_peft_loads_here(world: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world / "llama")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        assert (load.load(str(tmp_path), "causal")(IDS).logits - theirs(IDS).logits).abs().max() < 1e-5
    assert load.context_of(str(tmp_path)) == 128  # the rest of what a recipe asks of a model folder
    assert load.load_tokenizer(str(tmp_path)).chat_template


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_rslora": True}, "use_rslora"),
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    world: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    lora.save_adapter(adapted(world / "llama"), str(world / "llama"), 4, 16.0, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecipeError, match=message):
        load.load(str(tmp_path), "causal")


@pytest.mark.parametrize("kind", ["causal", "reward"])
def test_the_merged_folder_gives_the_same_numbers(world: Path, tmp_path: Path, tokenizer: Any, kind: str) -> None:
    model = adapted(world / "reward" if kind == "reward" else world / "llama", kind, dtype="float64")
    plain = lora.merge_copy(model)
    assert not lora.adapters(plain)
    load.save(plain, tokenizer, tmp_path)
    again = load.KIND[kind].from_pretrained(tmp_path, dtype=torch.float64).eval()
    with torch.no_grad():
        assert (again(IDS).logits - model(IDS).logits).abs().max() < 1e-10
        assert len(lora.adapters(model)) == 14  # the model itself is left as it is
        if kind == "reward":
            found = logprobs.scores(load.load(str(tmp_path), kind, "float64"), IDS.tolist())
            assert (found - logprobs.scores(model, IDS.tolist())).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["causal", "reward"])
def test_a_model_without_linear_layers_is_refused(world: Path, kind: str) -> None:
    model = load.load(str(world / "gpt2"), kind)  # GPT-2's layers are Conv1D
    with pytest.raises(RecipeError, match=r"no nn\.Linear layers below its head"):
        lora.attach(model, 4, 16.0, ("key",))


def test_two_models_in_one_backward_get_their_own_gradients(world: Path) -> None:
    """No global switch: gradients of a policy and of its base in one graph are those of two separate passes."""
    first, second = adapted(world / "llama", dtype="float64"), adapted(world / "llama", rank=2, dtype="float64")
    together = first(IDS).logits.sum() * 2 + second(IDS).logits.sum()
    together.backward()
    grads = [p.grad.clone() for m in (first, second) for p in m.parameters() if p.requires_grad]
    for m in (first, second):
        m.zero_grad()
    (first(IDS).logits.sum() * 2).backward()
    second(IDS).logits.sum().backward()
    alone = [p.grad for m in (first, second) for p in m.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(grads, alone, strict=True))
